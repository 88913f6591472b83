"""A plugin's keys in its own JetStream KV bucket."""

from rosey_kvstore.jetstream.backend import JetStreamBackend
from rosey_kvstore.jetstream.bucket import HEADER_ROOM, limits_of, stream_config

__all__ = ["HEADER_ROOM", "JetStreamBackend", "limits_of", "stream_config"]
