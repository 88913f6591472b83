"""Quotes, each with those who voted on it."""

import sqlalchemy as sa
from alembic import op

from rosey_rowstore.migrations.columns import Json, service_columns

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "quotes",
        *service_columns(),
        sa.Column("author", sa.String(80), nullable=False),
        sa.Column("source", sa.String(255)),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("voters", Json),  # as {"alice": 1, "bob": -1}
    )


def downgrade() -> None:
    op.drop_table("quotes")
