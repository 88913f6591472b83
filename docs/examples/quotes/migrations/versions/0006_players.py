"""Players of the guessing game."""

import sqlalchemy as sa
from alembic import op

from rosey_rowstore.migrations.columns import Datetime, service_columns

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "players",
        *service_columns(),
        sa.Column("user", sa.String(64), nullable=False),
        sa.Column("points", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("rounds", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("last_seen", Datetime),
    )
    op.create_index("players__user__key", "players", ["user"], unique=True)


def downgrade() -> None:
    op.drop_table("players")
