"""The listing behind `dicom-node results`: one row per received image, with status and reason."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, false, func, literal_column, select
from sqlalchemy.orm import Session, selectinload

from dicom_node.paging import Page
from dicom_node.result_files import Subject, files_of
from dicom_node.sorting import AnyQuery, AnyRow, Segment, Sort
from models.imaging import USUAL_MODALITIES, Instance, Series, Study
from models.result import Analysis, AnalysisCaveat, ModelVersion
from models.settings import Settings
from models.states import InstanceState

_BLOCK: Final = 500
_FEW: Final = 1500
_ANALYSED: Final[ColumnElement[str]] = literal_column("'analysed'")  # as ix_instance_state has it
# As ix_series_modality has it.
_IS_UNUSUAL: Final = Series.modality.not_in([literal_column(f"'{it}'") for it in USUAL_MODALITIES])
_SIDES: Final = ("total", "left", "right")
_ZONES: Final = (
    "right_upper",
    "right_middle",
    "right_lower",
    "left_upper",
    "left_middle",
    "left_lower",
)


class ResultSort(StrEnum):
    """What images can be sorted by."""

    RECEIVED = "received"
    PERCENT = "percent"  # those that have one


@dataclass(frozen=True)
class ResultFilter:
    """What to list; None means any."""

    since: datetime | None = None
    until: datetime | None = None
    patient_id: str | None = None
    accession_number: str | None = None
    study_instance_uid: str | None = None
    min_percent: float | None = None
    state: str | None = None
    issuer_of_patient_id: str | None = None
    sop_instance_uid: str | None = None
    calling_aet: str | None = None
    reason: str | None = None
    severity: str | None = None
    max_percent: float | None = None
    model: str | None = None
    model_version: str | None = None
    modality: str | None = None
    caveat: str | None = None

    def clauses(self) -> list[ColumnElement[bool]]:
        """Return the conditions over Instance, Series, Study and (outer) Analysis.

        The model is not among them: `models_named` looks it up.
        """
        percent = Analysis.opacity_percent_total
        wanted: tuple[tuple[object, Callable[[], ColumnElement[bool]]], ...] = (
            (self.since, lambda: Instance.received_at >= self.since),
            (self.until, lambda: Instance.received_at < self.until),
            (self.patient_id, lambda: Instance.patient_id == self.patient_id),
            (self.issuer_of_patient_id, self._of_issuer),
            (self.accession_number, lambda: Study.accession_number == self.accession_number),
            (self.study_instance_uid, lambda: Study.study_instance_uid == self.study_instance_uid),
            (self.sop_instance_uid, lambda: Instance.sop_instance_uid == self.sop_instance_uid),
            (self.calling_aet, lambda: Instance.calling_aet == self.calling_aet),
            (self.min_percent, lambda: percent >= self.min_percent),
            (self.max_percent, lambda: percent <= self.max_percent),
            (self.severity, lambda: Analysis.severity == self.severity),
            (self.state, self._in_state),
            (self.reason, lambda: Instance.reason == self.reason),
            (self.modality, lambda: is_of_modality(self.modality or "")),
            (self.caveat, lambda: Analysis.id.in_(_with_caveat(self.caveat))),
        )
        return [clause() for value, clause in wanted if value is not None]

    def _of_issuer(self) -> ColumnElement[bool]:
        return Instance.issuer_of_patient_id == self.issuer_of_patient_id

    def _in_state(self) -> ColumnElement[bool]:
        """Return the condition, for a rare state in the words of the index that serves it."""
        is_in = Instance.state == self.state
        return (
            is_in
            if self.state == InstanceState.ANALYSED
            else and_(is_in, Instance.state != _ANALYSED)
        )


def results(session: Session, settings: Settings, wanted: ResultFilter) -> Iterator[dict[str, Any]]:
    """Yield one JSON-ready row per instance with its newest analysis, oldest first, in blocks.

    The fields are those of `dicom-worker analyse --json`, and what the node knows beyond them.
    """
    return every_result(session, settings, wanted, ResultSort.RECEIVED, descends=False)


def with_every_column(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the rows with the parts of the model in each: CSV has the columns of the first row."""
    no_model = dict.fromkeys(("name", "version", "sha256"))
    for row in rows:
        yield row | {"model": row["model"] or no_model}


def every_result(
    session: Session,
    settings: Settings,
    wanted: ResultFilter,
    sort: ResultSort,
    *,
    descends: bool,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of `results` in another order, reading with a cursor of the server."""
    query, order = _ordered(session, wanted, sort, descends=descends)
    for part in order.whole(query.execution_options(yield_per=_BLOCK)):
        with session.execute(part) as found:
            for block in found.partitions():
                yield from _rows(session, settings, block)


def result_page(
    session: Session,
    settings: Settings,
    wanted: ResultFilter,
    sort: ResultSort,
    *,
    descends: bool,
    cursor: str | None,
    limit: int,
) -> Page[dict[str, Any]]:
    """Return one page of such rows. Raises CursorError unless the cursor is of this order."""
    query, order = _ordered(session, wanted, sort, descends=descends)
    page = order.page(session, query, cursor, limit)
    return Page(_rows(session, settings, page.rows), page.next)


def model_version_ids(session: Session, name: str | None, version: str | None) -> list[int] | None:
    """Return the ids of the registered models of that name and version; None: any will do."""
    if name is None and version is None:
        return None
    query = select(ModelVersion.id)
    if name is not None:
        query = query.where(ModelVersion.name == name)
    if version is not None:
        query = query.where(ModelVersion.version == version)
    return list(session.scalars(query.order_by(ModelVersion.id)))


def is_of_modality(modality: str) -> ColumnElement[bool]:
    """Return the condition, for a modality of few series in the words of the index of those."""
    is_of = Series.modality == modality
    return is_of if modality in USUAL_MODALITIES else and_(is_of, _IS_UNUSUAL)


def is_one_of(column: Any, ids: Sequence[int]) -> ColumnElement[bool]:  # noqa: ANN401  a column
    """Return the condition that a column has one of these values: if only one, by `=`."""
    condition: ColumnElement[bool] = column == ids[0] if len(ids) == 1 else column.in_(ids)
    return condition


def _query(session: Session, wanted: ResultFilter) -> AnyQuery:
    # An image whose identity was corrected, or that was replayed, has several: one counts.
    of_image = and_(Analysis.instance_id == Instance.id, Analysis.is_replaced.is_(False))
    query = (
        select(Instance, Series, Study, Analysis)
        .join(Series, Instance.series_id == Series.id)
        .join(Study, Series.study_id == Study.id)
        .outerjoin(Analysis, of_image)
        .options(selectinload(Analysis.caveats), selectinload(Analysis.model_version))
        .where(*wanted.clauses())
    )
    models = model_version_ids(session, wanted.model, wanted.model_version)
    return query if models is None else query.where(*_measured_by(session, models))


def _measured_by(session: Session, models: Sequence[int]) -> Iterator[ColumnElement[bool]]:
    """Yield the condition that one of these models measured the image.

    And between which images each did so: a model has its time, before and after which a database
    would look for its images in vain.
    """
    yield is_one_of(Analysis.model_version_id, models)
    ends = func.min(Analysis.instance_id), func.max(Analysis.instance_id)
    found = [
        session.execute(select(*ends).where(Analysis.model_version_id == each)).one()
        for each in models
    ]
    known = [key for pair in found for key in pair if key is not None]
    yield Instance.id.between(min(known), max(known)) if known else false()


def _by_percent(
    session: Session, wanted: ResultFilter, query: AnyQuery, *, descends: bool
) -> tuple[AnyQuery, Sort]:
    """Return the query and the order by percentage.

    Where few images are of the wanted time they are found first: an index of percentages would be
    read to its end for them.
    """
    percent = Analysis.opacity_percent_total
    query = query.where(percent.is_not(None))
    name = f"{ResultSort.PERCENT.value}-{'desc' if descends else 'asc'}"
    columns = ((percent, descends), (Analysis.instance_id, descends))
    if wanted.since is not None or wanted.until is not None:
        ids = query.with_only_columns(Instance.id).order_by(Instance.received_at)
        found = session.scalars(ids.limit(_FEW + 1)).all()
        if len(found) <= _FEW:
            query = query.where(Instance.id.in_(found))
    return query, Sort(name, (Segment(columns),))


def _ordered(
    session: Session, wanted: ResultFilter, sort: ResultSort, *, descends: bool
) -> tuple[AnyQuery, Sort]:
    """Return the query and its order, as indexes have it.

    Images came in the order of their ids; a range of time is read by the index of the time.
    """
    query = _query(session, wanted)
    if sort is ResultSort.PERCENT:
        return _by_percent(session, wanted, query, descends=descends)
    name = f"{sort.value}-{'desc' if descends else 'asc'}"
    by_id = (Instance.id, descends)
    if wanted.since is None and wanted.until is None:
        return query, Sort(name, (Segment((by_id,)),))
    return query, Sort(f"{name}-at", (Segment(((Instance.received_at, descends), by_id)),))


def _with_caveat(caveat: str | None) -> Any:  # noqa: ANN401  a query of one column
    return select(AnalysisCaveat.analysis_id).where(AnalysisCaveat.caveat == caveat)


def _rows(session: Session, settings: Settings, found: Sequence[AnyRow]) -> list[dict[str, Any]]:
    analysed = [Subject(row[3], row[2].id) for row in found if row[3] is not None]
    files = files_of(session, settings, analysed)
    rows = []
    for instance, series, study, analysis, *_ in found:
        row = _instance_row(instance, series, study) | _analysis_row(analysis)
        row["files"] = files[analysis.id] if analysis else []
        rows.append(row)
    return rows


def _instance_row(instance: Instance, series: Series, study: Study) -> dict[str, Any]:
    return {
        "sop_instance_uid": instance.sop_instance_uid,
        "series_instance_uid": series.series_instance_uid,
        "study_instance_uid": study.study_instance_uid,
        "patient_id": instance.patient_id,
        "accession_number": study.accession_number,
        "modality": series.modality,
        "calling_aet": instance.calling_aet,
        "received_at": instance.received_at.isoformat(timespec="milliseconds"),
        "status": instance.state.value,
        "reason": instance.reason,
        "detail": instance.detail,
        "purged": instance.purged_at is not None,
        "study_state": study.state.value,
        "revision": study.revision,
    }


def _analysis_row(analysis: Analysis | None) -> dict[str, Any]:
    def parts(prefix: str, names: tuple[str, ...] = _SIDES) -> dict[str, Any]:
        return {name: getattr(analysis, f"{prefix}_{name}") if analysis else None for name in names}

    model = analysis.model_version if analysis else None
    return {
        "opacity_percent": parts("opacity_percent"),
        "lung_area_mm2": parts("lung_area_mm2"),
        "opacity_area_mm2": parts("opacity_area_mm2"),
        "lung_pixels": parts("lung_pixels"),
        "opacity_pixels": parts("opacity_pixels"),
        "severity": analysis.severity if analysis else None,
        "severity_by_side": {
            "total": analysis.severity if analysis else None,
            **parts("severity", ("left", "right")),
        },
        "zone_percent": parts("zone_percent", _ZONES),
        "zone_grade": parts("zone_grade", _ZONES),
        "zone_score": parts("zone_score"),
        "caveats": [row.caveat for row in analysis.caveats] if analysis else [],
        "model": {"name": model.name, "version": model.version, "sha256": model.sha256}
        if model
        else None,
        "seconds": analysis.seconds if analysis else None,
    }
