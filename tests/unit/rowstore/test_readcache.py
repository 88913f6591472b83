"""What the read cache keeps, for how long, and how much."""

from __future__ import annotations

import pytest

from rosey_rowstore.databases.readcache import ReadCache, Reads, Terms
from rosey_rowstore.engine.model import Limits, Table

LIMITS = Limits()
TABLES: dict[str, Table] = {}
TERMS = (LIMITS, TABLES)
KEY = ("rows.select", b'{"table":"t"}')
BODY = b"x" * 100


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def filled(size: int = 1 << 20, clock: Clock | None = None) -> Reads:
    """A share with one reply, read under the snapshot `1:1:`."""
    reads = ReadCache(size).reads(clock or Clock())
    assert reads.get(KEY, TERMS) is None
    reads.confirm("1:1:")
    reads.keep(KEY, BODY, "1:1:", TERMS)
    return reads


def test_a_reply_is_kept_while_the_snapshot_is_the_same() -> None:
    """The same snapshot leaves what is kept, and its era, as they are."""
    reads = filled()
    era = reads.era
    reads.confirm("1:1:")
    assert reads.get(KEY, TERMS) == BODY
    assert reads.era is era


def test_another_snapshot_ends_the_era() -> None:
    """What was kept under another snapshot is gone, and a reply found before shows that it is stale."""
    reads = filled()
    era = reads.era
    reads.confirm("1:2:")
    assert reads.era is not era
    assert reads.get(KEY, TERMS) is None
    assert reads.used == 0


def test_a_reply_of_another_snapshot_is_not_kept() -> None:
    """A pipeline that was overtaken by another one's snapshot keeps nothing."""
    reads = filled()
    reads.confirm("1:2:")
    reads.keep(KEY, BODY, "1:1:", TERMS)
    assert reads.get(KEY, TERMS) is None


@pytest.mark.parametrize("new", [(Limits(rows_per_page=1), TABLES), (LIMITS, {}), (Limits(), TABLES)])
def test_other_terms_other_replies(new: Terms) -> None:
    """What was planned with old limits or tables is neither given on the new terms nor kept late."""
    reads = filled()
    era = reads.era
    assert reads.get(KEY, new) is None
    assert reads.era is not era
    reads.keep(KEY, BODY, "1:1:", TERMS)
    assert reads.get(KEY, new) is None
    reads.keep(KEY, BODY, "1:1:", new)
    assert reads.get(KEY, new) == BODY


def test_a_new_connection_starts_anew() -> None:
    """Another server may have the same snapshot and other rows: what was kept is dropped, it as well."""
    reads = filled()
    era = reads.era
    reads.forget()
    assert reads.era is not era
    reads.keep(KEY, BODY, "1:1:", TERMS)
    assert reads.get(KEY, TERMS) is None


def test_another_operation_has_a_key_of_its_own() -> None:
    """The same body asked of select and of search are two requests."""
    assert filled().get(("rows.search", KEY[1]), TERMS) is None


def test_the_size_is_kept() -> None:
    """However much is kept, it stays below the size, keys counted; the largest share makes room."""
    cache = ReadCache(100_000)
    small, large = cache.reads(Clock()), cache.reads(Clock())
    for reads in (small, large):
        reads.get(KEY, TERMS)
        reads.confirm("1:1:")
    small.keep(KEY, BODY, "1:1:", TERMS)
    for number in range(1000):
        large.keep(("rows.select", b"%d" % number), BODY, "1:1:", TERMS)
        assert cache.used == small.used + large.used <= cache.size
        assert large.get(("rows.select", b"%d" % number), TERMS) == BODY
    assert small.get(KEY, TERMS) == BODY


def test_a_large_reply_is_left_aside() -> None:
    """One page does not put all others out."""
    reads = filled(10_000)
    reads.keep(("rows.select", b"large"), b"x" * 5_000, "1:1:", TERMS)
    assert reads.get(("rows.select", b"large"), TERMS) is None
    assert reads.get(KEY, TERMS) == BODY


def test_no_size_no_cache() -> None:
    """With size 0 nothing is asked and nothing kept."""
    reads = filled(0)
    assert not reads.worthwhile()
    assert reads.get(KEY, TERMS) is None


def test_where_writes_never_cease_nothing_is_asked() -> None:
    """After some changes in a row it rests, each time longer, a second at most, and tries again."""
    clock = Clock()
    reads = filled(clock=clock)
    rests = []
    for number in range(30):
        reads.confirm(f"1:{number}:")
        if not reads.worthwhile():
            began = clock.now
            while not reads.worthwhile():
                clock.now += 0.001
            rests.append(clock.now - began)
    assert [round(rest, 2) for rest in rests] == sorted(round(rest, 2) for rest in rests)
    assert rests[0] < 0.03
    assert 0.9 < rests[-1] < 1.1


def test_one_quiet_moment_ends_the_rest() -> None:
    """When the snapshot stays the same once, it is asked for again each time."""
    clock = Clock()
    reads = filled(clock=clock)
    for number in range(10):
        reads.confirm(f"1:{number}:")
    assert not reads.worthwhile()
    reads.confirm("1:9:")
    assert reads.worthwhile()


def test_while_it_rests_nothing_is_kept() -> None:
    """A reply that will not be true when it is asked for costs a second way to the database."""
    reads = filled()
    for number in range(2, 8):
        reads.confirm(f"1:{number}:")
        reads.keep(KEY, BODY, f"1:{number}:", TERMS)
        assert (reads.get(KEY, TERMS) is None) == (number > 2)
    reads.confirm("1:7:")
    reads.keep(KEY, BODY, "1:7:", TERMS)
    assert reads.get(KEY, TERMS) == BODY
