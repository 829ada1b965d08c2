"""Attributes of studies and series that are counted, and the file that has the others."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from dicom_node.query.held_rows import MODALITIES, is_held, results_of
from dicom_node.query.keys import COUNTED
from models.imaging import Instance, Series, Study

_OF_SERIES: Final = "NumberOfSeriesRelatedInstances"
_OF_STUDY: Final = COUNTED - {_OF_SERIES}

Facts = Mapping[str, Sequence[str]]


@dataclass
class _Tally:
    """What is counted of one study."""

    modalities: set[str | None] = field(default_factory=set)
    classes: set[str] = field(default_factory=set)
    series: int = 0
    instances: int = 0

    def facts(self) -> Facts:
        return {
            "ModalitiesInStudy": sorted(it for it in self.modalities if it),
            "SOPClassesInStudy": sorted(self.classes),
            "NumberOfStudyRelatedSeries": (str(self.series),),
            "NumberOfStudyRelatedInstances": (str(self.instances),),
        }


def study_facts(
    session: Session, study_ids: Sequence[int], wanted: Collection[str]
) -> Mapping[int, Facts]:
    """Return the counted attributes by study, when any of them is wanted."""
    if not study_ids or _OF_STUDY.isdisjoint(wanted):
        return {}
    tallies = {study_id: _Tally() for study_id in study_ids}
    held = (Series.study_id.in_(study_ids), is_held())
    kinds = (
        select(Series.study_id, Series.modality, Instance.sop_class_uid, func.count())
        .join(Instance, Instance.series_id == Series.id)
        .join(Study, Series.study_id == Study.id)
        .where(*held)
        .group_by(Series.study_id, Series.modality, Instance.sop_class_uid)
    )
    for study_id, modality, sop_class, number in session.execute(kinds):
        tally = tallies[study_id]
        tally.modalities.add(modality)
        tally.classes.add(sop_class)
        tally.instances += number
    numbers = (
        select(Series.study_id, func.count(Series.id.distinct()))
        .join(Instance, Instance.series_id == Series.id)
        .join(Study, Series.study_id == Study.id)
        .where(*held)
        .group_by(Series.study_id)
    )
    for study_id, number in session.execute(numbers):
        tallies[study_id].series += number
    _add_results(session, tallies)
    return {study_id: tally.facts() for study_id, tally in tallies.items()}


def _add_results(session: Session, tallies: Mapping[int, _Tally]) -> None:
    """Count the results too: one series each."""
    named = select(Study.study_instance_uid, Study.id).where(Study.id.in_(tallies))
    ids = {row.study_instance_uid: row.id for row in session.execute(named)}
    for statement in results_of(list(ids)):
        each = statement.subquery()
        columns = (each.c.study_instance_uid, each.c.sop_class_uid)
        for uid, sop_class, number in session.execute(
            select(*columns, func.count()).group_by(*columns)
        ):
            tally = tallies[ids[uid]]
            tally.modalities.add(MODALITIES.get(sop_class))
            tally.classes.add(sop_class)
            tally.series += number
            tally.instances += number


def series_facts(
    session: Session, series_ids: Sequence[int], wanted: Collection[str]
) -> Mapping[int, Facts]:
    """Return the number of instances by series, when it is wanted."""
    if not series_ids or _OF_SERIES not in wanted:
        return {}
    numbers = (
        select(Instance.series_id, func.count())
        .join(Series, Instance.series_id == Series.id)
        .join(Study, Series.study_id == Study.id)
        .where(Instance.series_id.in_(series_ids), is_held())
        .group_by(Instance.series_id)
    )
    found = session.execute(numbers)
    return {series_id: {_OF_SERIES: (str(number),)} for series_id, number in found}


def newest_keys(
    session: Session, owner: InstrumentedAttribute[int], ids: Sequence[int]
) -> dict[int, str]:
    """Return the storage key of the newest instance by its series or study (`owner`)."""
    newest = (
        select(owner, func.max(Instance.id).label("newest"))
        .select_from(Instance)
        .join(Series, Instance.series_id == Series.id)
        .join(Study, Series.study_id == Study.id)
        .where(owner.in_(ids), is_held())
        .group_by(owner)
        .subquery()
    )
    keys = select(newest.c[0], Instance.storage_key).join(Instance, Instance.id == newest.c.newest)
    return {row[0]: row[1] for row in session.execute(keys)}
