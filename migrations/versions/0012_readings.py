"""readings

Revision ID: 0012
Revises: 0011

Studies that are there already take their place in the worklist by the figure they have.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

import models.base


revision: str = '0012'
down_revision: str | None = '0011'
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        'reading',
        sa.Column('id', sa.Integer(), nullable=False),
        sa.Column('study_id', sa.Integer(), nullable=False),
        sa.Column('workitem_uid', sa.String(length=64), nullable=True),
        sa.Column('transaction_uid', sa.String(length=64), nullable=True),
        sa.Column('revision', sa.Integer(), nullable=False),
        sa.Column('claimed_by', sa.String(length=64), nullable=True),
        sa.Column('claimed_at', models.base.UtcDateTime(), nullable=True),
        sa.Column('read_by', sa.String(length=64), nullable=True),
        sa.Column('read_at', models.base.UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(['study_id'], ['study.id'], name=op.f('fk_reading_study_id_study')),
        sa.PrimaryKeyConstraint('id', name=op.f('pk_reading')),
        sa.UniqueConstraint('study_id', name=op.f('uq_reading_study_id')),
        sa.UniqueConstraint('workitem_uid', name=op.f('uq_reading_workitem_uid'))
    )
    op.create_table(
        'feedback',
        sa.Column('id', sa.Integer(), nullable=False),
        sa.Column('study_id', sa.Integer(), nullable=False),
        sa.Column('analysis_id', sa.Integer(), nullable=True),
        sa.Column('revision', sa.Integer(), nullable=False),
        sa.Column('account_id', sa.Integer(), nullable=False),
        sa.Column('verdict', sa.Enum('accept', 'reject', 'correct', name='verdict', native_enum=False, length=40), nullable=False),
        sa.Column('corrected_percent', sa.Double(), nullable=True),
        sa.Column('comment', sa.String(length=2000), nullable=True),
        sa.Column('created_at', models.base.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(['account_id'], ['account.id'], name=op.f('fk_feedback_account_id_account')),
        sa.ForeignKeyConstraint(['analysis_id'], ['analysis.id'], name=op.f('fk_feedback_analysis_id_analysis')),
        sa.ForeignKeyConstraint(['study_id'], ['study.id'], name=op.f('fk_feedback_study_id_study')),
        sa.PrimaryKeyConstraint('id', name=op.f('pk_feedback'))
    )
    with op.batch_alter_table('feedback', schema=None) as batch_op:
        batch_op.create_index('ix_feedback_created_at', ['created_at'], unique=False)
        batch_op.create_index('ix_feedback_study_id', ['study_id'], unique=False)

    op.add_column(
        'study',
        sa.Column(
            'reading_state',
            sa.Enum(
                'unread', 'claimed', 'read', name='readingstate', native_enum=False, length=40
            ),
            server_default='unread',
            nullable=False,
        ),
    )
    op.add_column(
        'study', sa.Column('urgency', sa.Double(), server_default='-1.0', nullable=False)
    )
    op.create_index('ix_study_worklist', 'study', ['reading_state', 'urgency', 'id'])
    op.execute('UPDATE study SET urgency = opacity_percent WHERE opacity_percent IS NOT NULL')


def downgrade() -> None:
    op.drop_index('ix_study_worklist', 'study')
    op.drop_column('study', 'urgency')
    op.drop_column('study', 'reading_state')
    op.drop_table('feedback')
    op.drop_table('reading')
