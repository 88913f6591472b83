"""SQLite: one file per plugin, one writer thread with batched transactions, two reader threads."""
