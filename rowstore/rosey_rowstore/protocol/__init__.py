"""The wire contract of the row service: operations, messages, codes, names and their bytes.

It needs attrs and cattrs alone, so that a client can import it without a database library.
"""

from rosey_rowstore.protocol.codes import ERROR_NUMBERS, Fault
from rosey_rowstore.protocol.envelope import (
    ERROR_CODE_HEADER,
    ERROR_HEADER,
    MESSAGE_ID_HEADER,
    TIMEOUT_HEADER,
    TRACE_HEADER,
    decode_reply,
    decode_request,
    encode_fault,
    encode_reply,
    encode_request,
    timeout_from_headers,
)
from rosey_rowstore.protocol.messages import *  # noqa: F403 - the messages are listed in their own __all__
from rosey_rowstore.protocol.messages import __all__ as _messages
from rosey_rowstore.protocol.names import check_identifier, check_plugin, nearest, owned_name
from rosey_rowstore.protocol.operations import (
    API_VERSION,
    DEFAULT_SUBJECT_ROOT,
    OPERATIONS,
    Operation,
    subject_for,
)

__all__ = [  # noqa: PLE0604 - names of another __all__
    "API_VERSION",
    "DEFAULT_SUBJECT_ROOT",
    "ERROR_CODE_HEADER",
    "ERROR_HEADER",
    "ERROR_NUMBERS",
    "MESSAGE_ID_HEADER",
    "OPERATIONS",
    "TIMEOUT_HEADER",
    "TRACE_HEADER",
    "Fault",
    "Operation",
    "check_identifier",
    "check_plugin",
    "decode_reply",
    "decode_request",
    "encode_fault",
    "encode_reply",
    "encode_request",
    "nearest",
    "owned_name",
    "subject_for",
    "timeout_from_headers",
    *_messages,
]
