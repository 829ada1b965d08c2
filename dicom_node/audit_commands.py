"""`dicom-node audit`: who did what, the proof that nobody changed it, redaction, export."""

import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final, TextIO

import click
from rich.console import Console
from rich.progress import Progress

from dicom_node.audit.export import FORMATS, export_lines
from dicom_node.audit.keys import add_key, key_path
from dicom_node.audit.log import AuditFilter, every_event, newest_events
from dicom_node.audit.proof import Proof
from dicom_node.audit.redactions import Redaction, events_to_redact
from dicom_node.audit.redactions import redact as redact_events
from dicom_node.audit.use import record_use
from dicom_node.errors import OperatorError
from dicom_node.listing import Format, print_rows
from dicom_node.options import Command, as_utc, common, listing, open_database, settings_of
from dicom_node.quarantine import Operator
from models.audit import AuditAction, record
from models.settings import Settings

_COLUMNS: Final = (
    ("time", "at"),
    ("action", "action"),
    ("outcome", "outcome"),
    ("from", "calling_aet"),
    ("to", "called_aet"),
    ("user", "actor"),
    ("model", "model"),
    ("patient", "patient_id"),
    ("study", "study_instance_uid"),
    ("id", "id"),
    ("seal", "seal"),
)
_SHOWN: Final = 200  # events of a table without --limit


def _filters(command: Command) -> Command:
    """Add the fields of AuditFilter."""
    for option in (
        click.option("--outcome", help="As in the column of that name: stored, sent, refused, …"),
        click.option("--action", type=click.Choice([action.value for action in AuditAction])),
        click.option("--model", help="A name, a version, or both: 'unet 1.2.0'."),
        click.option("--user", help="Account, API token or user of the operating system."),
        click.option("--ae", "ae_title", help="AE title of the other side."),
        click.option("--study-uid", "study_instance_uid"),
        click.option("--accession", "accession_number"),
        click.option("--patient-id"),
        click.option("--until", type=click.DateTime(), callback=as_utc, help="Before."),
        click.option("--since", type=click.DateTime(), callback=as_utc, help="At or after."),
    ):
        command = option(command)
    return command


def _wanted(values: dict[str, Any]) -> AuditFilter:
    action = values.pop("action")
    return AuditFilter(action=AuditAction(action) if action else None, **values)


@click.group(invoke_without_command=True)
@common
@listing
@_filters
@click.option("--limit", type=click.IntRange(1), help=f"Default: {_SHOWN} in a table, else all.")
@click.pass_context
def audit(
    context: click.Context,
    /,
    config: Path | None,
    data_dir: Path | None,
    form: str | None,
    limit: int | None,
    **wanted: Any,  # noqa: ANN401  the fields of AuditFilter
) -> None:
    """List who did what, newest first; every listing is an event itself."""
    if context.invoked_subcommand is not None:
        context.obj = (config, data_dir)
        return
    database = open_database(settings_of(config, data_dir))
    chosen = _wanted(wanted)
    record_use(database, AuditAction.AUDIT_READ, "command", _me(), vars(chosen))
    shape = Format(form or Format.TABLE)
    if shape is Format.TABLE and limit is None:
        limit = _SHOWN
    with database.read() as session:
        found = newest_events(session, chosen)
        rows = list(islice(found, limit)) if shape is Format.TABLE else islice(found, limit)
        print_rows(_in_shape(rows, shape), shape, _COLUMNS)
        if shape is Format.TABLE and next(found, None) is not None:
            click.echo(f"the newest {limit}; there are older ones: --limit, --until", err=True)


def _in_shape(rows: Any, shape: Format) -> Iterator[dict[str, Any]]:  # noqa: ANN401  an iterable
    """Yield rows with the same columns each: what is nested becomes JSON in CSV."""
    for row in rows:
        nested = ("details", "patient") if shape is Format.CSV else ()
        yield row | {name: json.dumps(row[name]) for name in nested}


def _settings(config: Path | None, data_dir: Path | None) -> Settings:
    """Return the settings of a subcommand; where it says nothing, `audit` may have, before it."""
    before = click.get_current_context().find_object(tuple) or (None, None)
    return settings_of(config or before[0], data_dir or before[1])


def _me() -> str:
    return Operator.of_this_process("").name[:64]


@audit.command()
@common
@listing
@click.option("--anchor", type=click.Path(path_type=Path), help="Default: that of the settings.")
def verify(
    config: Path | None, data_dir: Path | None, form: str | None, anchor: Path | None
) -> None:
    """Prove that no event was changed, deleted or added; exit 1 and say where if one was."""
    settings = _settings(config, data_dir)
    proof = Proof(open_database(settings), settings, anchor)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("events", total=proof.sealed_events())
        found = proof.findings(_me(), lambda number: bar.advance(task, number))
        rows = (finding.row() for finding in found)
        if form is None:
            for row in rows:
                click.echo(_sentence(row))
        else:
            print_rows(rows, Format(form), ())
    if not proof.is_recorded:
        click.echo("the run could not be written to the audit", err=True)
    verdict = f"{proof.number} findings" if proof.number else "sound"
    told = f"{verdict}: {proof.events} events under {proof.seals} seals were looked at"
    click.echo(told, err=form is not None)
    sys.exit(1 if proof.number else 0)


def _sentence(row: dict[str, Any]) -> str:
    at = f" ({row['at']})" if row["at"] else ""
    return f"{row['kind']}: {row['what']}{at}"


@audit.command()
@common
@click.option("--patient-id", help="Whoever has this PatientID.")
@click.option("--study-uid", multiple=True, help="Only in events of this study; repeatable.")
@click.option("--event", type=int, multiple=True, help="An event by its id; repeatable.")
@click.option("--reason", required=True, help="Kept in the audit, as patient data.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def redact(
    config: Path | None,
    data_dir: Path | None,
    patient_id: str | None,
    study_uid: tuple[str, ...],
    event: tuple[int, ...],
    reason: str,
    *,
    yes: bool,
) -> None:
    """Remove for good what identifies a patient from events; the events stay, and their seals."""
    if patient_id is None and not event:
        msg = "say whose data goes: --patient-id, or --event"
        raise click.UsageError(msg)
    settings = _settings(config, data_dir)
    database = open_database(settings)
    wanted = Redaction(_me(), reason.strip()[:400], patient_id, study_uid, event)
    if not wanted.why:
        msg = "--reason must say why"
        raise click.UsageError(msg)
    with database.read() as session:
        number = len(events_to_redact(session, wanted))
    if not number:
        msg = "no event has such patient data: nothing to redact"
        raise OperatorError(msg)
    if not yes:
        click.confirm(f"{number} events lose their patient data for good. Go on?", abort=True)
    click.echo(f"{redact_events(database, settings, wanted)} events redacted")


@audit.command()
@common
@_filters
@click.option("--format", "shape", type=click.Choice(FORMATS), required=True)
@click.option("--out", type=click.File("w", "utf-8"), default="-", help="Default: print it.")
def export(
    config: Path | None,
    data_dir: Path | None,
    shape: str,
    out: TextIO,
    **wanted: Any,  # noqa: ANN401  the fields of AuditFilter
) -> None:
    """Write events, oldest first: CSV, JSON lines, or audit messages (PS3.15 A.5), one a line."""
    settings = _settings(config, data_dir)
    database = open_database(settings)
    chosen = _wanted(wanted)
    record_use(database, AuditAction.AUDIT_EXPORTED, shape, _me(), vars(chosen))
    with database.read() as session:
        rows = every_event(session, chosen)
        out.writelines(export_lines(session, settings, rows, shape))


@audit.command("rotate-key")
@common
def rotate_key(config: Path | None, data_dir: Path | None) -> None:
    """Seal with a new key from now on; the old ones stay, to prove what they sealed."""
    settings = _settings(config, data_dir)
    database = open_database(settings)
    keys = add_key(key_path(settings))
    with database.write() as session:
        details = {"key_id": keys.newest, "keys": len(keys.by_id)}
        record(session, AuditAction.AUDIT_KEY_CHANGED, "rotated", actor=_me(), details=details)
    click.echo(f"key {keys.newest} seals from now on; make a back-up of {key_path(settings)}")
