"""Which tests run on containers: said here, and nowhere else.

Every suite stands in its usual place and runs as it is. What is left out is left out by the value of a
parameter (a database that is no container) or by name, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from attrs import field, frozen

__all__ = ["is_selected", "may_hold_tests"]

TESTS = Path(__file__).parents[2]


@frozen(kw_only=True)
class Suite:
    """Tests of a file or folder.

    Attributes:
        path: Below `tests/`.
        database: Its tests reach Postgres, and run on every version of it.
        without: Values of parameters that run on no container.
        leave_out: Tests by name, all or one of their parameters, and why.
    """

    path: str
    database: bool = True
    without: frozenset[str] = frozenset({"sqlite", "memory"})
    leave_out: dict[str, str] = field(factory=dict)


SUITES = (
    Suite(
        path="contract/kv",
        database=False,
        leave_out={
            "test_random_calls[jetstream-1-1000]": "takes 45 s; 120 random calls run",
            "test_random_calls[secure-1-1000]": "takes 45 s; 120 random calls run",
        },
    ),
    Suite(
        path="contract/rows",
        # `postgres` is the engine in the tests' own process; `secure` asks the image over NATS.
        without=frozenset({"sqlite", "postgres"}),
        leave_out={
            "test_ten_thousand_random_requests_have_one_answer": "takes minutes; the other random ones run",
            "test_postgres_folds_as_the_engine_does": "is about the cluster that the embedded server makes",
            "test_postgres_orders_by_code_point": "is about the cluster that the embedded server makes",
        },
    ),
    Suite(
        path="integration/migrations",
        leave_out={
            "test_a_failure_is_an_event_and_a_log_line": "reads the log in the service's own process",
            "test_the_kernel_holds_without_python": "is asked of the container in integration/containers",
        },
    ),
    Suite(path="acceptance/migrations/test_concurrent.py"),
    Suite(path="acceptance/migrations/test_quotes_history.py"),
    # The engine in the tests' own process: what it says to Postgres, on both versions.
    Suite(
        path="integration/databases",
        leave_out={"test_text_of_this_server": "is about the cluster that the embedded server makes"},
    ),
    Suite(path="acceptance/isolation/test_attacks.py", database=False),
    Suite(path="acceptance/isolation"),
    Suite(path="integration/kv_cli", database=False),
    Suite(
        path="acceptance/client/test_modes.py",
        without=frozenset({"dev-sqlite", "local-file", "local-memory"}),
    ),
    Suite(
        path="acceptance/client/test_demo.py",
        without=frozenset({"local"}),
        leave_out={
            "test_the_demo_runs_again_on_kept_data": "is local mode",
            "test_the_demo_fails_with_a_reason": "has no server",
            "test_the_demo_stops_on_ctrl_c": "is local mode",
        },
    ),
    Suite(path="integration/containers", database=False),
)


def may_hold_tests(path: Path) -> bool:
    """Say whether a file or folder is worth collecting."""
    for suite in SUITES:
        wanted = TESTS / suite.path
        if path == wanted or path in wanted.parents or wanted in path.parents:
            return True
    return False


def is_selected(item: pytest.Item, *, database_only: bool) -> bool:
    """Say whether a collected test runs."""
    suite = _suite_of(item.path)
    if suite is None or (database_only and not suite.database):
        return False
    if not suite.leave_out.keys().isdisjoint({item.name, item.name.split("[")[0]}):
        return False
    return suite.without.isdisjoint(_values(item))


def _suite_of(path: Path) -> Suite | None:
    for suite in SUITES:
        wanted = TESTS / suite.path
        if path == wanted or wanted in path.parents:
            return suite
    return None


def _values(item: pytest.Item) -> Iterable[str]:
    callspec = getattr(item, "callspec", None)
    return () if callspec is None else [value for value in callspec.params.values() if type(value) is str]
