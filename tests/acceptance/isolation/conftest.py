"""The surroundings in which attacks are tried."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from acceptance.isolation.worlds import weak_server
from rosey_deploy.stack.nats import NatsServer
from support.servers import Servers


@pytest.fixture(scope="session")
def weak_nats(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server with one account for all."""
    server = weak_server(servers, tmp_path_factory.mktemp("weak"))
    try:
        server.start()
        yield server
    finally:
        servers.discard(server)
