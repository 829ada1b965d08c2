"""storage commitment

Revision ID: 0004
Revises: 0003

Expand/contract: a migration must let the previous release run against the new tables.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

import models.base


revision: str = '0004'
down_revision: str | None = '0003'
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


# Other tables refer to delivery: SQLite adds and drops columns in place, no table is copied.
def upgrade() -> None:
    with op.batch_alter_table('delivery', schema=None, recreate='never') as batch_op:
        batch_op.add_column(sa.Column('commitment_due_at', models.base.UtcDateTime(), nullable=True))
        batch_op.add_column(sa.Column('commitment_attempts', sa.Integer(), server_default='0', nullable=False))
        batch_op.create_index('ix_delivery_commitment_due_at', ['commitment_due_at'], unique=False)

    op.create_table('commitment_request',
    sa.Column('id', sa.Integer(), nullable=False),
    sa.Column('transaction_uid', sa.String(length=64), nullable=False),
    sa.Column('destination_id', sa.Integer(), nullable=False),
    sa.Column('state', sa.Enum('requested', 'answered', 'expired', 'refused', name='commitmentstate', native_enum=False, length=40), nullable=False),
    sa.Column('requested_at', models.base.UtcDateTime(), nullable=False),
    sa.Column('expires_at', models.base.UtcDateTime(), nullable=False),
    sa.Column('answered_at', models.base.UtcDateTime(), nullable=True),
    sa.Column('status', sa.Integer(), nullable=True),
    sa.Column('error', sa.String(length=400), nullable=True),
    sa.ForeignKeyConstraint(['destination_id'], ['destination.id'], name=op.f('fk_commitment_request_destination_id_destination')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_commitment_request')),
    sa.UniqueConstraint('transaction_uid', name=op.f('uq_commitment_request_transaction_uid'))
    )
    with op.batch_alter_table('commitment_request', schema=None) as batch_op:
        batch_op.create_index('ix_commitment_request_destination_id_state', ['destination_id', 'state'], unique=False)

    op.create_table('commitment_item',
    sa.Column('request_id', sa.Integer(), nullable=False),
    sa.Column('delivery_id', sa.Integer(), nullable=False),
    sa.Column('committed', sa.Boolean(), nullable=True),
    sa.Column('failure_reason', sa.Integer(), nullable=True),
    sa.ForeignKeyConstraint(['delivery_id'], ['delivery.id'], name=op.f('fk_commitment_item_delivery_id_delivery')),
    sa.ForeignKeyConstraint(['request_id'], ['commitment_request.id'], name=op.f('fk_commitment_item_request_id_commitment_request')),
    sa.PrimaryKeyConstraint('request_id', 'delivery_id', name=op.f('pk_commitment_item'))
    )
    with op.batch_alter_table('commitment_item', schema=None) as batch_op:
        batch_op.create_index('ix_commitment_item_delivery_id', ['delivery_id'], unique=False)

    op.create_table('commitment_order',
    sa.Column('id', sa.Integer(), nullable=False),
    sa.Column('transaction_uid', sa.String(length=64), nullable=False),
    sa.Column('calling_aet', sa.String(length=16), nullable=False),
    sa.Column('instances', sa.JSON(), nullable=False),
    sa.Column('is_duplicate', sa.Boolean(), nullable=False),
    sa.Column('state', sa.Enum('due', 'accepted', 'dead', name='eventreportstate', native_enum=False, length=40), nullable=False),
    sa.Column('attempts', sa.Integer(), nullable=False),
    sa.Column('next_attempt_at', models.base.UtcDateTime(), nullable=False),
    sa.Column('error', sa.String(length=400), nullable=True),
    sa.Column('asked_at', models.base.UtcDateTime(), nullable=False),
    sa.Column('reported_at', models.base.UtcDateTime(), nullable=True),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_commitment_order'))
    )
    with op.batch_alter_table('commitment_order', schema=None) as batch_op:
        batch_op.create_index('ix_commitment_order_state_next_attempt_at', ['state', 'next_attempt_at'], unique=False)
        batch_op.create_index('ix_commitment_order_transaction_uid', ['transaction_uid'], unique=False)


def downgrade() -> None:
    op.drop_table('commitment_order')
    op.drop_table('commitment_item')
    op.drop_table('commitment_request')
    with op.batch_alter_table('delivery', schema=None, recreate='never') as batch_op:
        batch_op.drop_index('ix_delivery_commitment_due_at')
        batch_op.drop_column('commitment_attempts')
        batch_op.drop_column('commitment_due_at')
