"""The command that lists deliveries."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from dicom_node.deliveries import COLUMNS, DeliveryFilter
from dicom_node.deliveries import deliveries as rows
from dicom_node.listing import Format, print_rows
from dicom_node.options import common, listing, open_database, settings_of
from models.states import DeliveryState


def _utc(
    _context: click.Context, _option: click.Parameter, value: datetime | None
) -> datetime | None:
    """Read a date without a zone as local time, as a person means it."""
    return value.astimezone(UTC) if value else None


@click.command()
@common
@listing
@click.option(
    "--state", type=click.Choice([each.value for each in DeliveryState]), help="Only these."
)
@click.option("--destination", metavar="NAME", help="As the settings name it.")
@click.option("--study-uid", "study_instance_uid")
@click.option("--since", type=click.DateTime(), callback=_utc, help="Planned at or after.")
@click.option("--until", type=click.DateTime(), callback=_utc, help="Planned before.")
def deliveries(
    config: Path | None,
    data_dir: Path | None,
    form: str | None,
    state: str | None,
    **wanted: Any,  # noqa: ANN401  the other fields of DeliveryFilter
) -> None:
    """List what is sent to whom, and what was refused or given up, with the reason."""
    chosen = DeliveryFilter(state=DeliveryState(state) if state else None, **wanted)
    with open_database(settings_of(config, data_dir)).read() as session:
        print_rows(rows(session, chosen), Format(form or Format.TABLE), COLUMNS)
