"""`pytest --containers`: the option, what it selects, the run's beginning and its end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.containers.selection import is_selected, may_hold_tests

_ALL, _OLDEST = "all", "oldest-postgres"
# Databases of others sort by language where the embedded server's sort by code point: answers may not differ.
_BY_LANGUAGE = "--locale-provider=icu --icu-locale=en-US"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.addoption(
        "--containers",
        choices=(_ALL, _OLDEST),
        help="run the suites that stand in support/containers/selection.py on containers; oldest-postgres:"
        " those that reach Postgres, on its oldest version",
    )


def _wanted(config: pytest.Config) -> bool:
    return config.getoption("--containers") is not None


def _is_controller(config: pytest.Config) -> bool:
    return not hasattr(config, "workerinput")  # pytest-xdist's mark of a worker


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave alone what does not run on containers; without the option, what runs on nothing else."""
    if _wanted(config):
        return None if may_hold_tests(collection_path) else True
    return True if collection_path.match("tests/integration/containers") else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep what runs on containers; without the option, what does not run on them alone."""
    if _wanted(config):
        database_only = config.getoption("--containers") == _OLDEST
        kept = [item for item in items if is_selected(item, database_only=database_only)]
    else:
        kept = [item for item in items if item.get_closest_marker("containers") is None]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
    items[:] = kept


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Clear away what earlier runs left, have the images, and begin; workers find all of it done."""
    if not (_wanted(config) and _is_controller(config)) or config.option.collectonly:
        return
    # Testcontainers' own way to clear away wants a helper's image pulled, and Docker's socket inside of it.
    # This suite removes by label, after a crash at the next start; whoever wants both sets it to false.
    os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
    from support.containers.images import NoDocker, images
    from support.containers.run import Run, remove_abandoned

    oldest = config.getoption("--containers") == _OLDEST
    reporter = config.pluginmanager.get_plugin("terminalreporter")

    def say(line: str) -> None:
        if reporter is not None:
            reporter.write_line(line)

    try:
        chosen = images(say, oldest_postgres=oldest)
    except NoDocker as error:
        raise pytest.UsageError(str(error)) from error
    for name in remove_abandoned():
        say(f"Removed what the run {name} left behind.")
    config.stash[_RUN] = Run.begin(chosen, initdb=_BY_LANGUAGE if oldest else "")


_RUN: pytest.StashKey = pytest.StashKey()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A run that tested no container proves nothing."""
    run = session.config.stash.get(_RUN, None)
    if run is not None and not run.started() and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how much ran on what."""
    run = terminalreporter.config.stash.get(_RUN, None)
    if run is None:
        return
    started = run.started()
    passed = len(terminalreporter.getreports("passed"))
    of = ", ".join(f"{count} of {_named(image)}" for image, count in sorted(started.items()))
    terminalreporter.write_sep("=", "containers")
    for line in run.told():
        terminalreporter.write_line(line)
    if started:
        total = started.total()
        terminalreporter.write_line(
            f"{_counted(passed, 'test')} passed on {_counted(total, 'container')}: {of}."
        )
    else:
        terminalreporter.write_line("No container was started: this run has proved nothing, and fails.")


def _named(image: str) -> str:
    from support.containers.images import SERVICE

    return SERVICE if image.startswith("sha256:") else image


def _counted(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove everything that was started, after the workers have ended."""
    run = config.stash.get(_RUN, None)
    if run is not None:
        run.end()
