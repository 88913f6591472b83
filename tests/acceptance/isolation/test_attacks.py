"""No attack gets through what `rosey-storage apply` makes; each gets through something weaker."""

from __future__ import annotations

import pytest

from acceptance.isolation.attacks import ATTACKS
from acceptance.isolation.worlds import strong, weak
from rosey_deploy.stack.nats import NatsServer
from support.secure import Installation


@pytest.mark.parametrize("name", ATTACKS)
async def test_no_attack_gets_through(name: str, installation: Installation, plugin: str) -> None:
    """With a plugin's own credentials nothing of another plugin is reached."""
    world = await strong(installation, plugin, admin=False)
    async with world.stack:
        assert not await ATTACKS[name][1](world)
        assert await world.secret() == b'"the victim\'s secret"'


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
async def test_not_even_as_the_accounts_administrator(
    name: str, installation: Installation, plugin: str
) -> None:
    """Whoever steals the administrator of one plugin's account reaches nothing of another's."""
    world = await strong(installation, plugin, admin=True)
    async with world.stack:
        assert not await ATTACKS[name][1](world)


@pytest.mark.parametrize("name", ATTACKS)
async def test_each_attack_is_one(name: str, weak_nats: NatsServer) -> None:
    """Each gets through a configuration that lacks what stops it: so the tests above can fail."""
    weakness, attack = ATTACKS[name]
    world = await weak(weak_nats, weakness)
    async with world.stack:
        assert await attack(world)
