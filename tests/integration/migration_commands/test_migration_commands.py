"""`rosey-storage migrations …`, run as a person and as a program run it."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from rosey_deploy.stack.nats import NatsServer
from rosey_deploy.stack.service import RowService
from support.migrations import Folder

NOTES = 'op.create_table("notes", *service_columns(), sa.Column("text", sa.Text))'
DECLARED = """
import sqlalchemy as sa
from rosey_rowstore.migrations.columns import Decimal, service_columns

metadata = sa.MetaData()
sa.Table("notes", metadata, *service_columns(), sa.Column("text", sa.Text), sa.Column("stars", sa.Integer))
sa.Table("prices", metadata, *service_columns(), sa.Column("price", Decimal(10, 2), nullable=False))
"""


@frozen
class Command:
    """The command, for one plugin."""

    folder: Folder
    settings: dict[str, str]

    def start(self, name: str, *arguments: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("ROSEY_")}
        return subprocess.Popen(
            [sys.executable, "-m", "rosey_deploy", "migrations", name, self.folder.plugin, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            env={**clean, **self.settings, "COLUMNS": "120", "TERM": "xterm", "TZ": "UTC"},
        )

    def run(self, name: str, *arguments: str, status: int = 0) -> str:
        """Run it piped and return what it printed, stderr where it fails."""
        process = self.start(name, *arguments)
        out, errors = process.communicate(timeout=60)
        assert process.returncode == status, out + errors
        assert "Traceback" not in errors
        if not status:
            assert errors == ""
        return errors if status else out

    def status(self) -> dict[str, Any]:
        """Return the status, as a program reads it."""
        found: dict[str, Any] = json.loads(self.run("status"))
        return found


@pytest.fixture
def folder(tmp_path: Path, plugin: str) -> Folder:
    made = Folder(tmp_path / "bot", plugin)
    made.write("0001", NOTES, 'op.drop_table("notes")')
    made.write(
        "0002", 'op.add_column("notes", sa.Column("n", sa.BigInteger))', 'op.drop_column("notes", "n")'
    )
    return made


@pytest.fixture
def local(folder: Folder, tmp_path: Path) -> Command:
    """In local mode, with the database at hand."""
    settings = {"URL": "sqlite:", "DATA": str(tmp_path / "data"), "PLUGINS": str(folder.toml)}
    return Command(folder, {f"ROSEY_STORAGE_{name}": value for name, value in settings.items()})


@pytest.fixture
def served(folder: Folder, nats_server: NatsServer, tmp_path: Path) -> Iterator[Command]:
    """By a row service, over NATS."""
    service = RowService(
        tmp_path / "service.log",
        url=nats_server.url,
        database=f"sqlite:{tmp_path / 'rows'}",
        subject=folder.plugin,
        plugins=folder.toml,
    )
    service.start()
    try:
        yield Command(folder, {"ROSEY_STORAGE_URL": nats_server.url, "ROSEY_STORAGE_SUBJECT": folder.plugin})
    finally:
        service.stop()


def test_a_history_forward_and_back(local: Command) -> None:
    """Status, apply, apply again, roll back, and each says what it did."""
    assert [step["revision"] for step in local.status()["pending"]] == ["0001", "0002"]
    lines = local.run("apply").splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [["✓", "0001"], ["✓", "0002"]]
    assert re.fullmatch(rf"{local.folder.plugin}: 2 revisions applied in \d+\.\d\d s", lines[2])
    assert local.run("apply") == f"{local.folder.plugin} stands at 0002; nothing to do.\n"
    assert "1 revision rolled back" in local.run("rollback", "0001")
    found = local.status()
    assert (found["current"], found["drift"], found["running"]) == ("0001", [], None)


def test_sql_is_what_would_be_run_and_nothing_else(local: Command) -> None:
    """It can be piped into a file; nothing has changed."""
    text = local.run("sql")
    assert text.startswith("-- 0001\nCREATE TABLE notes")
    assert "ALTER TABLE notes ADD COLUMN n" in text
    assert text == local.run("apply", "--dry-run")
    assert local.status()["current"] is None


def test_a_failure_shows_where(local: Command) -> None:
    """The revision that failed, what the database said, and that nothing is changed; one error, once."""
    local.folder.write("0003", 'op.execute("SELECT nonsense")')
    errors = local.run("apply", status=1)
    assert errors.count("migration_failed") == 1
    assert "The revision '0003' failed: no such column: nonsense" in errors
    assert "The schema is as before." in errors
    assert f"line {local.folder.line_of('0003', 'nonsense')}" in errors
    assert local.status()["current"] is None


def test_what_loses_has_to_be_meant(local: Command) -> None:
    """Refused with the option that allows it."""
    local.run("apply")
    local.folder.write("0003", 'op.drop_table("notes")')
    errors = local.run("apply", status=1)
    assert "destructive_migration" in errors
    assert "drops the table 'notes'" in errors
    assert "1 revision applied" in local.run("apply", "--allow-destructive")


def test_check_is_for_programs(local: Command) -> None:
    """`status --check` ends with 1 while something is pending."""
    local.run("status", "--check", status=1)
    local.run("apply")
    local.run("status", "--check")


def test_production_refuses_a_rollback_and_local_mode(local: Command, tmp_path: Path) -> None:
    """A rollback has to be allowed there, and the file of local mode is no place for it."""
    local.run("apply")
    local.settings["ROSEY_ENV"] = "production"
    assert "local_mode_refused" in local.run("status", status=1)
    database = f"sqlite:{tmp_path / 'data'}"
    assert "permission_denied" in local.run("rollback", "base", "--database", database, status=1)
    assert "rolled back" in local.run("rollback", "base", "--database", database, "--allow-rollback")


def test_where_the_revisions_are_has_to_be_known(local: Command) -> None:
    """Without plugins.toml and without --folder nothing can be applied; the error says what to give."""
    del local.settings["ROSEY_STORAGE_PLUGINS"]
    for name, arguments in (("apply", ()), ("new", ("x",))):
        assert "Give --folder" in local.run(name, *arguments, status=1)
    assert "2 revisions applied" in local.run("apply", "--folder", str(local.folder.path))


def test_a_new_revision_is_written_where_it_belongs(local: Command) -> None:
    """It follows the last, and it cannot be applied before it is written."""
    path = Path(local.run("new", "Count the stars").removeprefix("wrote ").strip())
    assert path == local.folder.versions / "0003_count_the_stars.py"
    assert "write this revision" in local.run("apply", status=1)


@pytest.mark.parametrize("at_hand", [True, False], ids=["database at hand", "none at hand"])
def test_a_revision_is_written_from_the_declared_tables(local: Command, at_hand: bool) -> None:
    """What tables.py declares and the schema lacks; applied, nothing is left to write, and it goes back."""
    (local.folder.path / "tables.py").write_text(DECLARED)
    if at_hand:
        assert "2 revisions are pending" in local.run("new", "More", "--autogenerate", status=1)
        local.run("apply")
    else:
        local.settings["ROSEY_STORAGE_URL"] = "nats://127.0.0.1:1"
    path = Path(local.run("new", "More", "--autogenerate").removeprefix("wrote ").strip())
    text = path.read_text()
    assert "from rosey_rowstore.migrations.columns import Decimal, service_columns\n" in text
    assert "*service_columns()" in text
    assert "batch_op.add_column(sa.Column('stars', sa.Integer(), nullable=True))" in text
    local.settings["ROSEY_STORAGE_URL"] = "sqlite:"
    local.run("apply", "--allow-destructive")  # the column n is not declared, and goes
    assert "nothing was written" in local.run("new", "Again", "--autogenerate")
    local.run("rollback", "0002")
    assert local.status()["drift"] == []


def test_a_bad_tables_py_is_told(local: Command) -> None:
    """Missing, broken, or without what it is for."""
    local.run("apply")
    assert "tables.py could not be read" in local.run("new", "x", "--autogenerate", status=1)
    for text, words in (("x = 1 / 0", "ZeroDivisionError"), ("x = 1", "declares no `metadata")):
        (local.folder.path / "tables.py").write_text(text)
        errors = local.run("new", "x", "--autogenerate", status=1)
        assert words in errors
        assert "Mend tables.py" in errors


def test_the_service_shows_each_revision_while_it_runs(served: Command) -> None:
    """Over NATS too a line appears when its revision is done, not when all are."""
    served.folder.write("0003", "import time; time.sleep(2)")
    began = time.monotonic()
    with served.start("apply") as process:
        assert process.stdout is not None
        seen = [(line, time.monotonic() - began) for line in process.stdout]
    assert process.returncode == 0
    lines = [line for line, _ in seen]
    assert [line.split()[:2] for line in lines[:3]] == [["✓", "0001"], ["✓", "0002"], ["✓", "0003"]]
    assert "3 revisions applied" in lines[3]
    assert seen[2][1] - seen[1][1] > 1
    assert served.run("apply") == f"{served.folder.plugin} stands at 0003; nothing to do.\n"
    assert "--allow-rollback needs the database at hand" in served.run(
        "rollback", "base", "--allow-rollback", status=1
    )
    assert "3 revisions rolled back" in served.run("rollback", "base")


def test_a_terminal_gets_a_table(local: Command) -> None:
    """Applied and pending revisions side by side, drift below."""
    local.run("apply", "0001")
    master, slave = pty.openpty()
    process = local.start("status", stdout=slave)
    os.close(slave)
    shown = b""
    with pytest.raises(OSError, match="Input/output"):  # Linux' way to say that the other end is closed
        while True:
            shown += os.read(master, 65536)
    os.close(master)
    process.communicate(timeout=30)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert f"{local.folder.plugin} stands at 0001" in text
    assert re.search(r"0001 +The revision 0001\. +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d +\d\.\d{3}", text)
    assert re.search(r"0002 +The revision 0002\. +pending", text)
