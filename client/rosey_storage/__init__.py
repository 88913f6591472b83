"""Storage for Rosey's plugins: KV and rows through one client.

    async with Storage.connect("quotes") as storage:
        await storage.kv.set("prefs:alice", {"theme": "dark"})
        quotes = storage.table("quotes")
        await quotes.insert({"text": "Barkis is willin'.", "by": "Charles Dickens"})

docs/kv.md and docs/rows.md have the rest.
"""

from rosey_kvstore import *  # noqa: F403 - KV and its values are listed in their own __all__
from rosey_kvstore import __all__ as _kv
from rosey_kvstore.errors import *  # noqa: F403 - the one tree is listed in its own __all__
from rosey_kvstore.errors import __all__ as _errors
from rosey_storage.definitions import Column, Index
from rosey_storage.migrations import Migrations
from rosey_storage.results import Groups, Row, RowPage
from rosey_storage.settings import Settings
from rosey_storage.storage import Storage, sqlite_path
from rosey_storage.tables import Table
from rosey_storage.transaction import Transaction, TransactionTable, Written

__all__ = [  # noqa: PLE0604 - names of other __all__
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
    *_errors,
    *_kv,
]
