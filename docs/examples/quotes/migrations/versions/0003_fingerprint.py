"""A fingerprint of every text, so that no quote is brought in twice."""

import hashlib

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

quotes = sa.table("quotes", sa.column("id"), sa.column("text"), sa.column("fingerprint"))


def upgrade() -> None:
    op.add_column("quotes", sa.Column("fingerprint", sa.String(32)))
    connection = op.get_bind()
    rows = connection.execute(sa.select(quotes.c.id, quotes.c.text)).all()
    seen: set[str] = set()
    for row in rows:
        # The plugin's own rule: of the text as it was read, where a line's end was " / ".
        fingerprint = hashlib.sha256(row.text.replace("\n", " / ").encode()).hexdigest()[:32]
        if fingerprint in seen:  # the same text twice is told apart by its number
            fingerprint = hashlib.sha256(f"{row.id} {row.text}".encode()).hexdigest()[:32]
        seen.add(fingerprint)
        connection.execute(sa.update(quotes).where(quotes.c.id == row.id).values(fingerprint=fingerprint))
    with op.batch_alter_table("quotes") as batch:
        batch.alter_column("fingerprint", existing_type=sa.String(32), nullable=False)
    op.create_index("quotes__fingerprint__key", "quotes", ["fingerprint"], unique=True)


def downgrade() -> None:
    op.drop_index("quotes__fingerprint__key", "quotes")
    op.drop_column("quotes", "fingerprint")
