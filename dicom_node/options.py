"""What every command takes, and what it makes of it: settings and database."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click

from dicom_node.listing import Format
from migrations.schema import require_usable
from models import tracing
from models.attendance import note_start, note_stop
from models.files import keep_files_private
from models.log import set_up_logging
from models.running import register
from models.session import Database
from models.settings import Settings, load_settings

Command = Callable[..., None]


def common(command: Command) -> Command:
    """Add `--config` and `--data-dir`, which every command takes."""
    for option in (
        click.option(
            "--data-dir",
            type=click.Path(path_type=Path, file_okay=False),
            help="Folder for spool, results and embedded database.",
        ),
        click.option(
            "--config",
            type=click.Path(path_type=Path, dir_okay=False),
            envvar="DICOM_NODE_CONFIG",
            help="node.toml",
        ),
    ):
        command = option(command)
    return command


def listing(command: Command) -> Command:
    """Add `--json` and `--csv`, which every listing command takes."""
    for option in (
        click.option("--csv", "form", flag_value=Format.CSV.value, help="CSV with a header line."),
        click.option("--json", "form", flag_value=Format.JSON.value, help="One object per line."),
    ):
        command = option(command)
    return command


def as_utc(
    _context: click.Context, _option: click.Parameter, value: datetime | None
) -> datetime | None:
    """Read a date without a zone as local time, as a person means it. For `callback=`."""
    return value.astimezone(UTC) if value else None


def settings_of(config: Path | None, data_dir: Path | None) -> Settings:
    """Return the settings. Raises click.UsageError, in words, when they cannot be read."""
    try:
        return load_settings(config, data_dir=data_dir)
    except (ValueError, OSError) as error:
        raise click.UsageError(str(error)) from error


def serve_as(role: str, settings: Settings) -> None:
    """Prepare a long-running process: log, private files, its place in metrics and audit.

    Raises SchemaError when the database has an older schema than this release.
    """
    keep_files_private()
    log = settings.log
    set_up_logging(role, level=log.level, as_json=log.format == "json")
    register(settings.data_dir, role)
    try:
        tracing.start(settings.monitoring, role)
    except tracing.TracingError as error:
        raise click.UsageError(str(error)) from error
    if role != "up":  # its children are the roles
        if remark := require_usable(settings.effective_database_url):
            logging.getLogger(__name__).warning("%s", remark)
        note_start(settings, role)
        click.get_current_context().call_on_close(lambda: note_stop(settings, role))


def open_database(settings: Settings) -> Database:
    """Open the database; its connections are closed when the command ends."""
    database = Database(settings.effective_database_url)
    click.get_current_context().call_on_close(database.dispose)
    return database
