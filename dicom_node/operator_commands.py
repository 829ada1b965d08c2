"""Commands by which a person decides about identities: `quarantine …` and `patient merge`."""

import re
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from dicom_node.audit.use import record_use
from dicom_node.listing import Format, print_rows
from dicom_node.merge import MergeOutcome, PatientIdentity, merge
from dicom_node.options import Command, common, listing, open_database, settings_of
from dicom_node.quarantine import (
    Operator,
    QuarantineFilter,
    correct,
    details,
    objects,
    reject,
    release,
)
from models.audit import AuditAction
from models.session import Database

_LO_MAX = 64  # PS3.5 6.2
_PN_MAX = 324
_COLUMNS = [
    ("id", "id"),
    ("received", "received_at"),
    ("from", "calling_aet"),
    ("reason", "reason"),
    ("patient", "patient_id"),
    ("study", "study_instance_uid"),
    ("instance", "sop_instance_uid"),
    ("detail", "detail"),
]
_UNFINISHED = (
    (MergeOutcome.BUSY, "run it again: images are being analysed"),
    (MergeOutcome.PURGED, "images were purged: have them sent again, then run it again"),
)
_MERGE_COLUMNS = [
    ("study", "study_instance_uid"),
    ("outcome", "outcome"),
    ("images issued again", "images_reissued"),
]

_Callback = Callable[[click.Context, click.Parameter, str | None], str | None]


def _text(longest: int) -> _Callback:
    """Return a check that a value can stand in an element of this length (PS3.5 6.2)."""

    def check(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
        if value is None:
            return None
        text = value.strip()
        if not text or len(text) > longest or "\\" in text or not text.isprintable():
            msg = f"must be 1 to {longest} printable characters without a backslash"
            raise click.BadParameter(msg)
        return text

    return check


def _date(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    try:
        datetime.strptime(value, "%Y%m%d")  # noqa: DTZ007  a DA has no time zone
    except ValueError as error:
        msg = "must be a date as YYYYMMDD"
        raise click.BadParameter(msg) from error
    if not re.fullmatch(r"[0-9]{8}", value):
        msg = "must be a date as YYYYMMDD"
        raise click.BadParameter(msg)
    return value


def _about_the_person(command: Command) -> Command:
    """Add what may be corrected beside the PatientID (PS3.3 C.7.1.1)."""
    for option in (
        click.option("--sex", "PatientSex", type=click.Choice(["M", "F", "O"])),
        click.option("--birth-date", "PatientBirthDate", callback=_date, help="YYYYMMDD"),
        click.option(
            "--patient-name",
            "PatientName",
            callback=_text(_PN_MAX),
            help="Family^Given; without it the name in the image stays.",
        ),
    ):
        command = option(command)
    return command


def _why(command: Command) -> Command:
    return click.option(
        "--reason", "why", required=True, callback=_text(400), help="Kept in the audit trail."
    )(command)


def _replace(command: Command) -> Command:
    return click.option(
        "--replace", is_flag=True, help="Take the place of the object that has this UID now."
    )(command)


def _correction(
    patient_id: str, issuer: str | None, person: dict[str, str | None]
) -> dict[str, str]:
    """Return the correction by keyword; an issuer that is not given belonged to the old ID."""
    given = {keyword: value for keyword, value in person.items() if value is not None}
    return {"PatientID": patient_id, "IssuerOfPatientID": issuer or "", **given}


@click.group()
def quarantine() -> None:
    """Objects that were set aside and wait for a person."""


def _record_look(database: Database, asked: Mapping[str, object]) -> None:
    by = Operator.of_this_process("").name
    record_use(database, AuditAction.PATIENT_DATA_READ, "quarantine", by, asked)


@quarantine.command("list")
@common
@listing
@click.option("--study-uid", "study_instance_uid")
@click.option("--patient-id")
@click.option("--with-rejected", is_flag=True, help="Those that an operator rejected, too.")
def list_objects(
    config: Path | None,
    data_dir: Path | None,
    form: str | None,
    **wanted: Any,  # noqa: ANN401  the fields of QuarantineFilter
) -> None:
    """List what is in quarantine, with the numbers that the other commands take."""
    database = open_database(settings_of(config, data_dir))
    _record_look(database, wanted)
    with database.read() as session:
        rows = objects(session, QuarantineFilter(**wanted))
        print_rows(rows, Format(form or Format.TABLE), _COLUMNS)


@quarantine.command("show")
@common
@listing
@click.argument("instance_id", type=int, metavar="ID")
def show(config: Path | None, data_dir: Path | None, form: str | None, instance_id: int) -> None:
    """Print all that is known of one object, and what else has its SOP Instance UID."""
    settings = settings_of(config, data_dir)
    database = open_database(settings)
    _record_look(database, {"instance": instance_id})
    with database.read() as session:
        row = details(session, settings, instance_id)
    if form:
        print_rows([row], Format(form), ())
        return
    pairs = [{"name": name, "value": value} for name, value in row.items()]
    print_rows(pairs, Format.TABLE, [("", "name"), ("", "value")])


@quarantine.command("release")
@common
@click.argument("instance_id", type=int, metavar="ID")
@_why
@_replace
def release_object(
    config: Path | None,
    data_dir: Path | None,
    instance_id: int,
    why: str,
    replace: bool,  # noqa: FBT001  a flag of the command line
) -> None:
    """Have one object analysed as it is."""
    settings = settings_of(config, data_dir)
    operator = Operator.of_this_process(why)
    release(open_database(settings), settings, instance_id, operator, replace=replace)
    click.echo(f"object {instance_id} released")


@quarantine.command("reject")
@common
@click.argument("instance_id", type=int, metavar="ID")
@_why
def reject_object(config: Path | None, data_dir: Path | None, instance_id: int, why: str) -> None:
    """Decide that one object is not to be analysed; its bytes are kept."""
    database = open_database(settings_of(config, data_dir))
    reject(database, instance_id, Operator.of_this_process(why))
    click.echo(f"object {instance_id} rejected")


@quarantine.command("correct")
@common
@click.argument("instance_id", type=int, metavar="ID")
@click.option("--patient-id", required=True, callback=_text(_LO_MAX))
@click.option("--issuer", callback=_text(_LO_MAX), help="Issuer of Patient ID.")
@_about_the_person
@_why
@_replace
def correct_object(
    config: Path | None,
    data_dir: Path | None,
    instance_id: int,
    patient_id: str,
    issuer: str | None,
    why: str,
    replace: bool,  # noqa: FBT001  a flag of the command line
    **person: Any,  # noqa: ANN401  keywords of the standard
) -> None:
    """Have one object analysed under an identity that you give; its bytes stay as they are."""
    settings = settings_of(config, data_dir)
    correct(
        open_database(settings),
        settings,
        instance_id,
        Operator.of_this_process(why),
        _correction(patient_id, issuer, person),
        replace=replace,
    )
    click.echo(f"object {instance_id} released under the identity given")


@click.group()
def patient() -> None:
    """Patient identities."""


@patient.command("merge")
@common
@listing
@click.option("--from", "from_id", required=True, callback=_text(_LO_MAX), metavar="ID")
@click.option("--from-issuer", callback=_text(_LO_MAX), help="Whose ID that is.")
@click.option("--into", "into_id", required=True, callback=_text(_LO_MAX), metavar="ID")
@click.option("--into-issuer", callback=_text(_LO_MAX), help="Issuer of Patient ID.")
@click.option("--study-uid", "study_instance_uid", help="This study only.")
@_about_the_person
@_why
@click.option("--dry-run", is_flag=True, help="Only list the studies.")
def merge_patients(
    config: Path | None,
    data_dir: Path | None,
    form: str | None,
    why: str,
    dry_run: bool,  # noqa: FBT001  a flag of the command line
    **given: Any,  # noqa: ANN401  identities, and keywords of the standard
) -> None:
    """Issue the results of one identity again under another; exit 1 while studies are busy."""
    settings = settings_of(config, data_dir)
    old = PatientIdentity(given.pop("from_id"), given.pop("from_issuer"))
    study_instance_uid = given.pop("study_instance_uid")
    correction = _correction(given.pop("into_id"), given.pop("into_issuer"), given)
    rows = merge(
        open_database(settings),
        settings,
        old,
        correction,
        Operator.of_this_process(why),
        study_instance_uid=study_instance_uid,
        dry_run=dry_run,
    )
    print_rows(rows, Format(form or Format.TABLE), _MERGE_COLUMNS)
    said = [text for outcome, text in _UNFINISHED if any(it["outcome"] == outcome for it in rows)]
    for text in said:
        click.echo(f"dicom-node: {text}", err=True)
    if said:
        sys.exit(1)
