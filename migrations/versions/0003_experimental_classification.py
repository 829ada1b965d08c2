"""experimental classification

Revision ID: 0003
Revises: 0002

Expand/contract: a migration must let the previous release run against the new tables.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op


revision: str = '0003'
down_revision: str | None = '0002'
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


# Other tables refer to analysis: SQLite adds and drops the column in place, no table is copied.
def upgrade() -> None:
    with op.batch_alter_table('analysis', schema=None, recreate='never') as batch_op:
        batch_op.add_column(sa.Column('classification', sa.JSON(none_as_null=True), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table('analysis', schema=None, recreate='never') as batch_op:
        batch_op.drop_column('classification')
