"""accounts

Revision ID: 0010
Revises: 0009
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

import models.base


revision: str = '0010'
down_revision: str | None = '0009'
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        'account',
        sa.Column('id', sa.Integer(), nullable=False),
        sa.Column('name', sa.String(length=64), nullable=False),
        sa.Column('role', sa.Enum('viewer', 'operator', 'admin', name='role', native_enum=False, length=40), nullable=False),
        sa.Column('password_hash', sa.String(length=200), nullable=True),
        sa.Column('issuer', sa.String(length=255), nullable=True),
        sa.Column('subject', sa.String(length=255), nullable=True),
        sa.Column('is_disabled', sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column('failures', sa.Integer(), server_default='0', nullable=False),
        sa.Column('locked_until', models.base.UtcDateTime(), nullable=True),
        sa.Column('created_at', models.base.UtcDateTime(), nullable=False),
        sa.Column('last_login_at', models.base.UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint('id', name=op.f('pk_account')),
        sa.UniqueConstraint('issuer', 'subject', name=op.f('uq_account_issuer_subject')),
        sa.UniqueConstraint('name', name=op.f('uq_account_name'))
    )
    op.create_table(
        'invitation',
        sa.Column('id', sa.Integer(), nullable=False),
        sa.Column('token_sha256', sa.String(length=64), nullable=False),
        sa.Column('role', sa.Enum('viewer', 'operator', 'admin', name='role', native_enum=False, length=40), nullable=False),
        sa.Column('is_first', sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column('created_at', models.base.UtcDateTime(), nullable=False),
        sa.Column('expires_at', models.base.UtcDateTime(), nullable=False),
        sa.Column('used_at', models.base.UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint('id', name=op.f('pk_invitation')),
        sa.UniqueConstraint('token_sha256', name=op.f('uq_invitation_token_sha256'))
    )
    op.create_table(
        'api_token',
        sa.Column('id', sa.Integer(), nullable=False),
        sa.Column('name', sa.String(length=64), nullable=False),
        sa.Column('token_sha256', sa.String(length=64), nullable=False),
        sa.Column('account_id', sa.Integer(), nullable=False),
        sa.Column('scopes', sa.JSON(), nullable=False),
        sa.Column('created_at', models.base.UtcDateTime(), nullable=False),
        sa.Column('expires_at', models.base.UtcDateTime(), nullable=False),
        sa.Column('revoked_at', models.base.UtcDateTime(), nullable=True),
        sa.Column('last_used_at', models.base.UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(['account_id'], ['account.id'], name=op.f('fk_api_token_account_id_account')),
        sa.PrimaryKeyConstraint('id', name=op.f('pk_api_token')),
        sa.UniqueConstraint('token_sha256', name=op.f('uq_api_token_token_sha256'))
    )
    op.create_table(
        'login_session',
        sa.Column('id', sa.Integer(), nullable=False),
        sa.Column('token_sha256', sa.String(length=64), nullable=False),
        sa.Column('account_id', sa.Integer(), nullable=False),
        sa.Column('created_at', models.base.UtcDateTime(), nullable=False),
        sa.Column('last_seen_at', models.base.UtcDateTime(), nullable=False),
        sa.Column('expires_at', models.base.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(['account_id'], ['account.id'], name=op.f('fk_login_session_account_id_account')),
        sa.PrimaryKeyConstraint('id', name=op.f('pk_login_session')),
        sa.UniqueConstraint('token_sha256', name=op.f('uq_login_session_token_sha256'))
    )
    op.create_index('ix_login_session_expires_at', 'login_session', ['expires_at'])


def downgrade() -> None:
    op.drop_table('login_session')
    op.drop_table('api_token')
    op.drop_table('invitation')
    op.drop_table('account')
