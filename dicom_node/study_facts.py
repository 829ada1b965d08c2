"""What routes may ask of a study: from its rows, and, where a route asks, from image headers."""

from collections.abc import Iterable, Sequence
from typing import Final

from pydicom.dataset import Dataset
from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.header import read_head
from dicom_node.receive import data_set_offset
from dicom_node.routing import StudyFacts
from models.imaging import SET_ASIDE, Instance, Series, Study
from models.result import newest_analyses
from models.settings import Settings
from models.states import InstanceState
from models.storage import Store

_LAST_TAG: Final = 0x00081010  # Station Name
_MOST_FILES: Final = 20  # that are opened for a study; the analysed ones first
_LONGEST: Final = 64  # PS3.5 6.2, VR LO


def facts_of(session: Session, settings: Settings, study: Study) -> StudyFacts:
    """Return what is known of a study. The figure is that of its report (models.result).

    Station and institution are asked of the files only where a route asks for them.
    """
    instances = session.scalars(
        select(Instance)
        .join(Series)
        .where(Series.study_id == study.id, Instance.state.not_in(SET_ASIDE))
        .order_by(Instance.state != InstanceState.ANALYSED, Instance.id)
    ).all()
    analyses = newest_analyses(session, study.id)
    worst = max(analyses, key=lambda row: row.opacity_percent_total or 0.0, default=None)
    stations, institutions = _places(settings, instances)
    return StudyFacts(
        calling_aets=frozenset([study.calling_aet, *(row.calling_aet for row in instances)]),
        stations=stations,
        institutions=institutions,
        band=worst.severity if worst else None,
        percent=worst.opacity_percent_total if worst else None,
        state="analysed" if worst else "not_analysed",
    )


def _places(
    settings: Settings, instances: Sequence[Instance]
) -> tuple[frozenset[str], frozenset[str]]:
    """Return the stations and the institutions that the headers name."""
    if not any(each.stations or each.institutions for each in settings.routes):
        return frozenset(), frozenset()
    headers = [_header(settings.image_store, row) for row in instances[:_MOST_FILES]]
    return _values(headers, "StationName"), _values(headers, "InstitutionName")


def _header(images: Store, row: Instance) -> Dataset:
    """Return the elements up to Station Name; none of a file that is gone or damaged."""
    try:
        path = images.path_of(row.storage_key, row.purged_at)
        return read_head(path, data_set_offset(path), row.transfer_syntax_uid, _LAST_TAG)
    except OSError:
        return Dataset()


def _values(headers: Iterable[Dataset], keyword: str) -> frozenset[str]:
    texts = (_text(ds, keyword) for ds in headers)
    return frozenset(text for text in texts if text)


def _text(ds: Dataset, keyword: str) -> str:
    try:
        value = ds.get(keyword)
    except Exception:  # noqa: BLE001  a broken element says as little as a missing one
        return ""
    return "" if value is None else str(value).replace("\0", "").strip()[:_LONGEST]
