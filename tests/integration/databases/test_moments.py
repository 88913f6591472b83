"""Moments are told alike whether they come as text or in binary, and where Python's calendar ends."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from datetime import datetime

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rosey_deploy.stack.postgres import PostgresServer
from rosey_rowstore.databases.postgres.link import Link
from rosey_rowstore.databases.postgres.results import moment_text
from rosey_rowstore.engine.model import Column, ColumnType, Dialect, Statement
from rosey_rowstore.engine.rows import RowReader, encode_rows

MOMENTS = [
    "2026-11-24 06:31:58.157512+00",
    "2026-11-24 06:31:58+00",
    "2026-11-24 06:31:58.1+00",
    "1999-12-31 23:59:59.999999+00",
    "2000-01-01 00:00:00+00",
    "0001-01-01 00:00:00+00",
    "9999-12-31 23:59:59.999999+00",
    "10000-01-01 00:00:00+00",
    "294276-12-31 23:59:59.999999+00",
    "4714-11-24 00:00:00+00 BC",
    "0044-03-15 12:00:00.5+00 BC",
    "0001-12-31 00:00:00+00 BC",
    "2000-02-29 00:00:00.000001+00",
    "1900-03-01 00:00:00+00",
    "infinity",
    "-infinity",
]
COLUMNS = [Column(name="id", type=ColumnType.INTEGER), Column(name="at", type=ColumnType.DATETIME)]
QUERY = "SELECT n, t FROM unnest($1::bigint[], $2::timestamptz[]) AS given(n, t) ORDER BY n"


@pytest.fixture
async def link(postgres_server: PostgresServer) -> AsyncIterator[Link]:
    """A connection that gives moments in UTC."""
    connection = await psycopg.AsyncConnection.connect(
        postgres_server.dsn, autocommit=True, options="-c TimeZone=UTC -c DateStyle=ISO,YMD"
    )
    made = Link(connection)
    yield made
    await made.close()


async def told(link: Link, moments: list[str | None]) -> list[str | None]:
    """Return the moments as a reply has them."""
    listed = "{" + ",".join("NULL" if m is None else f'"{m}"' for m in moments) + "}"
    numbers = "{" + ",".join(map(str, range(len(moments)))) + "}"
    (result,) = await link.exchange([Statement(QUERY, (numbers, listed))])
    rows = json.loads(encode_rows(RowReader(COLUMNS, Dialect.POSTGRES).read_all(result.rows)))
    return [row["at"] for row in rows]


@pytest.mark.parametrize(
    "moments", [[m] for m in MOMENTS] + [MOMENTS, MOMENTS[:2], [None, MOMENTS[0]], [None]]
)
async def test_the_second_time_is_as_the_first(link: Link, moments: list[str | None]) -> None:
    """A statement gives text at first and binary from then on; the reply is the same to the letter."""
    first = await told(link, moments)
    second, third = await told(link, moments), await told(link, moments)
    assert first == second == third
    if moments == [MOMENTS[1]]:
        assert second == ["2026-11-24T06:31:58.000000Z"]


async def test_random_moments(link: Link) -> None:
    """Every microsecond that Postgres knows is told as it writes it."""
    random.seed(7)
    known = [random.randint(-211_813_488_000_000_000, 9_223_371_331_199_999_999) for _ in range(2000)]
    values = "{" + ",".join(map(str, known)) + "}"
    query = (
        "SELECT (timestamptz '2000-01-01 00:00:00+00' + make_interval(secs => 0)"
        " + (n / 86400000000) * interval '1 day' + (n % 86400000000) * interval '1 microsecond')::text"
        " FROM unnest($1::bigint[]) AS given(n)"
    )
    (result,) = await link.exchange([Statement(query, (values,))])
    assert [moment_text(number) for number in known] == [text for (text,) in result.rows]


@given(st.datetimes())
def test_within_pythons_calendar(moment: datetime) -> None:
    """The computed calendar agrees with Python's."""
    since = moment - datetime(2000, 1, 1)  # noqa: DTZ001 - both are naive
    number = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    text = moment.isoformat(" ")
    if moment.microsecond:
        text = text.rstrip("0")
    assert moment_text(number) == text + "+00"


async def test_two_at_once_before_the_form_is_known(link: Link) -> None:
    """A pipeline that asks twice before the first answer gets both as text, and goes on in binary."""
    statement = Statement(QUERY, ("{1}", '{"2026-11-24 06:31:58.157512+00"}'))
    first = await link.exchange([statement, statement])
    second = await link.exchange([statement, statement])
    assert first[0].rows == first[1].rows
    assert [type(result.rows[0][1]).__name__ for result in (*first, *second)] == [
        "str", "str", "datetime", "datetime",
    ]  # fmt: skip
