"""Commands about how the node does: `drift`."""

import sys
from pathlib import Path
from typing import Any, Final

import click
from sqlalchemy import func, select

from dicom_node.drift.judging import drifts
from dicom_node.drift.silence import silences
from dicom_node.listing import Format, print_rows
from dicom_node.options import common, listing, open_database, settings_of
from models.base import utc_now
from models.imaging import Instance
from models.session import Database
from models.settings import Settings

_COLUMNS: Final = (
    ("alarm", "alarm"),
    ("source", "source"),
    ("of", "of"),
    ("images now", "current"),
    ("reference", "reference"),
    ("PSI", "psi"),
    ("limit", "psi_limit"),
    ("KS", "ks"),
    ("limit", "ks_limit"),
    ("in words", "sentence"),
)


@click.command()
@common
@listing
def drift(config: Path | None, data_dir: Path | None, form: str | None) -> None:
    """Compare the images of each source with its reference; exit 1 when one has changed.

    By the opacity that was measured, by the reasons why images were not analysed, and by silence.
    """
    settings = settings_of(config, data_dir)
    found = rows(open_database(settings), settings)
    print_rows(found, Format(form or Format.TABLE), _COLUMNS)
    sys.exit(1 if any(row["is_alarm"] for row in found) else 0)


def rows(database: Database, settings: Settings) -> list[dict[str, Any]]:
    """Return one row per source and subject, all with the same keys, those of silence last."""
    with database.read() as session:
        compared = [each.as_row() for each in drifts(session, settings.monitoring)]
        newest = select(Instance.calling_aet, func.max(Instance.received_at))
        last = dict(session.execute(newest.group_by(Instance.calling_aet)).all())
    silent = [each.as_row() for each in silences(last, settings.monitoring, utc_now())]
    keys = {key: None for row in (*compared, *silent) for key in row}
    return [keys | row | {"alarm": _alarm(row)} for row in (*compared, *silent)]


def _alarm(row: dict[str, Any]) -> str:
    """Return a word for people: of what is not known nobody may think that it is well."""
    if not row["is_known"]:
        return "unknown"
    return "ALARM" if row["is_alarm"] else "no"
