"""The order, the filters and the pages of the worklist, and what a row says."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from readings import add_figure, add_study
from rows import add_instance
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from dicom_node.errors import CursorError, UnknownStudyError
from dicom_node.paging import encode
from dicom_node.worklist.readings import Reader, claim, read
from dicom_node.worklist.rows import (
    WorklistFilter,
    WorklistRow,
    late_studies,
    worklist,
    worklist_row,
)
from models.base import utc_now
from models.session import Database
from models.settings import Settings
from models.states import InstanceState, ReadingState, StudyState

ANNA = Reader("anna")
ANY = WorklistFilter(reading_state=None)


def _all(
    database: Database,
    wanted: WorklistFilter = ANY,
    settings: Settings | None = None,
    limit: int = 3,
) -> list[WorklistRow]:
    """Go through every page, and check that none repeats."""
    rows: list[WorklistRow] = []
    cursor = None
    with database.read() as session:
        while True:
            page = worklist(session, settings or Settings(), wanted, cursor, limit)
            assert len(page.rows) <= limit
            rows += page.rows
            cursor = page.next
            if cursor is None:
                break
    assert len({row.study_instance_uid for row in rows}) == len(rows)
    return rows


def _uids(database: Database, wanted: WorklistFilter = ANY, **more: Any) -> list[str]:
    return [row.study_instance_uid for row in _all(database, wanted, **more)]


def test_the_highest_figure_comes_first_then_what_came_first(database: Database) -> None:
    mild, nothing, severe = (add_study(database, each) for each in (10.0, None, 80.0))
    same, zero, none = (add_study(database, each) for each in (10.0, 0.0, None))
    assert _uids(database, limit=2) == [severe, mild, same, zero, nothing, none]


def test_pages_of_any_size_hold_every_study_once(database: Database) -> None:
    made = [add_study(database, percent) for percent in (5.0, None, 5.0, 60.0, None)]
    expected = [made[each] for each in (3, 0, 2, 1, 4)]
    assert [_uids(database, limit=limit) for limit in (1, 2, 5, 100)] == [expected] * 4


def test_a_row_says_what_is_known(database: Database) -> None:
    uid = add_study(
        database,
        62.5,
        caveats=("high_doubt", "spacing_unknown"),
        issuer_of_patient_id="H1",
        accession_number="A7",
        study_date="20260102",
        exam_at=utc_now() - timedelta(hours=2),
        minutes_ago=90.0,
    )
    (row,) = _all(database)
    assert (row.study_instance_uid, row.patient_id, row.issuer_of_patient_id) == (uid, "P1", "H1")
    assert (row.accession_number, row.study_date, row.calling_aet) == ("A7", "20260102", "PACS")
    assert (row.percent, row.severity, row.priority) == (62.5, "severe", "HIGH")
    assert row.caveats == ("high_doubt", "spacing_unknown")
    assert (row.state, row.reading_state) == (StudyState.REPORTED, ReadingState.UNREAD)
    assert (row.revision, row.reader, row.is_late) == (1, None, False)
    assert row.exam_age_seconds == pytest.approx(7200, abs=60)
    assert row.result_age_seconds == pytest.approx(0, abs=60)
    assert utc_now() - row.received_at > timedelta(minutes=89)


def test_a_study_without_a_figure_shows_why_and_never_nought_percent(database: Database) -> None:
    uid = add_study(database, state=StudyState.CLOSED, reason="lateral_view")
    for state, reason in (
        (InstanceState.FAILED, "worker_lost"),
        (InstanceState.NOT_ANALYSED, "own_result"),
        (InstanceState.QUARANTINED, "patient_mismatch"),
    ):
        instance_id = add_instance(database, study_instance_uid=uid, state=state)
        with database.write() as session:
            values = {"reason": reason, "id": instance_id}
            session.execute(text("UPDATE instance SET reason = :reason WHERE id = :id"), values)
    (row,) = _all(database)
    assert (row.percent, row.severity, row.priority) == (None, None, "MEDIUM")
    assert row.reasons == ("lateral_view", "worker_lost")
    assert row.quarantined == ("patient_mismatch",)
    assert (row.revision, row.result_at, row.result_age_seconds) == (0, None, None)
    assert not row.is_late


def test_the_reasons_of_another_patients_image_are_not_this_study_s(database: Database) -> None:
    uid = add_study(database, 3.0)
    instance_id = add_instance(database, study_instance_uid=uid, state=InstanceState.NOT_ANALYSED)
    with database.write() as session:
        statement = "UPDATE instance SET reason = 'lateral_view', patient_id = 'P2' WHERE id = :id"
        session.execute(text(statement), {"id": instance_id})
    assert _all(database)[0].reasons == ()


def test_late_is_what_waits_for_its_report_too_long(database: Database) -> None:
    late = [
        add_study(database, state=state, minutes_ago=16.0)
        for state in (StudyState.OPEN, StudyState.SETTLED)
    ]
    other = [
        add_study(database, state=state, minutes_ago=minutes)
        for state, minutes in (
            (StudyState.OPEN, 14.0),
            (StudyState.CLOSED, 16.0),
            (StudyState.REPORTED, 16.0),
        )
    ]
    assert [row.is_late for row in _all(database)] == [True, True, False, False, False]
    assert _uids(database, WorklistFilter(late=True)) == late
    assert _uids(database, WorklistFilter(late=False)) == other
    with database.read() as session:
        assert late_studies(session, Settings()) == 2


def test_a_study_with_an_earlier_figure_is_not_late(database: Database) -> None:
    uid = add_study(database, 30.0, state=StudyState.OPEN, minutes_ago=60.0)
    assert _uids(database, WorklistFilter(late=False)) == [uid]
    assert not _all(database)[0].is_late


def test_late_studies_come_by_what_has_waited_longest(database: Database) -> None:
    waits = {minutes: add_study(database, state=StudyState.OPEN, minutes_ago=minutes)
             for minutes in (20.0, 90.0, 40.0, 5.0)}  # fmt: skip
    wanted = WorklistFilter(late=True)
    assert _uids(database, wanted, limit=1) == [waits[90.0], waits[40.0], waits[20.0]]
    patient = Settings(worklist={"late_minutes": 60})
    assert _uids(database, wanted, settings=patient) == [waits[90.0]]


def test_what_was_read_without_a_result_is_late_no_more(database: Database) -> None:
    uid = add_study(database, state=StudyState.OPEN, minutes_ago=60.0)
    with database.write() as session:
        read(session, uid, ANNA)
    assert _uids(database, WorklistFilter(late=True)) == []
    assert not _all(database)[0].is_late


FILTERS: list[tuple[str, Callable[[], dict[str, Any]], set[str]]] = [
    ("reading state", lambda: {"reading_state": ReadingState.CLAIMED}, {"b"}),
    ("reader", lambda: {"reader": "anna"}, {"b", "c"}),
    ("no such reader", lambda: {"reader": "anne"}, set()),
    ("since", lambda: {"since": utc_now() - timedelta(minutes=30)}, {"b", "c"}),
    ("until", lambda: {"until": utc_now() - timedelta(minutes=30)}, {"a", "d"}),
    ("patient", lambda: {"patient_id": "P9"}, {"d"}),
    ("accession", lambda: {"accession_number": "A1"}, {"a"}),
    ("percent", lambda: {"min_percent": 30.0}, {"a", "b"}),
    ("no percent at all", lambda: {"min_percent": 0.0}, {"a", "b", "c"}),
    ("state", lambda: {"state": StudyState.CLOSED}, {"d"}),
    ("band", lambda: {"severity": "mild"}, {"c"}),
    ("sender", lambda: {"calling_aet": "CR1"}, {"b", "d"}),
    ("high", lambda: {"priority": "HIGH"}, {"a", "b"}),
    ("medium", lambda: {"priority": "MEDIUM"}, {"c", "d"}),
    ("low", lambda: {"priority": "LOW"}, set()),
    ("two at once", lambda: {"calling_aet": "CR1", "min_percent": 1.0}, {"b"}),
]


def test_each_filter_finds_what_it_names(database: Database) -> None:
    made = {
        "a": add_study(database, 80.0, accession_number="A1", minutes_ago=60.0),
        "b": add_study(database, 30.0, calling_aet="CR1"),
        "c": add_study(database, 2.0),
        "d": add_study(
            database, patient_id="P9", calling_aet="CR1", minutes_ago=50, state=StudyState.CLOSED
        ),
    }
    with database.write() as session:
        claim(session, made["b"], ANNA)
        read(session, made["c"], ANNA)
    names = {uid: name for name, uid in made.items()}
    found = {
        title: [
            names[uid]
            for uid in _uids(
                database, WorklistFilter(**({"reading_state": None} | fields())), limit=1
            )
        ]
        for title, fields, _ in FILTERS
    }
    assert found == {title: sorted(expected) for title, _, expected in FILTERS}


def test_a_study_is_found_by_its_uid_whatever_its_state(database: Database) -> None:
    add_study(database, 80.0)
    uid = add_study(database, 30.0)
    with database.read() as session:
        assert worklist_row(session, Settings(), uid).percent == 30.0
        with pytest.raises(UnknownStudyError):
            worklist_row(session, Settings(), "1.2.3")


def test_priorities_are_a_setting(database: Database) -> None:
    mild, nothing = add_study(database, 2.0), add_study(database, state=StudyState.CLOSED)
    settings = Settings(worklist={"priorities": {"mild": "HIGH", "without_figure": "LOW"}})
    rows = _all(database, settings=settings)
    assert [row.priority for row in rows] == ["HIGH", "LOW"]
    for priority, uid in (("HIGH", mild), ("LOW", nothing)):
        wanted = WorklistFilter(priority=priority)
        assert _uids(database, wanted, settings=settings) == [uid]


def test_a_second_report_is_the_one_that_is_shown(database: Database) -> None:
    uid = add_study(database, 2.0)
    add_figure(database, uid, 40.0, revision=2)
    (row,) = _all(database)
    assert (row.percent, row.revision) == (40.0, 2)


@pytest.mark.parametrize(
    ("late", "cursor"),
    [
        (False, "nonsense"),
        (False, encode(["2026-01-01T00:00:00+00:00", 1])),
        (True, encode([1.0, 1])),
        (True, encode(["yesterday", 1])),
        (False, encode([10**320, 1])),
        (True, encode(["2026-01-01T00:00:00", 1])),
        (True, encode(["0001-01-01T00:00:00+10:00", 1])),
    ],
)
def test_a_cursor_of_another_list_is_refused(cursor: str, *, late: bool) -> None:
    with Session() as session, pytest.raises(CursorError):  # it is refused before any query
        worklist(session, Settings(), WorklistFilter(late=late), cursor)


def test_the_order_comes_from_an_index(database: Database) -> None:
    """However many studies there are, a page is read from its place in an index and not sorted."""
    add_study(database, 3.0)
    columns = "state, calling_aet, created_at, last_received_at, revision, reading_order"
    copies = f"INSERT INTO study (study_instance_uid, {columns}) SELECT {{}} || id, {columns}"
    with database.write() as session:
        for power in range(13):
            session.execute(text(f"{copies} FROM study".format(f"'1.{power}.'")))
        session.execute(text("UPDATE study SET reading_order = -((id * 37) % 101)"))
        session.execute(text("UPDATE study SET reading_state = 'read' WHERE id % 3 > 0"))
        session.execute(text("ANALYZE"))
    key = encode([-70.0, 100])
    for wanted in (WorklistFilter(), WorklistFilter(late=False)):
        for cursor in (None, key):
            plan = _plan(database, wanted, cursor)
            assert "ix_study_worklist" in plan, plan
            assert "Sort" not in plan, plan
            assert "TEMP B-TREE" not in plan, plan


def _plan(database: Database, wanted: WorklistFilter, cursor: str | None) -> str:
    """Return how the database goes about the first query of a page."""
    statements: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT study"):
            statements.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    with database.read() as session:
        worklist(session, Settings(), wanted, cursor)
    event.remove(database.engine, "before_cursor_execute", note)
    explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
    with database.engine.connect() as connection:
        found = connection.exec_driver_sql(explain + statements[0][0], statements[0][1])
        return "\n".join(" ".join(map(str, row)) for row in found)
