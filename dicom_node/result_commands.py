"""Commands about images and their figures: `results`, `compare`."""

from pathlib import Path
from typing import Any

import click

from dicom_node import comparison
from dicom_node.audit.use import record_use
from dicom_node.listing import Format, print_rows
from dicom_node.options import as_utc, common, listing, open_database, settings_of
from dicom_node.quarantine import Operator
from dicom_node.results import ResultFilter, with_every_column
from dicom_node.results import results as rows
from models.audit import AuditAction


@click.command()
@common
@listing
@click.option("--since", type=click.DateTime(), callback=as_utc, help="Received at or after.")
@click.option("--until", type=click.DateTime(), callback=as_utc, help="Received before.")
@click.option("--patient-id")
@click.option("--accession", "accession_number")
@click.option("--study-uid", "study_instance_uid")
@click.option("--min-percent", type=float, help="Total opacity at least this many percent.")
@click.option("--state", help="analysed, not_analysed, failed, withdrawn, queued, …")
def results(
    config: Path | None,
    data_dir: Path | None,
    form: str | None,
    **wanted: Any,  # noqa: ANN401  the fields of ResultFilter
) -> None:
    """List received images with status, reason and numbers."""
    settings = settings_of(config, data_dir)
    columns = [
        ("patient", "patient_id"),
        ("study", "study_instance_uid"),
        ("status", "status"),
        ("reason", "reason"),
        ("opacity %", "opacity_percent.total"),
        ("left", "opacity_percent.left"),
        ("right", "opacity_percent.right"),
        ("severity", "severity"),
        ("caveats", "caveats"),
        ("study state", "study_state"),
    ]
    database = open_database(settings)
    by = Operator.of_this_process("").name
    record_use(database, AuditAction.PATIENT_DATA_READ, "results", by, wanted)
    with database.read() as session:
        found = rows(session, settings, ResultFilter(**wanted))
        chosen = Format(form or Format.TABLE)
        print_rows(with_every_column(found) if chosen is Format.CSV else found, chosen, columns)


@click.command()
@common
@listing
@click.option("--since", type=click.DateTime(), callback=as_utc, help="Received at or after.")
@click.option("--until", type=click.DateTime(), callback=as_utc, help="Received before.")
@click.option("--study-uid", "study_instance_uid")
@click.option("--summary", "only_summary", is_flag=True, help="One row per pair of models.")
def compare(
    config: Path | None,
    data_dir: Path | None,
    form: str | None,
    only_summary: bool,  # noqa: FBT001  a flag of the command line
    **wanted: Any,  # noqa: ANN401  fields of ResultFilter
) -> None:
    """Compare what the shadow model measured with what was sent."""
    chosen = Format(form or Format.TABLE)
    with open_database(settings_of(config, data_dir)).read() as session:
        rows = comparison.comparisons(session, ResultFilter(**wanted))
        if not only_summary and chosen is not Format.TABLE:
            print_rows(rows, chosen, ())
            return
        found = list(rows)
    if not only_summary:
        print_rows(found, chosen, comparison.COLUMNS)
    print_rows(comparison.summary(found), chosen, comparison.SUMMARY_COLUMNS)
