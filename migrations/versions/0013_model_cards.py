"""model cards, what is in quarantine

Revision ID: 0013
Revises: 0012
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op


revision: str = '0013'
down_revision: str | None = '0012'
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column('model_version', sa.Column('card', sa.Text(), nullable=True))
    op.add_column('model_version', sa.Column('metrics', sa.JSON(), nullable=True))
    where = sa.text("state = 'quarantined'")
    op.create_index(
        'ix_instance_quarantined',
        'instance',
        ['id'],
        sqlite_where=where,
        postgresql_where=where,
    )


def downgrade() -> None:
    op.drop_index('ix_instance_quarantined', 'instance')
    op.drop_column('model_version', 'metrics')
    op.drop_column('model_version', 'card')
