"""audit seals

Revision ID: 0011
Revises: 0010
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op


revision: str = '0011'
down_revision: str | None = '0010'
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column('audit_event', sa.Column('actor', sa.String(length=64), nullable=True))
    op.add_column('audit_event', sa.Column('model', sa.String(length=129), nullable=True))


def downgrade() -> None:
    op.drop_column('audit_event', 'model')
    op.drop_column('audit_event', 'actor')
