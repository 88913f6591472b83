"""A score beside the votes, counted once for the quotes that are there."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

quotes = sa.table("quotes", sa.column("id"), sa.column("voters"), sa.column("score"))


def upgrade() -> None:
    op.add_column("quotes", sa.Column("score", sa.BigInteger, nullable=False, server_default="0"))
    connection = op.get_bind()
    for row in connection.execute(
        sa.select(quotes.c.id, quotes.c.voters).where(quotes.c.voters.is_not(None))
    ):
        votes = json.loads(row.voters) if isinstance(row.voters, str) else row.voters
        connection.execute(sa.update(quotes).where(quotes.c.id == row.id).values(score=sum(votes.values())))


def downgrade() -> None:
    op.drop_column("quotes", "score")
