"""Rosey's KV: a plugin's own JetStream bucket, and its SQLite twin."""
