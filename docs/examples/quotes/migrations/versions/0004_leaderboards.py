"""Indexes for the best quotes and the best of an author, made while the plugin goes on."""

from alembic import op

revision = "0004"
down_revision = "0003"
transactional = False  # CREATE INDEX CONCURRENTLY blocks no writer, and runs in no transaction


def upgrade() -> None:
    op.create_index("quotes__author__score__idx", "quotes", ["author", "score"], postgresql_concurrently=True)
    op.create_index("quotes__score__idx", "quotes", ["score"], postgresql_concurrently=True)


def downgrade() -> None:
    op.drop_index("quotes__score__idx", "quotes", postgresql_concurrently=True)
    op.drop_index("quotes__author__score__idx", "quotes", postgresql_concurrently=True)
