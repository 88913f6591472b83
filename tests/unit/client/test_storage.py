"""The storage object: opening, closing, routing, and what local mode refuses."""

from __future__ import annotations

import inspect

import pytest

import rosey_kvstore
import rosey_storage
from rosey_kvstore import errors
from rosey_storage import (
    InvalidName,
    InvalidRequest,
    LocalModeRefused,
    Storage,
    Unavailable,
    sqlite_path,
)
from rosey_storage.testing import memory_storage, scripted_storage


def test_the_public_names_are_these():
    """`__all__` is the public API: a new name is a decision."""
    own = {
        "Column",
        "Groups",
        "Index",
        "Migrations",
        "Row",
        "RowPage",
        "Settings",
        "Storage",
        "Table",
        "Transaction",
        "TransactionTable",
        "Written",
        "sqlite_path",
    }
    assert set(rosey_storage.__all__) == own | set(errors.__all__) | set(rosey_kvstore.__all__)
    assert all(hasattr(rosey_storage, name) for name in rosey_storage.__all__)
    assert len(rosey_storage.__all__) == len(set(rosey_storage.__all__))


@pytest.mark.parametrize(
    "kind", [rosey_storage.Storage, rosey_storage.Table, rosey_storage.Transaction, rosey_storage.Migrations]
)
def test_everything_public_says_what_it_does(kind):
    """No public method is without a docstring."""
    assert inspect.getdoc(kind)
    for name, member in inspect.getmembers(kind):
        if not name.startswith("_") and (callable(member) or isinstance(member, property)):
            assert inspect.getdoc(member), name


async def test_constructing_does_nothing_and_opening_does():
    """`connect` reaches for no server; calls before opening say what is missing."""
    storage = Storage.connect("quotes", url="nats://127.0.0.1:1")
    with pytest.raises(Unavailable, match="not open"):
        _ = storage.kv
    with pytest.raises(Unavailable, match="not open") as caught:
        await storage.table("t").select()
    assert (caught.value.plugin, caught.value.operation) == ("quotes", "rows.select")


async def test_a_storage_can_be_awaited():
    """`await Storage.connect(…)` opens it too."""
    storage = await memory_storage()
    await storage.kv.set("a", 1)
    assert await storage.open() is storage
    await storage.close()
    await storage.close()


async def test_a_closed_storage_is_unavailable():
    """Keys, rows and opening again: each says that it is closed."""
    async with memory_storage() as storage:
        await storage.kv.set("a", 1)
    for call in (
        lambda: storage.kv.get("a"),
        lambda: storage.kv.set("a", 1),
        lambda: storage.table("t").select(),
        lambda: storage.table("t").insert({}),
        storage.tables,
        storage.open,
    ):
        with pytest.raises(Unavailable, match="closed") as caught:
            await call()
        assert caught.value.plugin == "tests"


async def test_a_block_that_raises_closes_the_storage():
    """The error goes on, the storage is closed."""
    storage = memory_storage()
    with pytest.raises(RuntimeError, match="mine"):
        async with storage:
            raise RuntimeError("mine")
    with pytest.raises(Unavailable, match="closed"):
        await storage.kv.get("a")


@pytest.mark.parametrize("name", ["", "Quotes", "-a", "a-", "a.b", "a b", "a" * 49, "é", "a\n", "../x"])
def test_a_plugin_that_cannot_be_is_refused(name):
    """The name becomes a bucket, a schema and a file: only what the contract allows passes."""
    with pytest.raises(InvalidName, match="no plugin name"):
        Storage.connect(name, url="sqlite::memory:")
    with pytest.raises(InvalidName, match="no plugin name"):
        sqlite_path(name)


def test_a_misspelt_setting_is_refused():
    """Settings are checked before anything is opened."""
    with pytest.raises(InvalidRequest, match="did you mean 'timeout'") as caught:
        Storage.connect("quotes", time_out=5)
    assert (caught.value.plugin, caught.value.operation) == ("quotes", "connect")


@pytest.mark.parametrize("settings", [{"env": "production"}, {"allow_local": False}])
def test_local_mode_is_refused_where_it_is_not_allowed(settings, tmp_path):
    """Production never writes to a file by mistake; neither does `sqlite_path`."""
    with pytest.raises(LocalModeRefused):
        Storage.connect("quotes", url="sqlite:", data=tmp_path, **settings)
    with pytest.raises(LocalModeRefused):
        sqlite_path("quotes", data=tmp_path, **settings)
    assert list(tmp_path.iterdir()) == []


def test_local_mode_is_allowed_in_production_when_told(tmp_path):
    """`allow_local` is the operator's word."""
    assert Storage.connect("quotes", url="sqlite:", data=tmp_path, env="production", allow_local=True)


async def test_keys_of_local_mode_are_kept_in_the_plugins_file(tmp_path):
    """`sqlite:` is the plugin's file in the data folder, and `sqlite_path` names it."""
    for number in range(2):
        async with Storage.connect("quotes", url="sqlite:", data=tmp_path / "d") as storage:
            assert await storage.kv.get("n", default=0) == number
            await storage.kv.increment("n")
    assert [file.name for file in (tmp_path / "d").glob("*.sqlite3")] == ["quotes.sqlite3"]
    assert sqlite_path("quotes", data=tmp_path / "d") == tmp_path / "d" / "quotes.sqlite3"


async def test_a_url_can_name_the_file(tmp_path):
    """`sqlite:FILE` is that file, whatever its name; `sqlite_path` names it too."""
    file = tmp_path / "new" / "anything"
    async with Storage.connect("quotes", url=f"sqlite:{file}") as storage:
        await storage.kv.set("a", 1)
    assert file.is_file()
    assert sqlite_path("quotes", url=f"sqlite:{file}") == file


async def test_memory_is_gone_with_its_storage():
    """Two storages in memory share nothing."""
    async with memory_storage() as one, memory_storage() as two:
        await one.kv.set("a", 1)
        assert await two.kv.get("a") is None


async def test_memory_storage_asks_no_environment(monkeypatch):
    """A test runs the same wherever its machine points."""
    monkeypatch.setenv("ROSEY_STORAGE_URL", "nats://production:4222")
    monkeypatch.setenv("ROSEY_ENV", "production")
    async with memory_storage() as storage:
        await storage.kv.set("a", 1)


async def test_local_mode_keeps_the_limits_of_plugins_toml(tmp_path):
    """A plugin meets its limits on the author's own machine."""
    file = tmp_path / "plugins.toml"
    file.write_text("[plugins.quotes]\nrows = true\n[plugins.quotes.limits]\nvalue_size = 100\n")
    async with Storage.connect("quotes", url="sqlite::memory:", plugins=file) as storage:
        await storage.kv.set("a", "x" * 98)
        with pytest.raises(errors.ValueTooLarge):
            await storage.kv.set("a", "x" * 99)


async def test_a_bad_plugins_toml_is_named(tmp_path):
    """The error has the file's name and the nearest member."""
    file = tmp_path / "plugins.toml"
    file.write_text("[plugins.quotes]\nrow = true\n")
    with pytest.raises(InvalidRequest, match=r"plugins\.toml"):
        async with Storage.connect("quotes", url="sqlite::memory:", plugins=file):
            pass


async def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path):
    """The error names the folder."""
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="file"):
        async with Storage.connect("quotes", url="sqlite:", data=tmp_path / "file" / "data"):
            pass


async def test_no_server_is_unavailable_within_the_timeout():
    """The error names the server, not its password."""
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1") as caught:
        async with Storage.connect("quotes", url="nats://me:secret@127.0.0.1:1", timeout=0.5):
            pass
    assert "secret" not in str(caught.value)
    assert (caught.value.plugin, caught.value.operation) == ("quotes", "open")


async def test_a_storage_that_could_not_open_may_try_again(tmp_path):
    """An `open` that failed leaves nothing behind."""
    (tmp_path / "data").write_text("")
    storage = Storage.connect("quotes", url="sqlite:", data=tmp_path / "data")
    with pytest.raises(Unavailable):
        await storage.open()
    (tmp_path / "data").unlink()
    async with storage:
        assert await storage.kv.set("a", 1)


def test_a_storage_shows_whose_it_is_and_no_password():
    """What a debugger shows may be copied into a bug report."""
    shown = repr(Storage.connect("quotes", url="nats://me:secret@a:1"))
    assert "quotes" in shown
    assert "secret" not in shown


async def test_what_is_listed_are_the_tables():
    """`tables` gives names with the database's estimates."""
    storage, _ = scripted_storage({"tables": [{"table": "quotes", "rows": 3, "bytes": 8192}]})
    async with storage:
        (found,) = await storage.tables()
    assert (found.table, found.rows, found.bytes) == ("quotes", 3, 8192)
