"""`worklist messages`: what other systems were told of workitems, and what could not be told."""

from pathlib import Path

import click

from dicom_node.listing import Format, print_rows
from dicom_node.options import common, listing, open_database, settings_of
from dicom_node.quarantine import Operator
from dicom_node.worklist.ups.told import COLUMNS, MessageFilter, retry
from dicom_node.worklist.ups.told import messages as rows
from models.states import EventReportState


@click.command()
@common
@listing
@click.option(
    "--state", type=click.Choice([each.value for each in EventReportState]), help="Only these."
)
@click.option("--receiver", metavar="AET", help="Only what this AE title is told.")
@click.option("--retry", "again", is_flag=True, help="Have what was given up told again.")
@click.pass_context
def messages(
    context: click.Context,
    /,
    config: Path | None,
    data_dir: Path | None,
    form: str | None,
    state: str | None,
    receiver: str | None,
    *,
    again: bool,
) -> None:
    """List events and new workitems for other systems (UPS), and why some were given up."""
    outer_config, outer_dir = context.obj
    database = open_database(settings_of(config or outer_config, data_dir or outer_dir))
    if again:
        with database.write() as session:
            number = retry(session, receiver, Operator.of_this_process("").name)
        click.echo(f"{number} due again")
        return
    wanted = MessageFilter(EventReportState(state) if state else None, receiver)
    with database.read() as session:
        print_rows(rows(session, wanted), Format(form or Format.TABLE), COLUMNS)
