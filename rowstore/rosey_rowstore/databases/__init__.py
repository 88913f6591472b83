"""The databases that run the engine's plans: Postgres by lanes, SQLite by one writer thread."""
