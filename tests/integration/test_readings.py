"""Studies are claimed, given back and read: by one reader at a time, and never unnoticed."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from readings import add_figure, add_study, study_row
from rows import outcomes
from sqlalchemy import select

from dicom_node.errors import ReadingError, UnknownStudyError
from dicom_node.worklist.readings import Reader, claim, read, release, unread
from models.audit import AuditAction, AuditEvent
from models.reading import Reading
from models.session import Database
from models.states import ReadingState

ANNA, BERT = Reader("anna"), Reader("bert")
CHIEF = Reader("chief", is_operator=True)

on_one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def _reading(database: Database) -> Reading:
    with database.read() as session:
        return session.scalars(select(Reading)).one()


def test_a_study_is_claimed_and_read(database: Database) -> None:
    uid = add_study(database, 40.0)
    with database.write() as session:
        claim(session, uid, ANNA)
    reading = _reading(database)
    assert (reading.reader, reading.revision, reading.percent) == ("anna", 1, 40.0)
    assert study_row(database, uid).reading_state is ReadingState.CLAIMED
    with database.write() as session:
        read(session, uid, ANNA, revision=1)
    assert study_row(database, uid).reading_state is ReadingState.READ
    reading = _reading(database)
    assert (reading.claimed_by, reading.read_by) == ("anna", "anna")
    assert reading.since == reading.read_at
    assert outcomes(database, AuditAction.STUDY_CLAIMED) == ["claimed"]
    assert outcomes(database, AuditAction.STUDY_READ) == ["read"]


@on_one_database
def test_the_audit_says_who_and_keeps_the_patient_apart(database: Database) -> None:
    uid = add_study(database, 40.0)
    with database.write() as session:
        claim(session, uid, ANNA)
        release(session, uid, ANNA)
        claim(session, uid, Reader.of_ae("WS1"))
    with database.read() as session:
        events = session.scalars(
            select(AuditEvent)
            .where(AuditEvent.action == AuditAction.STUDY_CLAIMED)
            .order_by(AuditEvent.id)
        ).all()
    assert [(each.actor, each.calling_aet) for each in events] == [("anna", None), (None, "WS1")]
    assert {each.study_instance_uid for each in events} == {uid}
    assert all(each.patient == {"patient_id": "P1"} for each in events)
    assert all("P1" not in str(each.details) for each in events)
    assert _reading(database).reader == "AE:WS1"


def test_of_many_readers_at_once_one_has_the_study(database: Database) -> None:
    uid = add_study(database, 40.0)

    def attempt(number: int) -> bool:
        try:
            with database.write() as session:
                claim(session, uid, Reader(f"reader {number}"))
        except ReadingError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(8))) == 1
    assert outcomes(database, AuditAction.STUDY_CLAIMED) == ["claimed"]


@on_one_database
def test_what_another_has_is_refused_in_words(database: Database) -> None:
    uid = add_study(database, 40.0)
    with database.write() as session:
        claim(session, uid, ANNA)
    for act, words in (
        (claim, "anna has claimed the study: choose another one"),
        (read, "anna has claimed the study"),
        (release, "anna has claimed the study: ask them, or an operator"),
        (unread, "the study is claimed, not read"),
    ):
        with pytest.raises(ReadingError, match=words), database.write() as session:
            act(session, uid, BERT)
    with database.write() as session:
        read(session, uid, ANNA)
    for act, words in (
        (claim, "anna has read the study already"),
        (read, "anna has read the study already"),
        (release, "the study is read, not claimed"),
        (unread, "anna has read the study: ask them"),
    ):
        with pytest.raises(ReadingError, match=words), database.write() as session:
            act(session, uid, BERT)
    assert _reading(database).reader == "anna"


@on_one_database
def test_the_same_wish_twice_changes_nothing(database: Database) -> None:
    uid = add_study(database, 40.0)
    for act, action in ((claim, AuditAction.STUDY_CLAIMED), (read, AuditAction.STUDY_READ)):
        for _ in range(2):
            with database.write() as session:
                act(session, uid, ANNA)
        assert len(outcomes(database, action)) == 1


def test_a_study_is_given_back_by_its_reader_or_by_an_operator(database: Database) -> None:
    uid = add_study(database, 40.0)
    for who in (ANNA, CHIEF):
        with database.write() as session:
            claim(session, uid, ANNA)
        with database.write() as session:
            release(session, uid, who)
        assert study_row(database, uid).reading_state is ReadingState.UNREAD
        assert _reading(database).reader is None
    assert outcomes(database, AuditAction.STUDY_RELEASED) == ["given_back", "forced"]
    with pytest.raises(ReadingError, match="unread, not claimed"), database.write() as session:
        release(session, uid, CHIEF)


def test_a_reading_is_opened_again_by_its_reader(database: Database) -> None:
    uid = add_study(database, 40.0)
    with database.write() as session:
        read(session, uid, ANNA)
        unread(session, uid, ANNA)
    assert study_row(database, uid).reading_state is ReadingState.UNREAD
    assert outcomes(database, AuditAction.READING_REOPENED) == ["by_reader"]


@pytest.mark.parametrize("act", [claim, read])
def test_a_new_figure_opens_the_reading_again(database: Database, act: object) -> None:
    uid = add_study(database, 40.0)
    with database.write() as session:
        act(session, uid, ANNA)  # type: ignore[operator]  two functions
    add_figure(database, uid, 60.0, revision=2)
    assert study_row(database, uid).reading_state is ReadingState.UNREAD
    reading = _reading(database)
    assert (reading.reader, reading.percent, reading.revision) == (None, 40.0, 1)
    assert reading.reopened_at is not None
    assert outcomes(database, AuditAction.READING_REOPENED) == ["new_report"]


def test_the_same_figure_leaves_the_reading_as_it_is(database: Database) -> None:
    uid = add_study(database, 40.0)
    with database.write() as session:
        read(session, uid, ANNA)
    add_figure(database, uid, 5.0, revision=2)  # the highest stays 40 %
    assert study_row(database, uid).reading_state is ReadingState.READ
    assert _reading(database).revision == 2
    assert outcomes(database, AuditAction.READING_REOPENED) == []


def test_a_first_result_opens_what_was_read_without_one(database: Database) -> None:
    uid = add_study(database)
    with database.write() as session:
        read(session, uid, ANNA, revision=0)
    assert _reading(database).percent is None
    add_figure(database, uid, 0.0)
    assert study_row(database, uid).reading_state is ReadingState.UNREAD


def test_a_report_that_nobody_saw_is_not_signed_off(database: Database) -> None:
    uid = add_study(database, 40.0)
    add_figure(database, uid, 60.0, revision=2)
    with pytest.raises(ReadingError, match="a newer report"), database.write() as session:
        read(session, uid, ANNA, revision=1)
    with database.write() as session:
        read(session, uid, ANNA, revision=2)
    assert _reading(database).percent == 60.0


@on_one_database
def test_a_study_that_is_not_there_is_said_to_be_so(database: Database) -> None:
    for act in (claim, read, release, unread):
        with pytest.raises(UnknownStudyError), database.write() as session:
            act(session, "1.2.3", ANNA)
