"""Headers and credentials files: what could break out of them is refused."""

from __future__ import annotations

from pathlib import Path

import nkeys
import pytest

from rosey_kvstore.connection.credentials import CredentialsFile, UnusableCredentialsError
from rosey_kvstore.connection.headers import encode_headers, parse_headers, status_of
from rosey_kvstore.errors import InvalidRequest

SEED = b"SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"


def test_headers_there_and_back() -> None:
    """What is written is what is read."""
    headers = {"Nats-Msg-Id": "a b:c", "Storage-Timeout": "5000", "traceparent": "ü"}
    assert parse_headers(encode_headers(headers)) == headers


@pytest.mark.parametrize(("name", "value"), [("A b", "x"), ("", "x"), ("A", "x\r\nB: y"), ("A", "\ud800")])
def test_nothing_breaks_out_of_a_header(name: str, value: str) -> None:
    """A name or value that would begin a line of its own is refused, not mended."""
    with pytest.raises(InvalidRequest):
        encode_headers({name: value})


@pytest.mark.parametrize(
    ("block", "status", "headers"),
    [
        (
            b"NATS/1.0 404 Message Not Found\r\n\r\n",
            "404",
            {"Description": "Message Not Found", "Status": "404"},
        ),
        (b"NATS/1.0 503\r\n\r\n", "503", {"Status": "503"}),
        (b"NATS/1.0\r\nA: b\r\n\r\n", None, {"A": "b"}),
        (
            b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 5\r\n\r\n",
            "100",
            {"Status": "100", "Description": "Idle Heartbeat", "Nats-Last-Consumer": "5"},
        ),
    ],
)
def test_inline_statuses(block: bytes, status: str | None, headers: dict[str, str]) -> None:
    """A status of the server is told apart from headers."""
    assert status_of(block) == status
    assert parse_headers(block) == headers


def _credentials(jwt: bytes, seed: bytes) -> bytes:
    return (
        b"-----BEGIN NATS USER JWT-----\n" + jwt + b"\n------END NATS USER JWT------\n\n"
        b"-----BEGIN USER NKEY SEED-----\n" + seed + b"\n------END USER NKEY SEED------\n"
    )


def test_credentials_are_read_anew(tmp_path: Path) -> None:
    """A rotated file is taken up at the next connect."""
    path = tmp_path / "plugin.creds"
    path.write_bytes(_credentials(b"aaa.bbb.ccc", SEED))
    file = CredentialsFile(path)
    file.check()
    assert file.jwt() == b"aaa.bbb.ccc"
    assert len(file.sign("nonce")) == 88
    path.write_bytes(_credentials(b"ddd.eee.fff", SEED))
    assert file.jwt() == b"ddd.eee.fff"


@pytest.mark.parametrize(
    "content", [None, b"", b"hello", _credentials(b"a.b.c", b"SUNOSEED"), _credentials(b"", SEED)]
)
def test_unusable_credentials_are_said(tmp_path: Path, content: bytes | None) -> None:
    """A missing, empty or broken file is an error at once; nats-py would loop for ever on some."""
    path = tmp_path / "plugin.creds"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnusableCredentialsError, match=r"plugin\.creds"):
        CredentialsFile(path).check()


def test_the_seed_of_the_tests_is_one() -> None:
    """The seed above is a user's."""
    assert nkeys.from_seed(bytearray(SEED)).public_key.startswith(b"U")
