"""Lists of studies: pages by keyset, or every one that a filter matches, in blocks."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from dicom_node.paging import Page
from dicom_node.results import is_of_modality, is_one_of, model_version_ids
from dicom_node.sorting import AnyQuery, AnyRow, Segment, Sort
from models.imaging import WITHOUT_FIGURE, Instance, Series, Study
from models.result import Analysis, AnalysisCaveat, ModelVersion
from models.states import InstanceState, ReadingState, StudyState

BLOCK: Final = 500
_FEW: Final = 3000
_SOME: Final = 100_000


class StudySort(StrEnum):
    """What studies can be sorted by."""

    RECEIVED = "received"  # when the first image came
    PERCENT = "percent"  # those without a figure at the end
    STUDY_DATE = "study_date"  # those without a date at the end


@dataclass(frozen=True)
class StudyFilter:
    """Which studies; None means any. What is said of images holds if one image is so.

    `since` and `until` are about when the first image came; the model is that of the figure.
    """

    since: datetime | None = None
    until: datetime | None = None
    patient_id: str | None = None
    issuer_of_patient_id: str | None = None
    accession_number: str | None = None
    study_instance_uid: str | None = None
    calling_aet: str | None = None
    state: StudyState | None = None
    reading_state: ReadingState | None = None
    severity: str | None = None
    min_percent: float | None = None
    max_percent: float | None = None
    model: str | None = None
    model_version: str | None = None
    modality: str | None = None
    reason: str | None = None
    caveat: str | None = None

    def clauses(self) -> list[ColumnElement[bool]]:
        """Return the conditions that a row of Study meets by itself."""
        wanted: tuple[tuple[object, Callable[[], ColumnElement[bool]]], ...] = (
            (self.since, lambda: Study.created_at >= self.since),
            (self.until, lambda: Study.created_at < self.until),
            (self.patient_id, lambda: Study.patient_id == self.patient_id),
            (self.issuer_of_patient_id, self._of_issuer),
            (self.accession_number, lambda: Study.accession_number == self.accession_number),
            (self.study_instance_uid, lambda: Study.study_instance_uid == self.study_instance_uid),
            (self.calling_aet, lambda: Study.calling_aet == self.calling_aet),
            (self.state, lambda: Study.state == self.state),
            (self.reading_state, lambda: Study.reading_state == self.reading_state),
            (self.severity, lambda: Study.severity == self.severity),
            (self.min_percent, lambda: Study.reading_order <= -(self.min_percent or 0.0)),
            (self.max_percent, lambda: Study.reading_order.between(-(self.max_percent or 0.0), 0)),
        )
        return [clause() for value, clause in wanted if value is not None]

    def _of_issuer(self) -> ColumnElement[bool]:
        return Study.issuer_of_patient_id == self.issuer_of_patient_id


@dataclass(frozen=True)
class Model:
    """Which network: name, version and the hash of its weights."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True)
class StudyRow:
    """One study of a list. `images` counts its objects by state; `severity` is the band."""

    id: int
    study_instance_uid: str
    patient_id: str | None
    issuer_of_patient_id: str | None
    accession_number: str | None
    study_date: str | None
    calling_aet: str
    state: StudyState
    reading_state: ReadingState
    received_at: datetime
    last_received_at: datetime
    revision: int
    opacity_percent: float | None
    severity: str | None
    model: Model | None
    images: dict[InstanceState, int] = field(default_factory=dict)
    modalities: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()


def studies(
    session: Session,
    wanted: StudyFilter,
    sort: StudySort = StudySort.RECEIVED,
    *,
    descends: bool = True,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[StudyRow]:
    """Return one page of studies. Raises CursorError unless the cursor is of this sort."""
    order = _sort(sort, descends=descends)
    page = order.page(session, _query(session, wanted, sort), cursor, limit)
    return Page(study_rows(session, [row[0] for row in page.rows]), page.next)


def every_study(
    session: Session,
    wanted: StudyFilter,
    sort: StudySort = StudySort.RECEIVED,
    *,
    descends: bool = True,
) -> Iterator[StudyRow]:
    """Yield every study that matches, reading in blocks with a cursor of the server."""
    query = _query(session, wanted, sort).execution_options(yield_per=BLOCK)
    for part in _sort(sort, descends=descends).whole(query):
        with session.execute(part) as found:
            for block in found.partitions():
                yield from study_rows(session, [row[0] for row in block])


def study_rows(session: Session, found: Sequence[Study]) -> list[StudyRow]:
    """Return the rows of these studies, in their order, with what is known of their images."""
    ids = [study.id for study in found]
    images = _images(session, ids)
    caveats = _caveats(session, ids)
    models = _models(session, {study.model_version_id for study in found})
    return [
        StudyRow(
            id=study.id,
            study_instance_uid=study.study_instance_uid,
            patient_id=study.patient_id,
            issuer_of_patient_id=study.issuer_of_patient_id,
            accession_number=study.accession_number,
            study_date=study.study_date,
            calling_aet=study.calling_aet,
            state=study.state,
            reading_state=study.reading_state,
            received_at=study.created_at,
            last_received_at=study.last_received_at,
            revision=study.revision,
            opacity_percent=study.opacity_percent,
            severity=study.severity,
            model=models.get(study.model_version_id),
            caveats=tuple(sorted(caveats.get(study.id, ()))),
            **_summary(images.get(study.id, [])),
        )
        for study in found
    ]


def _query(session: Session, wanted: StudyFilter, sort: StudySort) -> AnyQuery:
    query = select(Study).where(*wanted.clauses(), *_of_images(session, wanted, sort))
    models = model_version_ids(session, wanted.model, wanted.model_version)
    return query if models is None else query.where(is_one_of(Study.model_version_id, models))


def _of_images(
    session: Session, wanted: StudyFilter, sort: StudySort
) -> Iterator[ColumnElement[bool]]:
    """Yield the conditions that one image of a study has to meet.

    Without help a database guesses wrong in which order to look. Of what few images have, their
    studies are found first; of what many have, each study in the order of the list is looked at. A
    reason often says why a study has no figure: where those with one come first, hundreds of
    thousands may be in front of it, and the studies of more images are found first.
    """
    of_study = select(Series.study_id)
    if wanted.modality is not None:
        is_of = is_of_modality(wanted.modality)
        yield _has(session, select(Series.id).where(is_of), of_study.where(is_of))
    if wanted.reason is not None:
        is_so = Instance.reason == wanted.reason
        counted = select(Instance.id).where(is_so)
        most = _SOME if sort is StudySort.PERCENT else 0
        yield _has(session, counted, of_study.join(Instance).where(is_so), most)
    if wanted.caveat is not None:
        is_so = AnalysisCaveat.caveat == wanted.caveat
        some = select(AnalysisCaveat.analysis_id).where(is_so)
        yield _has(session, some, _caveats_that_count(of_study).where(is_so))


def _has(
    session: Session, counted: AnyQuery, of_study: AnyQuery, most: int = 0
) -> ColumnElement[bool]:
    """Return the condition that `of_study` finds the study; `counted` is what there is of it.

    Of up to `most` images, of a few in any case, the studies are found first.
    """
    some = counted.limit(max(_FEW, most) + 1).subquery()
    number = session.scalar(select(func.count()).select_from(some)) or 0
    if number <= _FEW:
        return Study.id.in_(set(session.scalars(of_study)))
    # OFFSET keeps PostgreSQL from making a join of it.
    if number <= most:
        return Study.id.in_(of_study.offset(0))
    return of_study.where(Series.study_id == Study.id).correlate(Study).offset(0).exists()


def _sort(sort: StudySort, *, descends: bool) -> Sort:
    """Return the order, as `ix_study_*` have it.

    Of one percentage, the study that came first is first, as in the worklist.
    """
    name = f"{sort.value}-{'desc' if descends else 'asc'}"
    by_id = (Study.id, descends)
    if sort is StudySort.PERCENT:
        first_come = (Study.id, not descends)
        measured = ((Study.reading_order, not descends), first_come)
        with_figure = Segment(measured, (Study.reading_order <= 0,))
        return Sort(
            name, (with_figure, Segment((first_come,), (Study.reading_order == WITHOUT_FIGURE,)))
        )
    if sort is StudySort.STUDY_DATE:
        dated = Segment(((Study.study_date, descends), by_id), (Study.study_date.is_not(None),))
        return Sort(name, (dated, Segment((by_id,), (Study.study_date.is_(None),))))
    return Sort(name, (Segment(((Study.created_at, descends), by_id)),))


def _caveats_that_count(query: AnyQuery) -> AnyQuery:
    """Return the query over the caveats of analyses that count, joined with Series."""
    return (
        query.join(Instance, Instance.series_id == Series.id)
        .join(Analysis, Analysis.instance_id == Instance.id)
        .join(AnalysisCaveat, AnalysisCaveat.analysis_id == Analysis.id)
        .where(Instance.state == InstanceState.ANALYSED, Analysis.is_replaced.is_(False))
    )


def _images(session: Session, ids: Sequence[int]) -> dict[int, list[AnyRow]]:
    """Return per study how many of its objects have which modality, state and reason."""
    columns = (Series.study_id, Series.modality, Instance.state, Instance.reason)
    query = select(*columns, func.count().label("number")).join(Instance).group_by(*columns)
    found: dict[int, list[AnyRow]] = {}
    for row in session.execute(query.where(Series.study_id.in_(ids))):
        found.setdefault(row.study_id, []).append(row)
    return found


def _summary(rows: Sequence[AnyRow]) -> dict[str, Any]:
    images: Counter[InstanceState] = Counter()
    for row in rows:
        images[row.state] += row.number
    return {
        "images": dict.fromkeys(InstanceState, 0) | images,
        "modalities": tuple(sorted({row.modality for row in rows if row.modality})),
        "reasons": tuple(sorted({row.reason for row in rows if row.reason})),
    }


def _caveats(session: Session, ids: Sequence[int]) -> dict[int, set[str]]:
    query = _caveats_that_count(select(Series.study_id, AnalysisCaveat.caveat))
    found: dict[int, set[str]] = {}
    for study_id, caveat in session.execute(query.where(Series.study_id.in_(ids))):
        found.setdefault(study_id, set()).add(caveat)
    return found


def _models(session: Session, ids: set[int | None]) -> dict[int | None, Model]:
    query = select(ModelVersion).where(ModelVersion.id.in_(ids - {None}))
    return {row.id: Model(row.name, row.version, row.sha256) for row in session.scalars(query)}
