"""Alembic migrations of the tables in `models`."""
