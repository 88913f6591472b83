"""One fast connection to NATS for everything a plugin sends, KV and rows alike."""

from rosey_kvstore.connection.bulk import Batch
from rosey_kvstore.connection.client import Message, Reply
from rosey_kvstore.connection.connection import Connection, Subscription
from rosey_kvstore.connection.errors import Interrupted, NoResponders
from rosey_kvstore.connection.headers import encode_headers
from rosey_kvstore.connection.tls import TlsFiles

__all__ = [
    "Batch",
    "Connection",
    "Interrupted",
    "Message",
    "NoResponders",
    "Reply",
    "Subscription",
    "TlsFiles",
    "encode_headers",
]
