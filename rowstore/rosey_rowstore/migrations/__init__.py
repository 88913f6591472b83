"""Migrations: a plugin evolves its own tables by Alembic revisions from its own folder.

The service reads revisions without running them (`files`), keeps its own records (`ledger`), and lets a
child process run them with nothing but the plugin's owner login (`runner`, `child`, `sandbox`).
"""
