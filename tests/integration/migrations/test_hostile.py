"""Revisions that try to get out: each is contained, and the plugin works afterwards."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

import psycopg
import pytest

from rosey_rowstore.migrations import seccomp
from support.migrations import Caller, Folder, Refused, Serve, on_one, on_postgres, on_sqlite

KERNEL = seccomp.supported()


async def refused(call: Caller, folder: Folder, up: str) -> Refused:
    """Apply a revision that must fail, and show that nothing of it is left."""
    folder.write("0001", up, after=None)
    with pytest.raises(Refused) as caught:
        await call.apply()
    assert await call.tables() == []
    return caught.value


async def goes_on(call: Caller, folder: Folder) -> None:
    """Show that a good revision runs afterwards."""
    folder.write("0001", 'op.create_table("fine", *service_columns())', 'op.drop_table("fine")', after=None)
    assert await call.apply() == ["0001"]
    assert (await call.status())["drift"] == []


@pytest.fixture
async def neighbour(call: Caller, plugin: str) -> str:
    """Another plugin with a table `secrets`, on Postgres; its schema."""
    other = call.beside(f"{plugin}-other")
    await other("tables.define", table="secrets", columns=[{"name": "a", "type": "text"}])
    await other("rows.insert", table="secrets", rows=[{"a": "s3cret"}])
    return f'"plugin_{other.plugin}"'


@on_postgres
@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM {schema}.secrets",
        "INSERT INTO {schema}.secrets (a) VALUES ('x')",
        "DROP TABLE {schema}.secrets",
        "CREATE TABLE {schema}.mine (a int)",
        "ALTER TABLE {schema}.secrets ADD COLUMN b int",
        "SELECT * FROM rosey_service.logins",
        "UPDATE rosey_service.migration_steps SET sha256 = 'x'",
        "CREATE SCHEMA mine",
        "CREATE ROLE mine SUPERUSER",
        "COPY (SELECT 1) TO PROGRAM 'touch /tmp/rosey-was-here'",
        "SELECT pg_read_file('/etc/passwd')",
        "CREATE EXTENSION dblink",
    ],
)
async def test_another_schema_is_refused_by_postgres(
    call: Caller, folder: Folder, neighbour: str, statement: str
) -> None:
    """What is not the plugin's own, or is a superuser's, is `42501`, from Postgres itself."""
    error = await refused(call, folder, f'op.execute("""{statement.format(schema=neighbour)}""")')
    assert error.code == "migration_failed"
    assert error.details["sqlstate"] == "42501"


@on_postgres
@pytest.mark.parametrize(
    "words", ["RESET ROLE", "RESET SESSION AUTHORIZATION", "SET ROLE NONE", "SELECT 1; RESET ROLE"]
)
async def test_reset_role_leads_nowhere(call: Caller, folder: Folder, neighbour: str, words: str) -> None:
    """The login is the owner's own: there is no role behind it to go back to."""
    error = await refused(
        call, folder, f'op.execute("""{words}""")\nop.execute("""SELECT * FROM {neighbour}.secrets""")'
    )
    assert error.details["sqlstate"] == "42501"


@on_postgres
@pytest.mark.parametrize("role", ["postgres", "{rows}-other", "{rows}-other_owner"])
@pytest.mark.parametrize("words", ["SET ROLE", "SET SESSION AUTHORIZATION"])
async def test_set_role_is_refused(
    call: Caller, folder: Folder, neighbour: str, role: str, words: str
) -> None:
    """No other role can be taken, the service's and a neighbour's least of all."""
    name = role.format(rows=f"plugin_{folder.plugin}")
    error = await refused(call, folder, f"""op.execute('{words} "{name}"')""")
    assert error.details["sqlstate"] == "42501"


async def test_the_environment_holds_no_credentials(
    call: Caller, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child's environment is its own: nothing of the service's is in it."""
    monkeypatch.setenv("ROSEY_STORAGE_DATABASE", "postgresql://secret")
    monkeypatch.setenv("PGPASSWORD", "secret")
    error = await refused(call, folder, "import os\nraise RuntimeError(repr(dict(os.environ)))")
    assert "secret" not in str(error)
    assert "ROSEY" not in str(error)
    await goes_on(call, folder)


@on_one
@pytest.mark.skipif(not KERNEL, reason="the kernel's layers are Linux's")
@pytest.mark.parametrize("how", ["open", "io", "raw"])
async def test_the_parents_environment_is_closed(call: Caller, folder: Folder, how: str) -> None:
    """`/proc` of the service cannot be read, not even by calling the kernel around Python's own checks."""
    read = {
        "open": "open(path, 'rb').read()",
        "io": "os.read(os.open(path, os.O_RDONLY), 100000)",
        # An audit hook cannot be removed, but what it consults might be replaced.
        "raw": "__import__('_io').FileIO(path).read()",
    }[how]
    error = await refused(
        call, folder, f"import os\npath = f'/proc/{{os.getppid()}}/environ'\nraise RuntimeError({read}[:20])"
    )
    assert "PermissionError" in str(error)


@on_one
@pytest.mark.parametrize("path", ["/etc/passwd", "{toml}", "/proc/self/environ", "{home}/.ssh/id_rsa"])
async def test_files_are_closed(call: Caller, folder: Folder, path: str) -> None:
    """Files beyond Python's library cannot be read: credentials of the service's user lie there."""
    error = await refused(call, folder, f"open({path.format(toml=folder.toml, home=Path.home())!r}).read()")
    assert "PermissionError" in str(error)


@on_one
async def test_files_cannot_be_written(call: Caller, folder: Folder, tmp_path: Path) -> None:
    """Nothing can be written, also not where the user might."""
    error = await refused(call, folder, f"open({str(tmp_path / 'new')!r}, 'w')")
    assert "PermissionError" in str(error)
    assert not (tmp_path / "new").exists()


async def test_an_endless_loop_is_ended(serve: Serve, kind: str, place: Path, plugin: str) -> None:
    """A run past `migration_timeout` is killed; the error says so, and the next one is free to run."""
    folder = Folder(place / "p", plugin, limits="migration_timeout = 1.5")
    call = await serve(folder)
    path = folder.write("0001", 'op.create_table("t", *service_columns())\nwhile True: pass')
    with pytest.raises(Refused, match="did not end in its time") as caught:
        await call("migrations.apply", timeout_ms=60_000)
    assert caught.value.code == "migration_failed"
    assert caught.value.details["revision"] == "0001"
    path.write_text(path.read_text().replace("while True: pass", "pass"))
    assert await call.apply(timeout_ms=60_000) == ["0001"]


async def test_an_endless_statement_is_ended(serve: Serve, kind: str, place: Path, plugin: str) -> None:
    """A statement that never ends is stopped on the server too: it holds no lock afterwards."""
    folder = Folder(place / "p", plugin, limits="migration_timeout = 1.5")
    call = await serve(folder)
    endless = (
        "SELECT pg_sleep(3600)"
        if kind == "postgres"
        else "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c"
    )
    path = folder.write("0001", f'op.create_table("t", *service_columns())\nop.execute("""{endless}""")')
    with pytest.raises(Refused) as caught:
        await call("migrations.apply", timeout_ms=60_000)
    assert caught.value.code == "migration_failed"
    path.write_text(path.read_text().replace(f'op.execute("""{endless}""")', "pass"))
    assert await call.apply(timeout_ms=60_000) == ["0001"]


@pytest.mark.skipif(not KERNEL, reason="only Linux holds a limit on address space")
async def test_a_huge_allocation_is_refused(call: Caller, folder: Folder) -> None:
    """Memory past the limit is a `MemoryError` in the child, not trouble for its neighbours."""
    error = await refused(call, folder, "data = bytearray(4 * 1024 ** 3)")
    assert "MemoryError" in str(error)
    await goes_on(call, folder)


@on_one
@pytest.mark.skipif(not KERNEL, reason="only Linux holds a limit on address space")
async def test_memory_that_grows_is_ended(call: Caller, folder: Folder) -> None:
    """Many small allocations meet the same limit."""
    error = await refused(call, folder, "data = []\nwhile True: data.append(bytearray(1024 * 1024))")
    assert error.code == "migration_failed"


@pytest.mark.parametrize(
    "code",
    [
        "socket.create_connection(('127.0.0.1', {port}), timeout=2)",
        "socket.socket(socket.AF_UNIX).connect('/tmp/x')",
        "__import__('_socket').socket(2, 1).connect(('127.0.0.1', {port}))",
        "__import__('urllib.request').request.urlopen('http://127.0.0.1:{port}')",
    ],
)
async def test_the_network_is_closed(call: Caller, folder: Folder, code: str) -> None:
    """Neither NATS nor anything else can be reached; nobody knocks at the listener."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(0.2)
        code = code.format(port=listener.getsockname()[1])
        error = await refused(call, folder, f"import socket\n{code}")
        assert "A migration may not use the network" in str(error)
        with pytest.raises(TimeoutError):
            listener.accept()


@pytest.mark.skipif(not KERNEL, reason="the kernel's layers are Linux's")
@pytest.mark.parametrize(
    "call_c",
    [
        "libc.socket(2, 1, 0)",
        "libc.fork()",
        "libc.kill({pid}, 9)",
        "libc.open(b'/etc/passwd', 0)",
        "libc.execl(b'/bin/true', b'true', None)",
    ],
)
async def test_the_kernel_holds_without_python(call: Caller, folder: Folder, call_c: str) -> None:
    """Where Python's own checks are circumvented, the kernel refuses all the same."""
    script = (
        "import ctypes, os, sys\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "from rosey_rowstore.migrations import sandbox\n"
        "for name in ('socket', 'fork', 'kill', 'open', 'execl'): getattr(libc, name)\n"
        "sys.addaudithook = lambda hook: None\n"
        "sandbox.enter(seconds=5, writes_files=False)\n"
        f"result = {call_c.format(pid=os.getpid())}\n"
        "print(result, ctypes.get_errno())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-c", script, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 30)
    assert out.split()[:1] == [b"-1"], (out, err)
    assert int(out.split()[1]) in (1, 13), out  # EPERM, EACCES


@on_one
@pytest.mark.parametrize(
    "code",
    [
        "os.system('true')",
        "subprocess.run(['true'])",
        "os.fork()",
        "os.kill(os.getppid(), 9)",
        "threading.Thread(target=print).start()",
        "ctypes.CDLL(None)",
        "sqlite3.connect(':memory:')",
    ],
)
async def test_processes_and_c_are_closed(call: Caller, folder: Folder, code: str) -> None:
    """No program, process, thread, signal, call into C, other database; the message says what was refused."""
    error = await refused(call, folder, f"import ctypes, os, sqlite3, subprocess, threading\n{code}")
    # Python 3.11 has no audit event for threads: there the kernel's refusal is all there is.
    assert "A migration may not" in str(error) or "can't start new thread" in str(error)


@pytest.mark.parametrize(
    "code",
    [
        'op.execute("COMMIT")',
        'op.execute("/* sly */ commit; BEGIN")',
        'op.execute("SELECT 1; ROLLBACK; SELECT 2")',
        "op.get_bind().commit()",
        "op.get_bind().connection.dbapi_connection.commit()",
        "op.get_bind().connection.dbapi_connection.rollback()",
        "with op.get_context().autocommit_block(): pass",
    ],
)
async def test_a_revision_cannot_end_the_transaction(call: Caller, folder: Folder, code: str) -> None:
    """What commits or rolls back is refused or found out, so that half a run never counts as one."""
    folder.write("0001", code)
    with pytest.raises(Refused) as caught:
        await call.apply()
    assert caught.value.code == "migration_failed"
    assert (await call.status())["current"] is None


async def test_savepoints_are_free(call: Caller, folder: Folder) -> None:
    """A revision may try something and take it back."""
    folder.write(
        "0001",
        """
        op.create_table("notes", *service_columns())
        try:
            with op.get_bind().begin_nested():
                op.execute("SELECT nonsense")
        except sa.exc.DBAPIError:
            pass
        """,
    )
    assert await call.apply() == ["0001"]


@on_sqlite
@pytest.mark.parametrize(
    "statement",
    [
        "ATTACH DATABASE '/tmp/other.sqlite3' AS other",
        "PRAGMA writable_schema = 1",
        "UPDATE _rosey_migration_steps SET sha256 = 'x'",
        "DELETE FROM _rosey_version",
        "DROP TABLE _rosey_replies",
    ],
)
async def test_sqlite_keeps_the_services_own(call: Caller, folder: Folder, kind: str, statement: str) -> None:
    """The records, the keys of KV and other files are out of reach of a revision's SQL."""
    error = await refused(call, folder, f'op.execute("""{statement}""")')
    assert error.code == "migration_failed"


@on_postgres
async def test_a_forged_version_row_is_told(
    call: Caller, folder: Folder, kind: str, database_url: str
) -> None:
    """The version row is the plugin's to spoil; the records are not, and status says that they differ."""
    folder.write("0001", "op.execute(\"INSERT INTO _rosey_version VALUES ('9999')\")")
    await call.apply()
    status = await call.status()
    assert [step["revision"] for step in status["applied"]] in ([], ["0001"])


@on_one
@pytest.mark.parametrize("exit_", ["os._exit(0)", "raise SystemExit", "raise KeyboardInterrupt"])
async def test_a_revision_that_ends_its_process(call: Caller, folder: Folder, exit_: str) -> None:
    """Leaving early is a failure, never a success."""
    error = await refused(call, folder, f'import os\nop.create_table("t", *service_columns())\n{exit_}')
    assert error.code == "migration_failed"


@on_postgres
async def test_the_owner_keeps_its_password(
    call: Caller, folder: Folder, kind: str, database_url: str
) -> None:
    """A revision cannot lock the service out of the owner's login."""
    for statement in (
        "ALTER ROLE CURRENT_USER PASSWORD 'x'",
        "alter user current_user set statement_timeout = 1",
    ):
        await refused(call, folder, f'op.execute("""{statement}""")')
        await call.rollback("base")
    psycopg.connect(database_url).close()
