"""identity updates

Revision ID: 0005
Revises: 0004

The previous release runs against the new tables only while they hold no rows of the new states
(superseded objects, compare jobs): it cannot read those.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import sqlalchemy as sa
from alembic import op

import models.base


revision: str = '0005'
down_revision: str | None = '0004'
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


# Alembic compares no CHECK constraints: these are written by hand.
SUBJECT_OF_JOB_BEFORE = (
    "(kind = 'analyse' AND instance_id IS NOT NULL AND model_selector IS NOT NULL"
    " AND study_id IS NULL AND revision IS NULL AND analysis_id IS NULL)"
    " OR (kind = 'report' AND study_id IS NOT NULL AND revision IS NOT NULL"
    " AND instance_id IS NULL AND model_selector IS NULL AND analysis_id IS NULL)"
    " OR (kind = 'shadow' AND analysis_id IS NOT NULL AND model_selector IS NOT NULL"
    " AND instance_id IS NULL AND study_id IS NULL AND revision IS NULL)"
)
SUBJECT_OF_JOB = SUBJECT_OF_JOB_BEFORE + (
    " OR (kind = 'compare' AND instance_id IS NOT NULL AND model_selector IS NULL"
    " AND study_id IS NULL AND revision IS NULL AND analysis_id IS NULL)"
)
LIVE = "state NOT IN ('quarantined', 'superseded')"
LIVE_BEFORE = "state <> 'quarantined'"


@contextmanager
def _without_children_of_job() -> Iterator[None]:
    """Take shadow_analysis away while SQLite copies the table that it refers to.

    SQLite changes a constraint by copying the table and dropping the old one, and it refuses to
    drop a table that rows refer to. Other databases change the constraint in place.
    """
    connection = op.get_bind()
    if connection.dialect.name != 'sqlite':
        yield
        return
    made_by = connection.exec_driver_sql(
        "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = 'shadow_analysis'"
    ).scalar_one()
    connection.exec_driver_sql("CREATE TABLE shadow_kept AS SELECT * FROM shadow_analysis")
    connection.exec_driver_sql("DROP TABLE shadow_analysis")
    yield
    connection.exec_driver_sql(made_by)
    connection.exec_driver_sql("INSERT INTO shadow_analysis SELECT * FROM shadow_kept")
    connection.exec_driver_sql("DROP TABLE shadow_kept")


def _replace_live_index(condition: str) -> None:
    with op.batch_alter_table('instance', schema=None, recreate='never') as batch_op:
        batch_op.drop_index('uq_instance_live_sop_instance_uid')
        batch_op.create_index(
            'uq_instance_live_sop_instance_uid', ['sop_instance_uid'], unique=True,
            sqlite_where=sa.text(condition), postgresql_where=sa.text(condition),
        )


# Other tables refer to instance: SQLite adds and drops its columns in place, no table is copied.
def upgrade() -> None:
    # A reference that is added in place must be part of the column's own definition.
    op.execute(
        "ALTER TABLE instance ADD COLUMN supersedes_id INTEGER"
        " CONSTRAINT fk_instance_supersedes_id_instance REFERENCES instance (id)"
    )
    with op.batch_alter_table('instance', schema=None, recreate='never') as batch_op:
        batch_op.add_column(sa.Column('correction', sa.JSON(none_as_null=True), nullable=True))
        batch_op.add_column(sa.Column('identity_revision', sa.Integer(), server_default='0', nullable=False))
        batch_op.add_column(sa.Column('pixel_sha256', sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column('header_sha256', sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column('file_header_sha256', sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column('decided_at', models.base.UtcDateTime(), nullable=True))
        batch_op.create_index('ix_instance_reason_decided_at', ['reason', 'decided_at'], unique=False)
    _replace_live_index(LIVE)

    with _without_children_of_job(), op.batch_alter_table('job', schema=None) as batch_op:
        batch_op.add_column(sa.Column('identity_revision', sa.Integer(), server_default='0', nullable=False))
        batch_op.drop_constraint(batch_op.f('ck_job_subject'), type_='check')
        batch_op.create_check_constraint(batch_op.f('ck_job_subject'), SUBJECT_OF_JOB)
        batch_op.drop_constraint(batch_op.f('uq_job_instance_id_model_selector'), type_='unique')
        batch_op.create_unique_constraint(batch_op.f('uq_job_instance_id_model_selector_identity_revision'), ['instance_id', 'model_selector', 'identity_revision'])


def downgrade() -> None:
    op.execute("DELETE FROM job WHERE kind = 'compare'")
    # The release before knows one analyse job per instance and selector: the first one stays.
    op.execute("DELETE FROM job WHERE kind = 'analyse' AND identity_revision > 0")
    op.execute("UPDATE instance SET state = 'quarantined' WHERE state = 'superseded'")
    with _without_children_of_job(), op.batch_alter_table('job', schema=None) as batch_op:
        batch_op.drop_constraint(batch_op.f('uq_job_instance_id_model_selector_identity_revision'), type_='unique')
        batch_op.create_unique_constraint(batch_op.f('uq_job_instance_id_model_selector'), ['instance_id', 'model_selector'])
        batch_op.drop_constraint(batch_op.f('ck_job_subject'), type_='check')
        batch_op.create_check_constraint(batch_op.f('ck_job_subject'), SUBJECT_OF_JOB_BEFORE)
        batch_op.drop_column('identity_revision')

    _replace_live_index(LIVE_BEFORE)
    with op.batch_alter_table('instance', schema=None, recreate='never') as batch_op:
        batch_op.drop_index('ix_instance_reason_decided_at')
        batch_op.drop_column('decided_at')
        batch_op.drop_column('file_header_sha256')
        batch_op.drop_column('header_sha256')
        batch_op.drop_column('pixel_sha256')
        batch_op.drop_column('identity_revision')
        batch_op.drop_column('correction')
        batch_op.drop_column('supersedes_id')
