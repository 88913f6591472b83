"""Votes in a table of their own: the column `voters` is split, and goes."""

import json

import sqlalchemy as sa
from alembic import op

from rosey_rowstore.migrations.columns import Json, service_columns

revision = "0005"
down_revision = "0004"

quotes = sa.table("quotes", sa.column("id"), sa.column("voters", sa.Text))
votes = sa.table("votes", sa.column("quote"), sa.column("user"), sa.column("value"))


def upgrade() -> None:
    op.create_table(
        "votes",
        *service_columns(),
        sa.Column("quote", sa.BigInteger, sa.ForeignKey("quotes.id"), nullable=False),
        sa.Column("user", sa.String(64), nullable=False),
        sa.Column("value", sa.BigInteger, nullable=False),
    )
    op.create_index("votes__quote__user__key", "votes", ["quote", "user"], unique=True)
    connection = op.get_bind()
    rows = connection.execute(sa.select(quotes.c.id, sa.cast(quotes.c.voters, sa.Text).label("voters"))).all()
    cast = [
        {"quote": row.id, "user": user, "value": value}
        for row in rows
        for user, value in json.loads(row.voters or "{}").items()
    ]
    if cast:
        connection.execute(sa.insert(votes), cast)
    op.drop_column("quotes", "voters")


def downgrade() -> None:
    op.add_column("quotes", sa.Column("voters", Json))
    connection = op.get_bind()
    voters: dict[int, dict[str, int]] = {}
    for vote in connection.execute(sa.select(votes.c.quote, votes.c.user, votes.c.value)):
        voters.setdefault(vote.quote, {})[vote.user] = vote.value
    for quote, who in voters.items():
        text = sa.text("UPDATE quotes SET voters = :voters WHERE id = :id")
        connection.execute(
            text.bindparams(sa.bindparam("voters", type_=sa.JSON)), {"voters": who, "id": quote}
        )
    op.drop_table("votes")
