"""Tests that `test_runs.py` runs in a pytest of their own; no pattern collects them."""

from __future__ import annotations

import os
import time
from pathlib import Path

from rosey_deploy.stack.nats import NatsServer
from rosey_deploy.stack.postgres import PostgresServer


def test_holds_containers(nats_server: NatsServer, postgres_server: PostgresServer) -> None:
    """Has containers until it is killed."""
    Path(os.environ["ROSEY_TEST_SIGNAL"]).write_text(f"{nats_server.url} {postgres_server.dsn}")
    time.sleep(300)


def test_has_a_container(nats_server: NatsServer) -> None:
    """Passes, on a container."""
    assert nats_server.port


def test_has_no_container() -> None:
    """Passes, and proves nothing."""
