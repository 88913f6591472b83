"""What is selected for containers exists: a test that was renamed is not left out, or in, by mistake."""

from __future__ import annotations

import pytest

from support.containers.selection import SUITES, TESTS, Suite, may_hold_tests


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.path)
def test_a_suite_names_what_there_is(suite: Suite) -> None:
    """Its path stands below `tests/`, and every test that it leaves out is a test of it."""
    path = TESTS / suite.path
    files = [path] if path.is_file() else sorted(path.glob("test_*.py"))
    assert files, f"{suite.path} is not there"
    text = "\n".join(file.read_text() for file in files)
    missing = [name for name in suite.leave_out if f"def {name.split('[')[0]}(" not in text]
    assert missing == []


def test_what_runs_on_containers_has_every_part() -> None:
    """The contract suites, migrations, isolation, the `nats` tool and the reference plugin are in."""
    for path in (
        *("contract/kv", "contract/rows", "integration/migrations", "acceptance/isolation"),
        *("integration/kv_cli", "acceptance/client/test_modes.py", "acceptance/client/test_demo.py"),
    ):
        assert may_hold_tests(TESTS / path)
    assert not may_hold_tests(TESTS / "unit")
    assert not may_hold_tests(TESTS / "integration" / "service")
