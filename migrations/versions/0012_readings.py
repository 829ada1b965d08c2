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

ORDERS_OF_STUDIES = {
    'study_date': ['study_date', 'id', 'created_at', 'model_version_id', 'reading_state'],
    'reading_order': ['reading_order', 'id', 'state', 'model_version_id', 'created_at'],
}
OF_ANALYSES = {
    'opacity_percent_total': ['opacity_percent_total', 'instance_id'],
    'severity': ['severity', 'opacity_percent_total', 'instance_id'],
    'model_version_id': ['model_version_id', 'instance_id'],
}
# Seconds of the stages of an analysis, for the metrics.
STAGES = ('decode', 'gate', 'inference', 'measure', 'objects')
# Of several analyses of an image the newest counted that was not replaced (models.result).
ONE_COUNTS = """
UPDATE analysis SET is_replaced = TRUE WHERE is_replaced IS NOT TRUE AND EXISTS (
    SELECT 1 FROM analysis AS newer WHERE newer.instance_id = analysis.instance_id
    AND newer.is_replaced IS NOT TRUE AND newer.id > analysis.id
)
"""
# The figure of a study is the highest of its images (models.result.set_figure).
MODEL_OF_FIGURE = """
UPDATE study SET model_version_id = (
    SELECT max(analysis.model_version_id) FROM analysis
    JOIN instance ON analysis.instance_id = instance.id
    JOIN series ON instance.series_id = series.id
    WHERE series.study_id = study.id AND analysis.is_replaced IS NOT TRUE
    AND analysis.opacity_percent_total = study.opacity_percent
) WHERE opacity_percent IS NOT NULL
"""


def upgrade() -> None:
    for stage in STAGES:
        for table in ('analysis', 'shadow_analysis'):
            op.add_column(table, sa.Column(f'{stage}_seconds', sa.Double(), nullable=True))
    op.create_table(
        'reading',
        sa.Column('id', sa.Integer(), nullable=False),
        sa.Column('study_id', sa.Integer(), nullable=False),
        sa.Column('revision', sa.Integer(), nullable=False),
        sa.Column('percent', sa.Double(), nullable=True),
        sa.Column('severity', sa.String(length=16), nullable=True),
        sa.Column('claimed_by', sa.String(length=64), nullable=True),
        sa.Column('claimed_at', models.base.UtcDateTime(), nullable=True),
        sa.Column('read_by', sa.String(length=64), nullable=True),
        sa.Column('read_at', models.base.UtcDateTime(), nullable=True),
        sa.Column('reopened_at', models.base.UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(['study_id'], ['study.id'], name=op.f('fk_reading_study_id_study')),
        sa.PrimaryKeyConstraint('id', name=op.f('pk_reading')),
        sa.UniqueConstraint('study_id', name=op.f('uq_reading_study_id'))
    )
    op.create_index('ix_reading_claimed_by', 'reading', ['claimed_by'])
    op.create_index('ix_reading_read_by', 'reading', ['read_by'])
    op.create_table(
        'feedback',
        sa.Column('id', sa.Integer(), nullable=False),
        sa.Column('study_id', sa.Integer(), nullable=False),
        sa.Column('analysis_id', sa.Integer(), nullable=False),
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
    op.create_index('ix_feedback_analysis_id_account_id', 'feedback', ['analysis_id', 'account_id'])
    op.create_index('ix_feedback_created_at', 'feedback', ['created_at'])
    op.create_index('ix_feedback_study_id', 'feedback', ['study_id'])

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
        'study', sa.Column('reading_order', sa.Double(), server_default='1.0', nullable=False)
    )
    op.add_column('study', sa.Column('exam_at', models.base.UtcDateTime(), nullable=True))
    op.execute(
        'UPDATE study SET reading_order = -opacity_percent WHERE opacity_percent IS NOT NULL'
    )
    op.add_column('study', sa.Column('model_version_id', sa.Integer(), nullable=True))
    op.execute(MODEL_OF_FIGURE)
    op.create_index('ix_study_created_at', 'study', ['created_at'])
    for name, columns in ORDERS_OF_STUDIES.items():
        op.create_index(f'ix_study_{name}', 'study', columns)
    op.create_index('ix_study_model_version_id', 'study', ['model_version_id', 'created_at'])
    op.create_index(
        'ix_study_worklist', 'study', ['reading_state', 'reading_order', 'id', 'severity', 'state']
    )
    for column in ('severity', 'calling_aet'):
        columns = [column, 'reading_order', 'id', 'reading_state']
        op.create_index(f'ix_study_{column}_reading_order', 'study', columns)
    where = sa.text("state IN ('open', 'settled') AND reading_order > 0")
    op.create_index(
        'ix_study_without_report',
        'study',
        ['reading_state', 'last_received_at', 'id'],
        sqlite_where=where,
        postgresql_where=where,
    )
    _index_images()
    _create_workitems()


def _create_workitems() -> None:
    """Make the tables of Unified Procedure Steps (models.workitem)."""
    op.create_table(
        'workitem',
        sa.Column('id', sa.Integer(), nullable=False),
        sa.Column('workitem_uid', sa.String(length=64), nullable=False),
        sa.Column('number', sa.Integer(), nullable=False),
        sa.Column('uid_root', sa.String(length=64), nullable=False),
        sa.Column('study_id', sa.Integer(), nullable=False),
        sa.Column('state', sa.Enum('SCHEDULED', 'IN PROGRESS', 'COMPLETED', 'CANCELED', name='workitemstate', native_enum=False, length=40), nullable=False),
        sa.Column('revision', sa.Integer(), nullable=False),
        sa.Column('transaction_uid', sa.String(length=64), nullable=True),
        sa.Column('performer', sa.String(length=64), nullable=True),
        sa.Column('canceled_by', sa.String(length=16), nullable=True),
        sa.Column('reason', sa.String(length=1024), nullable=True),
        sa.Column('attributes', sa.JSON(), nullable=False),
        sa.Column('created_at', models.base.UtcDateTime(), nullable=False),
        sa.Column('changed_at', models.base.UtcDateTime(), nullable=False),
        sa.Column('started_at', models.base.UtcDateTime(), nullable=True),
        sa.Column('ended_at', models.base.UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(['study_id'], ['study.id'], name=op.f('fk_workitem_study_id_study')),
        sa.PrimaryKeyConstraint('id', name=op.f('pk_workitem')),
        sa.UniqueConstraint('workitem_uid', name=op.f('uq_workitem_workitem_uid'))
    )
    op.create_index('ix_workitem_study_id', 'workitem', ['study_id'])
    op.create_index('ix_workitem_state', 'workitem', ['state', 'id'])
    op.create_index('ix_workitem_ended_at', 'workitem', ['ended_at'])
    live = sa.text("state IN ('SCHEDULED', 'IN PROGRESS')")
    op.create_index(
        'uq_workitem_live_study_id', 'workitem', ['study_id'], unique=True,
        sqlite_where=live, postgresql_where=live,
    )
    op.create_table(
        'workitem_watcher',
        sa.Column('id', sa.Integer(), nullable=False),
        sa.Column('ae_title', sa.String(length=16), nullable=False),
        sa.Column('is_manager', sa.Boolean(), nullable=False),
        sa.Column('is_locked', sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint('id', name=op.f('pk_workitem_watcher')),
        sa.UniqueConstraint('ae_title', 'is_manager', name=op.f('uq_workitem_watcher_ae_title_is_manager'))
    )
    op.create_table(
        'workitem_subscription',
        sa.Column('ae_title', sa.String(length=16), nullable=False),
        sa.Column('workitem_id', sa.Integer(), nullable=False),
        sa.Column('is_locked', sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(['workitem_id'], ['workitem.id'], name=op.f('fk_workitem_subscription_workitem_id_workitem')),
        sa.PrimaryKeyConstraint('ae_title', 'workitem_id', name=op.f('pk_workitem_subscription'))
    )
    op.create_index('ix_workitem_subscription_workitem_id', 'workitem_subscription', ['workitem_id'])
    op.create_table(
        'workitem_message',
        sa.Column('id', sa.Integer(), nullable=False),
        sa.Column('receiver', sa.String(length=16), nullable=False),
        sa.Column('workitem_id', sa.Integer(), nullable=False),
        sa.Column('event_type', sa.Integer(), nullable=False),
        sa.Column('information', sa.JSON(), nullable=True),
        sa.Column('state', sa.Enum('due', 'accepted', 'dead', name='eventreportstate', native_enum=False, length=40), nullable=False),
        sa.Column('attempts', sa.Integer(), nullable=False),
        sa.Column('next_attempt_at', models.base.UtcDateTime(), nullable=False),
        sa.Column('error', sa.String(length=400), nullable=True),
        sa.Column('created_at', models.base.UtcDateTime(), nullable=False),
        sa.Column('ended_at', models.base.UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(['workitem_id'], ['workitem.id'], name=op.f('fk_workitem_message_workitem_id_workitem')),
        sa.PrimaryKeyConstraint('id', name=op.f('pk_workitem_message'))
    )
    op.create_index('ix_workitem_message_receiver', 'workitem_message', ['receiver', 'state', 'id'])
    op.create_index('ix_workitem_message_workitem_id', 'workitem_message', ['workitem_id'])


def _index_images() -> None:
    """Make the indexes by which images are listed (dicom_node.results)."""
    where = sa.text('reason IS NOT NULL')
    op.drop_index('ix_instance_reason_decided_at', 'instance')
    op.create_index(
        'ix_instance_reason',
        'instance',
        ['reason', 'id', 'decided_at'],
        sqlite_where=where,
        postgresql_where=where,
    )
    op.create_index('ix_instance_patient_id', 'instance', ['patient_id'])
    op.create_index('ix_instance_calling_aet', 'instance', ['calling_aet', 'id'])
    where = sa.text("state <> 'analysed'")
    op.create_index(
        'ix_instance_state',
        'instance',
        ['state', 'id'],
        sqlite_where=where,
        postgresql_where=where,
    )
    op.execute(ONE_COUNTS)
    op.create_index(
        'uq_analysis_counts',
        'analysis',
        ['instance_id'],
        unique=True,
        sqlite_where=sa.text('is_replaced IS 0'),
        postgresql_where=sa.text('is_replaced IS FALSE'),
    )
    for name, columns in OF_ANALYSES.items():
        op.create_index(f'ix_analysis_{name}', 'analysis', columns)
    where = sa.text("modality NOT IN ('CR', 'DX')")
    op.create_index(
        'ix_series_modality',
        'series',
        ['modality', 'study_id'],
        sqlite_where=where,
        postgresql_where=where,
    )
    op.create_index('ix_delivery_created_at', 'delivery', ['created_at'])
    op.create_index('ix_delivery_destination_id', 'delivery', ['destination_id', 'id'])


def downgrade() -> None:
    for table in ('message', 'subscription', 'watcher'):
        op.drop_table(f'workitem_{table}')
    op.drop_table('workitem')
    for name in ('destination_id', 'created_at'):
        op.drop_index(f'ix_delivery_{name}', 'delivery')
    op.drop_index('ix_series_modality', 'series')
    for name in OF_ANALYSES:
        op.drop_index(f'ix_analysis_{name}', 'analysis')
    op.drop_index('uq_analysis_counts', 'analysis')
    for name in ('state', 'calling_aet', 'patient_id', 'reason'):
        op.drop_index(f'ix_instance_{name}', 'instance')
    op.create_index('ix_instance_reason_decided_at', 'instance', ['reason', 'decided_at'])

    for name in (
        'without_report', 'calling_aet_reading_order', 'severity_reading_order', 'reading_order', 'worklist',
        'created_at', 'study_date', 'model_version_id',
    ):
        op.drop_index(f'ix_study_{name}', 'study')
    op.drop_column('study', 'model_version_id')
    op.drop_column('study', 'exam_at')
    op.drop_column('study', 'reading_order')
    op.drop_column('study', 'reading_state')
    op.drop_table('feedback')
    op.drop_table('reading')
    for stage in STAGES:
        for table in ('analysis', 'shadow_analysis'):
            op.drop_column(table, f'{stage}_seconds')
