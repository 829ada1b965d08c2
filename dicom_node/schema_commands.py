"""Commands about the database's schema: `db upgrade`, `db check`, `db downgrade`."""

from pathlib import Path

import click

from dicom_node.options import common, open_database, settings_of
from models.files import keep_files_private


@click.group()
def db() -> None:
    """Database schema."""


@db.command()
@common
def upgrade(config: Path | None, data_dir: Path | None) -> None:
    """Bring the database to this release's schema."""
    from migrations import schema  # noqa: PLC0415  Alembic, for whoever wants it

    keep_files_private()
    database = open_database(settings_of(config, data_dir))
    schema.upgrade(database)
    click.echo(f"schema {schema.current_revision(database)}")


@db.command()
@common
def check(config: Path | None, data_dir: Path | None) -> None:
    """Say whether the database has this release's schema; exit 1 when not."""
    from dicom_node.doctor import check_database  # noqa: PLC0415  as above

    click.echo(check_database(open_database(settings_of(config, data_dir))))


@db.command()
@common
@click.argument("revision")
@click.option("--yes", is_flag=True, help="Do not ask.")
def downgrade(
    config: Path | None,
    data_dir: Path | None,
    revision: str,
    yes: bool,  # noqa: FBT001  a flag of the command line
) -> None:
    """Take the database back to an older schema; what only newer ones can hold is deleted.

    Stop every process of this release before, and make a backup. An older release does not need
    it: it runs on the schema of the next one (docs/upgrading.md).
    """
    from migrations import schema  # noqa: PLC0415  as above

    database = open_database(settings_of(config, data_dir))
    if not yes:
        asked = f"Delete what schema {schema.current_revision(database)} holds beyond {revision}?"
        click.confirm(asked, abort=True)
    schema.downgrade(database, revision)
    click.echo(f"schema {schema.current_revision(database)}")
