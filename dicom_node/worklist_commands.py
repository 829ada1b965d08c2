"""Commands about the reading of studies: `worklist` with its acts, and `feedback`."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from dicom_node.listing import Format, print_rows
from dicom_node.options import common, listing, open_database, settings_of
from dicom_node.quarantine import Operator
from dicom_node.worklist import readings
from dicom_node.worklist.feedback import agreement
from dicom_node.worklist.manifest import export_feedback
from dicom_node.worklist.rows import WorklistFilter, WorklistRow
from dicom_node.worklist.rows import worklist as page_of_rows
from models.audit import AuditAction, record
from models.files import keep_files_private
from models.session import Database
from models.settings import Settings
from models.states import ReadingState, StudyState

_NAME_LENGTH: Final = 64
_BLOCK: Final = 500
_COLUMNS: Final = [
    ("opacity %", "percent"),
    ("band", "severity"),
    ("priority", "priority"),
    ("patient", "patient_id"),
    ("accession", "accession_number"),
    ("study", "study_instance_uid"),
    ("exam", "exam_at"),
    ("received", "received_at"),
    ("state", "state"),
    ("not analysed", "reasons"),
    ("caveats", "caveats"),
    ("reading", "reading_state"),
    ("by", "reader"),
    ("late", "note"),
]
_AGREEMENT_COLUMNS: Final = [
    ("model", "model"),
    ("version", "version"),
    ("opinions", "opinions"),
    ("accepted", "accepted"),
    ("rejected", "rejected"),
    ("corrected", "corrected"),
    ("mean difference", "mean_difference"),
]
_LATE: Final = "result late: read anyway"


def _utc(
    _context: click.Context, _option: click.Parameter, value: datetime | None
) -> datetime | None:
    """Read a date without a zone as local time, as a person means it."""
    return value.astimezone(UTC) if value else None


def _one_of(*values: str) -> click.Choice[str]:
    return click.Choice(values)


@click.group(invoke_without_command=True)
@common
@listing
@click.option("--since", type=click.DateTime(), callback=_utc, help="Received at or after.")
@click.option("--until", type=click.DateTime(), callback=_utc, help="Received before.")
@click.option("--patient-id")
@click.option("--accession", "accession_number")
@click.option("--study-uid", "study_instance_uid")
@click.option("--min-percent", type=float, help="Opacity at least this many percent.")
@click.option(
    "--state", type=_one_of(*(each.value for each in StudyState)), help="How far the study is."
)
@click.option("--band", "severity", type=_one_of("severe", "moderate", "mild", "none"))
@click.option("--priority", type=_one_of("HIGH", "MEDIUM", "LOW"))
@click.option("--sender", "calling_aet", metavar="AET", help="Calling AE title.")
@click.option("--reader", help="Who has claimed or read it; with --reading claimed, read or all.")
@click.option(
    "--reading",
    type=_one_of(*(each.value for each in ReadingState), "all"),
    default=ReadingState.UNREAD.value,
    show_default=True,
)
@click.pass_context
def worklist(
    context: click.Context,
    /,
    config: Path | None,
    data_dir: Path | None,
    form: str | None,
    reading: str,
    state: str | None,
    **wanted: Any,  # noqa: ANN401  the other fields of WorklistFilter
) -> None:
    """List what to read first: late results, then by percentage, then what came first."""
    if context.invoked_subcommand is not None:
        context.obj = (config, data_dir)
        return
    settings = settings_of(config, data_dir)
    database = open_database(settings)
    chosen = WorklistFilter(
        reading_state=None if reading == "all" else ReadingState(reading),
        state=StudyState(state) if state else None,
        **wanted,
    )
    with database.write() as session:
        record(session, AuditAction.PATIENT_DATA_READ, "worklist", actor=_who())
    rows = _rows(database, settings, chosen)
    print_rows(rows, Format(form or Format.TABLE), _COLUMNS)


def _rows(
    database: Database, settings: Settings, wanted: WorklistFilter
) -> Iterator[dict[str, Any]]:
    """Yield late studies first, then the others; each page is a look of its own at the rows."""
    for late in (True, False):
        cursor: str | None = None
        while True:
            part = WorklistFilter(**{**_fields(wanted), "late": late})
            with database.read() as session:
                page = page_of_rows(session, settings, part, cursor, _BLOCK)
            yield from map(_json_ready, page.rows)
            cursor = page.next
            if cursor is None:
                break


def _fields(wanted: WorklistFilter) -> dict[str, Any]:
    return {name: getattr(wanted, name) for name in WorklistFilter.__dataclass_fields__}


def _json_ready(row: WorklistRow) -> dict[str, Any]:
    return {key: _plain(value) for key, value in asdict(row).items()} | {
        "note": _LATE if row.is_late else None
    }


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds")
    return list(value) if isinstance(value, tuple) else value


def _who() -> str:
    return Operator.of_this_process("").name[:_NAME_LENGTH]


def _act(
    context: click.Context,
    config: Path | None,
    data_dir: Path | None,
    study_uid: str,
    change: Callable[..., object],
) -> None:
    """Carry out one act as the user of the operating system, who is an operator of the node."""
    outer_config, outer_dir = context.obj
    settings = settings_of(config or outer_config, data_dir or outer_dir)
    with open_database(settings).write() as session:
        change(session, study_uid, readings.Reader(_who(), is_operator=True))


@worklist.command()
@common
@click.argument("study_uid")
@click.pass_context
def claim(
    context: click.Context, /, config: Path | None, data_dir: Path | None, study_uid: str
) -> None:
    """Take a study to read, so that nobody else does."""
    _act(context, config, data_dir, study_uid, readings.claim)
    click.echo("claimed")


@worklist.command()
@common
@click.argument("study_uid")
@click.pass_context
def release(
    context: click.Context, /, config: Path | None, data_dir: Path | None, study_uid: str
) -> None:
    """Give a claimed study back, whoever has claimed it."""
    _act(context, config, data_dir, study_uid, readings.release)
    click.echo("given back")


@worklist.command()
@common
@click.argument("study_uid")
@click.pass_context
def read(
    context: click.Context, /, config: Path | None, data_dir: Path | None, study_uid: str
) -> None:
    """Say that a study was read."""
    _act(context, config, data_dir, study_uid, readings.read)
    click.echo("read")


@worklist.command()
@common
@click.argument("study_uid")
@click.pass_context
def unread(
    context: click.Context, /, config: Path | None, data_dir: Path | None, study_uid: str
) -> None:
    """Open the reading of a study again, whoever has read it."""
    _act(context, config, data_dir, study_uid, readings.unread)
    click.echo("unread")


@click.group()
def feedback() -> None:
    """Count and export what readers think of the figures."""


@feedback.command("summary")
@common
@listing
@click.option("--since", type=click.DateTime(), callback=_utc, help="Given at or after.")
@click.option("--until", type=click.DateTime(), callback=_utc, help="Given before.")
def summary(
    config: Path | None,
    data_dir: Path | None,
    form: str | None,
    since: datetime | None,
    until: datetime | None,
) -> None:
    """Count how readers agree with each model version."""
    with open_database(settings_of(config, data_dir)).read() as session:
        rows = [asdict(each) for each in agreement(session, since, until)]
    print_rows(rows, Format(form or Format.TABLE), _AGREEMENT_COLUMNS)


@feedback.command("export")
@common
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="New folder for images, labels and manifest.csv.",
)
@click.option("--since", type=click.DateTime(), callback=_utc, help="Given at or after.")
@click.option("--until", type=click.DateTime(), callback=_utc, help="Given before.")
def export(
    config: Path | None,
    data_dir: Path | None,
    out: Path,
    since: datetime | None,
    until: datetime | None,
) -> None:
    """Write what readers accepted as training data, and the rest to be drawn anew.

    The files hold patient data: nothing is de-identified.
    """
    settings = settings_of(config, data_dir)
    keep_files_private()
    done = export_feedback(open_database(settings), settings, out, _who(), since, until)
    click.echo(
        f"{done.accepted} accepted, {done.to_relabel} to draw anew, {done.gone} not here any more"
    )
    click.echo(f"{out} holds patient data: de-identify it before it leaves the hospital", err=True)
