"""rejection notes

Revision ID: 0006
Revises: 0005

The previous release runs against the new tables only while they hold no rows of the new states
(withdrawn objects, cancelled jobs): it cannot read those.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

import models.base


revision: str = '0006'
down_revision: str | None = '0005'
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table('key_object',
    sa.Column('id', sa.Integer(), nullable=False),
    sa.Column('instance_id', sa.Integer(), nullable=False),
    sa.Column('study_id', sa.Integer(), nullable=False),
    sa.Column('reason', sa.String(length=40), nullable=True),
    sa.Column('read_at', models.base.UtcDateTime(), nullable=True),
    sa.ForeignKeyConstraint(['instance_id'], ['instance.id'], name=op.f('fk_key_object_instance_id_instance')),
    sa.ForeignKeyConstraint(['study_id'], ['study.id'], name=op.f('fk_key_object_study_id_study')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_key_object')),
    sa.UniqueConstraint('instance_id', name=op.f('uq_key_object_instance_id'))
    )
    with op.batch_alter_table('key_object', schema=None) as batch_op:
        batch_op.create_index('ix_key_object_read_at', ['read_at'], unique=False)
        batch_op.create_index('ix_key_object_study_id', ['study_id'], unique=False)

    op.create_table('rejected_reference',
    sa.Column('key_object_id', sa.Integer(), nullable=False),
    sa.Column('sop_instance_uid', sa.String(length=64), nullable=False),
    sa.ForeignKeyConstraint(['key_object_id'], ['key_object.id'], name=op.f('fk_rejected_reference_key_object_id_key_object')),
    sa.PrimaryKeyConstraint('key_object_id', 'sop_instance_uid', name=op.f('pk_rejected_reference'))
    )
    with op.batch_alter_table('rejected_reference', schema=None) as batch_op:
        batch_op.create_index('ix_rejected_reference_sop_instance_uid', ['sop_instance_uid'], unique=False)

    op.create_table('withdrawn_artifact',
    sa.Column('artifact_id', sa.Integer(), nullable=False),
    sa.Column('study_id', sa.Integer(), nullable=False),
    sa.Column('reason', sa.String(length=40), nullable=False),
    sa.Column('note_id', sa.Integer(), nullable=True),
    sa.Column('created_at', models.base.UtcDateTime(), nullable=False),
    sa.ForeignKeyConstraint(['artifact_id'], ['artifact.id'], name=op.f('fk_withdrawn_artifact_artifact_id_artifact')),
    sa.ForeignKeyConstraint(['note_id'], ['artifact.id'], name=op.f('fk_withdrawn_artifact_note_id_artifact')),
    sa.ForeignKeyConstraint(['study_id'], ['study.id'], name=op.f('fk_withdrawn_artifact_study_id_study')),
    sa.PrimaryKeyConstraint('artifact_id', name=op.f('pk_withdrawn_artifact'))
    )
    with op.batch_alter_table('withdrawn_artifact', schema=None) as batch_op:
        batch_op.create_index('ix_withdrawn_artifact_note_id', ['note_id'], unique=False)
        batch_op.create_index('ix_withdrawn_artifact_study_id', ['study_id'], unique=False)


def downgrade() -> None:
    op.drop_table('withdrawn_artifact')
    op.drop_table('rejected_reference')
    op.drop_table('key_object')
