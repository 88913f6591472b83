"""One call of the row service: what is sent, what is sent again, what an error says."""

from __future__ import annotations

import pytest

from rosey_kvstore import errors
from rosey_rowstore.protocol import ERROR_NUMBERS, Fault
from rosey_storage import (
    InternalError,
    InvalidRequest,
    Overloaded,
    RateLimited,
    StorageError,
    StorageTimeout,
    TypeMismatch,
    Unavailable,
    UniqueViolation,
)
from rosey_storage.faults import error_from
from rosey_storage.testing import scripted_storage
from rosey_storage.transport import NotDelivered

PAGE = {"rows": [{"id": 1}], "next_cursor": None}
STORED = {"count": 1, "rows": [{"id": 1}]}
AWAY = Fault("unavailable", "The database is away.")


@pytest.mark.parametrize("code", sorted(ERROR_NUMBERS))
def test_every_code_of_the_wire_has_its_class(code):
    """A fault of any code becomes the class with the same code, and nothing of it is lost."""
    fault = Fault(code, "m", path="a.b", hint="h", retry_after=1.5, details={"line": 3})
    error = error_from(fault, plugin="p", operation="rows.insert")
    assert type(error).code == code
    assert (error.message, error.path, error.hint, error.retry_after) == ("m", "a.b", "h", 1.5)
    assert (error.plugin, error.operation, error.details) == ("p", "rows.insert", {"line": 3})


def test_no_class_is_without_a_code_of_the_wire():
    """The tree has no leaf that the contract does not know."""
    leaves = {
        kind.code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, StorageError) and "code" in vars(kind)
    }
    assert leaves == set(ERROR_NUMBERS)


async def test_a_reply_that_is_an_error_is_raised():
    """The error of the service names the plugin and the operation."""
    storage, _ = scripted_storage(Fault("unique_violation", "There is one.", path="rows[0].user"))
    async with storage:
        with pytest.raises(UniqueViolation) as caught:
            await storage.table("t").insert({"user": "bob"})
    error = caught.value
    assert (error.plugin, error.operation, error.path) == ("tests", "rows.insert", "rows[0].user")
    assert str(error) == "[unique_violation] tests rows.insert: There is one. (at rows[0].user)"


async def test_the_service_is_told_the_time_that_is_left():
    """`Storage-Timeout` is a little less than the caller waits, in whole milliseconds."""
    storage, script = scripted_storage(PAGE, PAGE, timeout=2)
    async with storage:
        await storage.table("t").select()
        await storage.table("t").select(timeout=0.5)
    told = [int(sent.headers["Storage-Timeout"]) for sent in script.sent]
    assert 1500 < told[0] <= 1900
    assert 300 < told[1] <= 450


async def test_what_was_not_delivered_is_sent_again_reads_and_writes():
    """Nobody listens for a moment: the call takes longer and succeeds."""
    storage, script = scripted_storage(NotDelivered("…"), NotDelivered("…"), STORED, NotDelivered("…"), PAGE)
    async with storage:
        await storage.table("t").insert({})
        await storage.table("t").select()
    assert [sent.tail for sent in script.sent] == ["rows.insert"] * 3 + ["rows.select"] * 2
    assert all("Nats-Msg-Id" not in sent.headers for sent in script.sent)


async def test_nobody_there_is_unavailable_within_the_timeout():
    """When nobody listens for all the time of the call, it says so, and whose call it was."""
    storage, script = scripted_storage(*[NotDelivered("The row service does not answer.")] * 99, timeout=0.3)
    async with storage:
        with pytest.raises(Unavailable, match="does not answer") as caught:
            await storage.table("t").insert({})
    assert (caught.value.plugin, caught.value.operation) == ("tests", "rows.insert")
    assert 2 <= len(script.sent) < 10


@pytest.mark.parametrize("broken", [Unavailable("The connection broke."), AWAY])
async def test_a_broken_read_is_sent_again(broken):
    """A read has no effect, so the client repeats it while there is time."""
    storage, script = scripted_storage(broken, PAGE)
    async with storage:
        assert len(await storage.table("t").select()) == 1
    assert len(script.sent) == 2


@pytest.mark.parametrize("broken", [Unavailable("The connection broke."), AWAY])
async def test_a_broken_write_is_not_sent_again(broken):
    """Whether it happened is not known, so the author decides."""
    storage, script = scripted_storage(broken, STORED)
    async with storage:
        with pytest.raises(Unavailable):
            await storage.table("t").insert({})
    assert len(script.sent) == 1


@pytest.mark.parametrize("broken", [Unavailable("The connection broke."), AWAY])
async def test_a_broken_write_with_a_key_is_sent_again_with_the_same_key(broken):
    """The service does once what carries the same name."""
    storage, script = scripted_storage(broken, STORED)
    async with storage:
        await storage.table("t").insert({}, idempotency_key="order-7")
    assert [sent.headers["Nats-Msg-Id"] for sent in script.sent] == ["order-7", "order-7"]


@pytest.mark.parametrize("broken", [Unavailable("The connection broke."), AWAY])
async def test_a_doubtful_attempt_is_not_forgotten(broken):
    """When the last word is that nothing was delivered, the error still tells of the attempt before."""
    away = [NotDelivered("NATS is away.") for _ in range(99)]
    storage, _ = scripted_storage(broken, *away, timeout=0.3)
    async with storage:
        with pytest.raises(Unavailable, match=r"away\. An earlier attempt of this call may have happened"):
            await storage.table("t").insert({}, idempotency_key="order-7")


async def test_a_read_of_a_database_that_stays_away_says_so():
    """The last word of the service is what the caller gets."""
    storage, _ = scripted_storage(*[AWAY] * 99, timeout=0.3)
    async with storage:
        with pytest.raises(Unavailable, match="database is away"):
            await storage.table("t").select()


@pytest.mark.parametrize(("write", "words"), [(True, "may have happened"), (False, "nothing has changed")])
async def test_a_timeout_says_whether_a_write_may_have_happened(write, words):
    """Silence of the service ends with the call's time."""
    storage, script = scripted_storage(timeout=0.1)
    async with storage:
        with pytest.raises(StorageTimeout, match=words):
            await (storage.table("t").insert({}) if write else storage.table("t").select())
    assert len(script.sent) == 1


@pytest.mark.parametrize(("code", "kind"), [("rate_limited", RateLimited), ("overloaded", Overloaded)])
async def test_a_busy_service_is_told_on_at_once(code, kind):
    """The author learns when to ask again; the client adds no load of its own."""
    storage, script = scripted_storage(Fault(code, "Too fast.", retry_after=0.25), PAGE)
    async with storage:
        with pytest.raises(kind) as caught:
            await storage.table("t").select()
    assert caught.value.retry_after == 0.25
    assert len(script.sent) == 1


@pytest.mark.parametrize("reply", [{}, {"rows": 5}, {"rows": [5]}])
async def test_a_reply_that_is_not_as_agreed_is_internal(reply):
    """A reply that lacks what this client needs is no crash."""
    storage, _ = scripted_storage(reply)
    async with storage:
        with pytest.raises(InternalError, match="not as agreed"):
            await storage.table("t").select()


async def test_members_that_a_newer_service_adds_are_left_aside():
    """Replies may gain members."""
    storage, _ = scripted_storage({**PAGE, "took_ms": 3})
    async with storage:
        assert len(await storage.table("t").select()) == 1


def endless():
    value: list = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "kind", "path"),
    [
        (float("nan"), TypeMismatch, "rows[0].n"),
        (float("inf"), TypeMismatch, "rows[0].n"),
        (object(), TypeMismatch, "rows[0].n"),
        ({1: 2}, TypeMismatch, "rows[0].n"),
        (b"x", TypeMismatch, "rows[0].n"),
        ({"a": [1, {2, 3}]}, TypeMismatch, "rows[0].n.a[1]"),
        (endless(), TypeMismatch, None),
        ("\ud800", errors.OutOfRange, "rows[0].n"),
    ],
)
async def test_a_value_that_is_no_json_names_its_place(value, kind, path):
    """It is refused before anything is sent."""
    storage, script = scripted_storage()
    async with storage:
        with pytest.raises(kind) as caught:
            await storage.table("t").insert({"n": value})
    assert (caught.value.path, caught.value.operation) == (path, "rows.insert")
    assert script.sent == []


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 1e9, "5", True])
async def test_an_impossible_timeout_is_refused(timeout):
    """A call takes more than no time, and ends."""
    storage, script = scripted_storage()
    async with storage:
        with pytest.raises(errors.BadRequest, match="timeout="):
            await storage.table("t").select(timeout=timeout)
    assert script.sent == []


@pytest.mark.parametrize("key", ["", " ", "a\r\nb", "é", "x" * 256, 5])
async def test_an_impossible_idempotency_key_is_refused(key):
    """A key goes into a header: nothing may break out of it."""
    storage, script = scripted_storage()
    async with storage:
        with pytest.raises(InvalidRequest, match="idempotency key"):
            await storage.table("t").insert({}, idempotency_key=key)
    assert script.sent == []
