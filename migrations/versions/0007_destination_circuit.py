"""circuit breaker of destinations

Revision ID: 0007
Revises: 0006

The previous release runs against the new columns: it neither reads nor needs them.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

import models.base


revision: str = '0007'
down_revision: str | None = '0006'
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


# Other tables refer to destination: SQLite adds and drops columns in place, no table is copied.
def upgrade() -> None:
    with op.batch_alter_table('destination', schema=None, recreate='never') as batch_op:
        batch_op.add_column(sa.Column('circuit', sa.Enum('closed', 'open', 'half_open', name='circuitstate', native_enum=False, length=40), server_default='closed', nullable=False))
        batch_op.add_column(sa.Column('failures', sa.Integer(), server_default='0', nullable=False))
        batch_op.add_column(sa.Column('retry_at', models.base.UtcDateTime(), nullable=True))
        batch_op.add_column(sa.Column('opened_at', models.base.UtcDateTime(), nullable=True))
        batch_op.add_column(sa.Column('problem', sa.String(length=400), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table('destination', schema=None, recreate='never') as batch_op:
        batch_op.drop_column('problem')
        batch_op.drop_column('opened_at')
        batch_op.drop_column('retry_at')
        batch_op.drop_column('failures')
        batch_op.drop_column('circuit')
