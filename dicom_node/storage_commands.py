"""Commands about what is on disk: `retention`, `scrub`, `db backup`."""

import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dicom_node.backup import backup_database
from dicom_node.listing import Format, print_rows
from dicom_node.options import common, listing, open_database, settings_of
from dicom_node.retention import Purge, Retention
from dicom_node.scrub import Fault, Scrub, ScrubFilter
from models.files import keep_files_private

_PURGE_COLUMNS = [
    ("what", "kind"),
    ("id", "id"),
    ("study", "study_instance_uid"),
    ("instance", "sop_instance_uid"),
    ("stored", "stored_at"),
    ("bytes", "size_bytes"),
    ("because of", "cause"),
]
_FAULT_COLUMNS = [
    ("fault", "fault"),
    ("what", "kind"),
    ("id", "id"),
    ("instance", "sop_instance_uid"),
    ("file", "path"),
]


@click.command()
@common
@listing
@click.option("--dry-run", is_flag=True, help="Only list what would be purged.")
def retention(
    config: Path | None,
    data_dir: Path | None,
    form: str | None,
    dry_run: bool,  # noqa: FBT001  a flag of the command line
) -> None:
    """Purge now what the settings of [retention] let go; the node does it by itself as well."""
    settings = settings_of(config, data_dir)
    keep_files_private()
    if not settings.retention.is_on:
        click.echo("retention is off: nothing is ever deleted", err=True)
    it = Retention(settings, open_database(settings))
    found = it.preview() if dry_run else it.run()
    print_rows(map(_purge_row, found), Format(form or Format.TABLE), _PURGE_COLUMNS)
    if not dry_run and (waiting := it.waiting()):
        click.echo(f"{waiting} images wait for a worker to compare them: run it again", err=True)


def _purge_row(purge: Purge) -> dict[str, Any]:
    row = asdict(purge) | {"stored_at": purge.stored_at.isoformat(timespec="milliseconds")}
    del row["storage_key"]
    return row


@click.command()
@common
@listing
@click.option("--since", type=click.DateTime(), help="Stored at or after.")
@click.option(
    "--unread-for", type=click.FloatRange(0, 36_500), metavar="DAYS", help="Not read for so long."
)
@click.option("--limit", type=click.IntRange(min=1), help="At most so many files.")
@click.option(
    "--rate", type=click.FloatRange(min=0.001), metavar="MB/S", help="Read no faster than this."
)
def scrub(
    config: Path | None,
    data_dir: Path | None,
    form: str | None,
    since: datetime | None,
    unread_for: float | None,
    limit: int | None,
    rate: float | None,
) -> None:
    """Read every stored file and say which are missing or damaged; exit 1 when any is.

    Files that no row has are listed by a run without --since, --unread-for and --limit.
    """
    settings = settings_of(config, data_dir)
    wanted = ScrubFilter(since.astimezone(UTC) if since else None, unread_for, limit)
    run = Scrub(settings, open_database(settings), wanted, rate * 1e6 if rate else None)
    rows = ({**asdict(found)} for found in _with_progress(run))
    print_rows(rows, Format(form or Format.TABLE), _FAULT_COLUMNS)
    tally = run.tally
    faults = ", ".join(f"{tally.faults[fault]} {fault.value}" for fault in Fault)
    click.echo(f"{tally.files} files, {tally.size_bytes / 2**20:.1f} MiB read: {faults}", err=True)
    sys.exit(0 if tally.is_sound else 1)


def _with_progress(run: Scrub) -> Iterator[Any]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("reading", total=run.expected())
        yield from run.run(lambda: progress.advance(task))


@click.command("backup")
@common
@click.argument("target", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE")
def backup(config: Path | None, data_dir: Path | None, target: Path) -> None:
    """Copy the embedded database into a new file while the node runs.

    Files second: see "Backup and restore" in docs/operations.md.
    """
    keep_files_private()
    try:
        size = backup_database(open_database(settings_of(config, data_dir)), target)
    except (OSError, sqlite3.Error) as error:
        text = error.strerror if isinstance(error, OSError) else str(error)
        msg = f"{target} could not be written: {text}"
        raise click.ClickException(msg) from error
    click.echo(f"{target}: {size} bytes")
