"""What readers think of the figures is kept as it was said, and counted by model."""

from datetime import timedelta

import pytest
from readings import add_account, add_figure, add_study
from rows import add_analysis, count, outcomes
from sqlalchemy import select

from dicom_node.errors import FeedbackError, UnknownStudyError
from dicom_node.worklist.feedback import (
    Agreement,
    Opinion,
    agreement,
    feedback_of,
    give_feedback,
)
from models.audit import AuditAction, AuditEvent
from models.base import utc_now
from models.imaging import Instance
from models.reading import Feedback
from models.result import Analysis
from models.session import Database
from models.states import Verdict

ACCEPT, REJECT = Opinion(Verdict.ACCEPT), Opinion(Verdict.REJECT)


def _correct(percent: float) -> Opinion:
    return Opinion(Verdict.CORRECT, percent)


def _give(database: Database, uid: str, *opinions: Opinion, account: str = "anna") -> None:
    for opinion in opinions:
        with database.write() as session:
            give_feedback(session, uid, account, opinion)


def _agreement(database: Database) -> list[Agreement]:
    with database.read() as session:
        return list(agreement(session))


def test_every_opinion_is_kept_and_the_last_one_counts(database: Database) -> None:
    add_account(database)
    uid = add_study(database, 40.0)
    _give(database, uid, ACCEPT, Opinion(Verdict.CORRECT, 25.0, " heart counted "))
    with database.read() as session:
        last, first = feedback_of(session, uid)
    assert (first.verdict, first.counts) == (Verdict.ACCEPT, False)
    assert (last.verdict, last.corrected_percent, last.counts) == (Verdict.CORRECT, 25.0, True)
    assert (last.account, last.comment, last.percent) == ("anna", "heart counted", 40.0)
    assert (last.model, last.revision) == ("unet 1", 1)
    assert count(database, Feedback) == 2


def test_feedback_is_in_the_audit_without_its_words(database: Database) -> None:
    add_account(database)
    uid = add_study(database, 40.0)
    _give(database, uid, Opinion(Verdict.REJECT, comment="Mrs Miller moved"))
    assert outcomes(database, AuditAction.FEEDBACK_GIVEN) == ["reject"]
    with database.read() as session:
        event = session.scalars(
            select(AuditEvent).where(AuditEvent.action == AuditAction.FEEDBACK_GIVEN)
        ).one()
    assert (event.actor, event.model, event.study_instance_uid) == ("anna", "unet 1", uid)
    assert event.patient == {"patient_id": "P1"}
    assert "Miller" not in f"{event.details} {event.patient}"


def test_agreement_is_counted_for_each_model_by_the_last_word_of_each(database: Database) -> None:
    for name in ("anna", "bert"):
        add_account(database, name)
    old, older = add_study(database, 40.0), add_study(database, 10.0)
    new = add_study(database, 40.0, model="unet-next")
    _give(database, old, REJECT, _correct(20.0))
    _give(database, old, ACCEPT, account="bert")
    _give(database, older, _correct(16.0))
    _give(database, new, REJECT)
    first, second = _agreement(database)
    assert first == Agreement("unet", "1", "f" * 64, 3, 1, 0, 2, 13.0)
    assert (second.model, second.opinions, second.rejected) == ("unet-next", 1, 1)
    assert second.mean_difference is None
    with database.read() as session:
        assert agreement(session, since=utc_now() + timedelta(hours=1)) == []
        assert len(agreement(session, until=utc_now() + timedelta(hours=1))) == 2


def test_feedback_is_about_the_image_that_gave_the_figure_or_about_a_named_one(
    database: Database,
) -> None:
    add_account(database)
    uid = add_study(database, 10.0)
    add_figure(database, uid, 60.0, revision=2)
    with database.read() as session:
        low, high = session.scalars(
            select(Instance.sop_instance_uid)
            .where(Instance.state == "analysed")
            .order_by(Instance.id.desc())
            .limit(2)
        ).all()[::-1]
    _give(database, uid, ACCEPT)
    with database.write() as session:
        give_feedback(session, uid, "anna", REJECT, low)
    with database.read() as session:
        about_low, about_high = feedback_of(session, uid)
    assert (about_high.sop_instance_uid, about_high.percent) == (high, 60.0)
    assert (about_low.sop_instance_uid, about_low.percent) == (low, 10.0)
    assert about_low.counts
    assert about_high.counts


def test_an_opinion_of_a_figure_that_counts_no_more_is_refused(database: Database) -> None:
    """The page was open while another model analysed the image."""
    add_account(database)
    uid = add_study(database, 20.0)
    with database.read() as session:
        seen = session.scalars(select(Analysis)).one()
        image, instance_id = seen.instance.sop_instance_uid, seen.instance_id
    newer, _ = add_analysis(database, instance_id, 70.0, model="unet-next")
    for subject, what in ((image, "this image of the study"), (None, "the study")):
        with (
            pytest.raises(FeedbackError, match=f"{what} has another figure by now"),
            database.write() as session,
        ):
            give_feedback(session, uid, "anna", ACCEPT, subject, seen.id)
    with database.write() as session:
        give_feedback(session, uid, "anna", ACCEPT, image, newer)
    with database.read() as session:
        assert [each.percent for each in feedback_of(session, uid)] == [70.0]


WRONG = [
    (Opinion(Verdict.CORRECT), "a correction needs the percentage"),
    (Opinion(Verdict.ACCEPT, 3.0), "goes with a correction, not with accept"),
    (Opinion(Verdict.CORRECT, 100.5), "is no percentage"),
    (Opinion(Verdict.CORRECT, -1.0), "is no percentage"),
    (Opinion(Verdict.CORRECT, float("nan")), "is no percentage"),
    (Opinion(Verdict.ACCEPT, comment="x" * 2001), "more than 2000 characters"),
]


def test_what_says_nothing_is_refused(database: Database) -> None:
    add_account(database)
    uid, nothing = add_study(database, 40.0), add_study(database)
    for opinion, words in WRONG:
        with pytest.raises(FeedbackError, match=words):
            _give(database, uid, opinion)
    with pytest.raises(FeedbackError, match="the study has no figure"):
        _give(database, nothing, ACCEPT)
    with pytest.raises(FeedbackError, match="there is no account bert"):
        _give(database, uid, ACCEPT, account="bert")
    with pytest.raises(FeedbackError, match="this image"), database.write() as session:
        give_feedback(session, uid, "anna", ACCEPT, "1.2.3")
    with pytest.raises(UnknownStudyError):
        _give(database, "1.2.3", ACCEPT)
    assert count(database, Feedback) == 0
