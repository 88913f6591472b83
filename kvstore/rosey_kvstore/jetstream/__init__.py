"""A plugin's keys in its own JetStream KV bucket."""

from rosey_kvstore.jetstream.backend import JetStreamBackend
from rosey_kvstore.jetstream.bucket import HEADER_ROOM, limits_of, stream_config
from rosey_kvstore.jetstream.copies import copies_config

__all__ = ["HEADER_ROOM", "JetStreamBackend", "copies_config", "limits_of", "stream_config"]
