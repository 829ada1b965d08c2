"""audit seals

Revision ID: 0011
Revises: 0010

Events that are there already are found by their patient too, and are sealed as if they came now.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

import models.base


revision: str = '0011'
down_revision: str | None = '0010'
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

EVENT_ID = sa.BigInteger().with_variant(sa.Integer(), 'sqlite')
OF_ALL = ('study_instance_uid', 'patient_id', 'calling_aet')
PARTIAL = {
    'called_aet': 'calling_aet IS NULL',
    'action': "action <> 'instance_stored'",
    'outcome': "outcome <> 'stored'",
    'actor': 'actor IS NOT NULL',
    'model': 'model IS NOT NULL',
}


def upgrade() -> None:
    op.add_column('audit_event', sa.Column('actor', sa.String(length=64), nullable=True))
    op.add_column('audit_event', sa.Column('model', sa.String(length=129), nullable=True))
    op.add_column('audit_event', sa.Column('patient_id', sa.String(length=64), nullable=True))
    _name_patients()
    op.drop_index('ix_audit_event_at', 'audit_event')
    op.drop_index('ix_audit_event_study_instance_uid', 'audit_event')
    op.create_index('ix_audit_event_at_id', 'audit_event', ['at', 'id'])
    for column in OF_ALL:
        op.create_index(f'ix_audit_event_{column}_at_id', 'audit_event', [column, 'at', 'id'])
    for column, condition in PARTIAL.items():
        where = sa.text(condition)
        op.create_index(
            f'ix_audit_event_{column}_at_id', 'audit_event', [column, 'at', 'id'],
            sqlite_where=where, postgresql_where=where,
        )
    _create_tables()


def _name_patients() -> None:
    """Fill patient_id from the payload; a payload that is JSON's null is none."""
    if op.get_bind().dialect.name == 'sqlite':
        op.execute("UPDATE audit_event SET patient = NULL WHERE patient = 'null'")
        named = "coalesce(json_extract(patient, '$.patient_id'), json_extract(patient, '$.PatientID'))"
    else:
        op.execute("UPDATE audit_event SET patient = NULL WHERE patient::text = 'null'")
        named = "coalesce(patient ->> 'patient_id', patient ->> 'PatientID')"
    op.execute(
        f'UPDATE audit_event SET patient_id = substr({named}, 1, 64) WHERE patient IS NOT NULL'
    )


def _create_tables() -> None:
    op.create_table(
        'audit_seal',
        sa.Column('number', sa.Integer(), autoincrement=False, nullable=False),
        sa.Column('first_event_id', EVENT_ID, nullable=False),
        sa.Column('last_event_id', EVENT_ID, nullable=False),
        sa.Column('events', sa.Integer(), nullable=False),
        sa.Column('sealed_at', models.base.UtcDateTime(), nullable=False),
        sa.Column('key_id', sa.String(length=16), nullable=False),
        sa.Column('previous_mac', sa.String(length=64), nullable=False),
        sa.Column('mac', sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint('number', name=op.f('pk_audit_seal'))
    )
    op.create_index('ix_audit_seal_sealed_at', 'audit_seal', ['sealed_at'])
    op.create_table(
        'audit_mark',
        sa.Column('event_id', EVENT_ID, autoincrement=False, nullable=False),
        sa.Column('seal_number', sa.Integer(), nullable=False),
        sa.Column('event_mac', sa.LargeBinary(length=32), nullable=False),
        sa.Column('patient_mac', sa.LargeBinary(length=32), nullable=True),
        sa.Column('patient_salt', sa.LargeBinary(length=16), nullable=True),
        sa.ForeignKeyConstraint(
            ['seal_number'], ['audit_seal.number'], name=op.f('fk_audit_mark_seal_number_audit_seal')
        ),
        sa.PrimaryKeyConstraint('event_id', name=op.f('pk_audit_mark'))
    )
    op.create_index('ix_audit_mark_seal_number_event_id', 'audit_mark', ['seal_number', 'event_id'])
    op.create_table(
        'audit_forwarding',
        sa.Column('repository', sa.String(length=270), nullable=False),
        sa.Column('seal_number', sa.Integer(), nullable=False),
        sa.Column('sent_at', models.base.UtcDateTime(), nullable=True),
        sa.Column('failing_since', models.base.UtcDateTime(), nullable=True),
        sa.Column('error', sa.String(length=400), nullable=True),
        sa.Column('lease_owner', sa.String(length=120), nullable=True),
        sa.Column('lease_until', models.base.UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint('repository', name=op.f('pk_audit_forwarding'))
    )


def downgrade() -> None:
    op.drop_table('audit_forwarding')
    op.drop_table('audit_mark')
    op.drop_table('audit_seal')
    for column in (*OF_ALL, *PARTIAL):
        op.drop_index(f'ix_audit_event_{column}_at_id', 'audit_event')
    op.drop_index('ix_audit_event_at_id', 'audit_event')
    op.create_index('ix_audit_event_at', 'audit_event', ['at'])
    op.create_index('ix_audit_event_study_instance_uid', 'audit_event', ['study_instance_uid'])
    op.drop_column('audit_event', 'patient_id')
    op.drop_column('audit_event', 'model')
    op.drop_column('audit_event', 'actor')
