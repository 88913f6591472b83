"""The SQLite twin of a plugin's bucket: local mode and tests keep the same promises without a server."""

from rosey_kvstore.sqlite.backend import SqliteBackend

__all__ = ["SqliteBackend"]
