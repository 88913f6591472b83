"""Rosey's KV: a plugin's own JetStream bucket, and its SQLite twin."""

from rosey_kvstore.backend import Backend, BucketLimits
from rosey_kvstore.entries import Change, Entry, InvalidValue, Page
from rosey_kvstore.store import KV
from rosey_kvstore.watching import Watch

__all__ = ["KV", "Backend", "BucketLimits", "Change", "Entry", "InvalidValue", "Page", "Watch"]
