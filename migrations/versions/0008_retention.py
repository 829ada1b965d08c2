"""retention, scrub

Revision ID: 0008
Revises: 0007

What senders were told to be committed before this release is marked as promised, so that no
retention purges it.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

import models.base


revision: str = '0008'
down_revision: str | None = '0007'
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_BOTH = ('purged_at', 'promised_at', 'damaged_at', 'scrubbed_at')


def upgrade() -> None:
    for table, columns in (('instance', (*_BOTH, 'stored_at')), ('artifact', _BOTH)):
        with op.batch_alter_table(table, schema=None) as batch_op:
            for column in columns:
                batch_op.add_column(sa.Column(column, models.base.UtcDateTime(), nullable=True))
    with op.batch_alter_table('instance', schema=None) as batch_op:
        batch_op.create_index(
            'ix_instance_kept_received_at',
            ['received_at'],
            unique=False,
            sqlite_where=sa.text('purged_at IS NULL'),
            postgresql_where=sa.text('purged_at IS NULL'),
        )
    _mark_promises()


def _mark_promises() -> None:
    connection, now = op.get_bind(), datetime.now(UTC)
    orders = sa.table('commitment_order', sa.column('instances', sa.JSON))
    for (references,) in connection.execute(sa.select(orders.c.instances)).all():
        uids = [uid for _, uid in references]
        for name in ('instance', 'artifact'):
            table = sa.table(
                name,
                sa.column('sop_instance_uid', sa.String),
                sa.column('promised_at', models.base.UtcDateTime()),
            )
            for start in range(0, len(uids), 500):
                block = table.c.sop_instance_uid.in_(uids[start : start + 500])
                connection.execute(sa.update(table).where(block).values(promised_at=now))


def downgrade() -> None:
    with op.batch_alter_table('instance', schema=None) as batch_op:
        batch_op.drop_index('ix_instance_kept_received_at')
    # Not by a copy of the table, whose rows others refer to.
    for table, columns in (('artifact', _BOTH), ('instance', (*_BOTH, 'stored_at'))):
        for column in columns:
            op.drop_column(table, column)
