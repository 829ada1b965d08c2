"""What the node holds, as the entities of the Study Root model, read in pages of rows.

Held are received instances outside quarantine that no other one supersedes, and the results (SEG,
SR, Secondary Capture) made of them. Each result is a series of its own: so do workers make them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import ColumnElement, Select, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from dicom_node.query.facts import newest_keys, series_facts, study_facts
from dicom_node.query.held_rows import (
    MODALITIES,
    ResultRow,
    is_held,
    is_held_series,
    is_held_study,
    results_of,
)
from dicom_node.query.keys import Level, Query
from dicom_node.query.match import Condition
from models.imaging import Instance, Series, Study
from models.result import Artifact
from models.session import Database
from models.settings import Settings

PAGE: Final = 100

_STUDY_COLUMNS: Final = {
    "StudyInstanceUID": Study.study_instance_uid,
    "PatientID": Study.patient_id,
    "IssuerOfPatientID": Study.issuer_of_patient_id,
    "AccessionNumber": Study.accession_number,
    "StudyDate": Study.study_date,
}
_SERIES_COLUMNS: Final = {
    "SeriesInstanceUID": Series.series_instance_uid,
    "Modality": Series.modality,
}
_IMAGE_COLUMNS: Final = {
    "SOPInstanceUID": Instance.sop_instance_uid,
    "SOPClassUID": Instance.sop_class_uid,
}
_RESULT_COLUMNS: Final = {
    "SOPInstanceUID": Artifact.sop_instance_uid,
    "SOPClassUID": Artifact.sop_class_uid,
}

_Column = InstrumentedAttribute[str] | InstrumentedAttribute[str | None]
_Row = TypeVar("_Row")


@dataclass(frozen=True)
class Candidate:
    """An entity of the level asked for: what rows say of it, and a file that says the rest."""

    columns: Mapping[str, Sequence[str]]
    path: Path | None


class Holdings:
    """The entities, newest first. No transaction is open while a caller works on one."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._received = settings.image_store
        self._artifacts = settings.artifact_store
        self._database = database

    def candidates(self, query: Query) -> Iterator[Candidate]:
        """Yield what may match: conditions on columns narrow it, the caller decides on all."""
        if query.level is Level.STUDY:
            yield from self._pages(lambda session, last: self._studies(session, query, last))
            return
        load = self._series if query.level is Level.SERIES else self._images
        yield from self._pages(lambda session, last: load(session, query, last))
        for statement in results_of(query.conditions["StudyInstanceUID"].values or None):
            narrow = _narrow(statement, _STUDY_COLUMNS | _RESULT_COLUMNS, query)
            yield from map(self._result, self._rows(narrow))

    def results(self, study_instance_uids: Sequence[str]) -> Iterator[ResultRow]:
        """Yield what was made of these studies."""
        for statement in results_of(study_instance_uids):
            yield from self._rows(statement)

    def artifact_path(self, row: ResultRow) -> Path:
        """Return where the bytes of a result are."""
        return self._artifacts.path(row.storage_key)

    def spool_path(self, storage_key: str) -> Path:
        """Return where the bytes of a received instance are."""
        return self._received.path(storage_key)

    def _rows(self, statement: Select[Any]) -> Iterator[ResultRow]:
        def page(session: Session, last: int | None) -> list[tuple[int, ResultRow]]:
            wanted = statement if last is None else statement.where(first < last)
            found = session.execute(wanted.order_by(first.desc()).limit(PAGE))
            return [(row[0], ResultRow(*row[1:])) for row in found]

        first: ColumnElement[int] = statement.selected_columns[0]
        yield from self._pages(page)

    def _pages(
        self, load: Callable[[Session, int | None], list[tuple[int, _Row]]]
    ) -> Iterator[_Row]:
        """Yield the rows of `load`, which returns those after the id it is told, with their ids.

        Each page is a read of its own: a peer that takes its answers slowly keeps no transaction.
        """
        last = None
        while True:
            with self._database.read() as session:
                page = load(session, last)
            for _, row in page:
                yield row
            if len(page) < PAGE:
                return
            last = page[-1][0]

    def _studies(
        self, session: Session, query: Query, last: int | None
    ) -> list[tuple[int, Candidate]]:
        statement: Select[Any] = (
            select(Study).where(is_held_study()).order_by(Study.id.desc()).limit(PAGE)
        )
        statement = _narrow(statement, _STUDY_COLUMNS, query)
        if last is not None:
            statement = statement.where(Study.id < last)
        studies = session.scalars(statement).all()
        ids = [study.id for study in studies]
        facts = study_facts(session, ids, query.conditions)
        keys = newest_keys(session, Series.study_id, ids)
        return [
            (
                study.id,
                Candidate(
                    {**_columns(_STUDY_COLUMNS, study), **facts.get(study.id, {})},
                    self._at(keys.get(study.id)) or self._newest_result(session, study),
                ),
            )
            for study in studies
        ]

    def _newest_result(self, session: Session, study: Study) -> Path | None:
        """Return a file of a study whose images were all corrected: only results say who it is."""
        for statement in results_of([study.study_instance_uid]):
            newest = statement.order_by(statement.selected_columns[0].desc()).limit(1)
            for row in session.execute(newest):
                return self.artifact_path(ResultRow(*row[1:]))
        return None

    def _series(
        self, session: Session, query: Query, last: int | None
    ) -> list[tuple[int, Candidate]]:
        columns: tuple[Any, ...] = (Series, Study.study_instance_uid)
        statement: Select[Any] = select(*columns).join(Study).where(is_held_series())
        statement = _narrow(statement, _STUDY_COLUMNS | _SERIES_COLUMNS, query)
        statement = statement.order_by(Series.id.desc()).limit(PAGE)
        if last is not None:
            statement = statement.where(Series.id < last)
        found = session.execute(statement).all()
        ids = [series.id for series, _ in found]
        facts = series_facts(session, ids, query.conditions)
        keys = newest_keys(session, Series.id, ids)
        return [
            (
                series.id,
                Candidate(
                    {
                        "StudyInstanceUID": (study_uid,),
                        **_columns(_SERIES_COLUMNS, series),
                        **facts.get(series.id, {}),
                    },
                    self._at(keys.get(series.id)),
                ),
            )
            for series, study_uid in found
        ]

    def _images(
        self, session: Session, query: Query, last: int | None
    ) -> list[tuple[int, Candidate]]:
        columns: tuple[Any, ...] = (
            Instance,
            Study.study_instance_uid,
            Series.series_instance_uid,
        )
        statement: Select[Any] = select(*columns).join(Instance.series).join(Study)
        statement = statement.where(is_held())
        statement = _narrow(statement, _STUDY_COLUMNS | _SERIES_COLUMNS | _IMAGE_COLUMNS, query)
        statement = statement.order_by(Instance.id.desc()).limit(PAGE)
        if last is not None:
            statement = statement.where(Instance.id < last)
        return [
            (
                each.id,
                Candidate(
                    {
                        "StudyInstanceUID": (study_uid,),
                        "SeriesInstanceUID": (series_uid,),
                        **_columns(_IMAGE_COLUMNS, each),
                    },
                    self._at(each.storage_key),
                ),
            )
            for each, study_uid, series_uid in session.execute(statement)
        ]

    def _at(self, storage_key: str | None) -> Path | None:
        return None if storage_key is None else self.spool_path(storage_key)

    def _result(self, row: ResultRow) -> Candidate:
        """Return a result as image and as series; its Series Instance UID stands in its file."""
        columns = {
            "StudyInstanceUID": (row.study_instance_uid,),
            "NumberOfSeriesRelatedInstances": ("1",),
            "SOPInstanceUID": (row.sop_instance_uid,),
            "SOPClassUID": (row.sop_class_uid,),
        }
        if (modality := MODALITIES.get(row.sop_class_uid)) is not None:
            columns["Modality"] = (modality,)
        return Candidate(columns, self.artifact_path(row))


def _columns(columns: Mapping[str, _Column], row: object) -> dict[str, Sequence[str]]:
    found = {keyword: getattr(row, column.key) for keyword, column in columns.items()}
    return {keyword: () if value is None else (value,) for keyword, value in found.items()}


def _narrow(statement: Select[Any], columns: Mapping[str, _Column], query: Query) -> Select[Any]:
    for keyword, column in columns.items():
        condition = query.conditions.get(keyword)
        if condition is not None and not condition.is_universal:
            statement = statement.where(*_clauses(column, condition))
    return statement


def _clauses(column: _Column, condition: Condition) -> list[ColumnElement[bool]]:
    """Return what SQL can say of a condition; never a pattern of the peer's.

    Many wildcards in one LIKE take a database for ever, so it sees only what stands before the
    first one, escaped.
    """
    if (days := condition.days) is not None:
        return [column.between(*days)]
    if condition.literals is not None:
        return [column.in_(condition.literals)]
    return [column.startswith(condition.prefix, autoescape=True)] if condition.prefix else []
