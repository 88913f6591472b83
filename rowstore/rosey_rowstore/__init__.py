"""Rosey's row service: structured rows and migrations, over NATS, in front of Postgres or SQLite."""
