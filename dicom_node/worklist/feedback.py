"""What readers think of the figures: given once, never changed, counted by model."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Select, case, func, select
from sqlalchemy.orm import Session

from dicom_node.errors import FeedbackError
from dicom_node.worklist.priors import figure_of
from dicom_node.worklist.readings import locked_study, newest_revision
from models.account import Account
from models.audit import AuditAction, record
from models.imaging import Study
from models.reading import Feedback
from models.result import Analysis, ModelVersion, newest_analyses
from models.states import Verdict

_ALL: Final = 100.0
_COMMENT_LENGTH: Final = 2000


@dataclass(frozen=True)
class Opinion:
    """What a reader says. `percent` goes with the verdict `correct`, and with no other."""

    verdict: Verdict
    percent: float | None = None
    comment: str | None = None

    def check(self) -> None:
        """Raise FeedbackError when the parts contradict each other."""
        if self.verdict is Verdict.CORRECT and self.percent is None:
            msg = "a correction needs the percentage that you see, from 0 to 100"
            raise FeedbackError(msg)
        if self.verdict is not Verdict.CORRECT and self.percent is not None:
            msg = f"a percentage goes with a correction, not with {self.verdict.value}"
            raise FeedbackError(msg)
        if self.percent is not None and not 0 <= self.percent <= _ALL:
            msg = f"{self.percent} is no percentage: write a number from 0 to 100"
            raise FeedbackError(msg)
        if self.comment is not None and len(self.comment) > _COMMENT_LENGTH:
            msg = f"the comment has more than {_COMMENT_LENGTH} characters: shorten it"
            raise FeedbackError(msg)


@dataclass(frozen=True)
class GivenFeedback:
    """One opinion with the figure it is about. `counts`: the account has given no later one."""

    study_instance_uid: str
    sop_instance_uid: str
    account: str
    verdict: Verdict
    percent: float | None
    corrected_percent: float | None
    comment: str | None
    model: str
    revision: int
    at: datetime
    counts: bool


@dataclass(frozen=True)
class Agreement:
    """How readers agree with one model version, by the last opinion of each on each image.

    `mean_difference` is the mean of |corrected - measured| in percentage points, over corrections.
    """

    model: str
    version: str
    sha256: str
    opinions: int
    accepted: int
    rejected: int
    corrected: int
    mean_difference: float | None


def give_feedback(
    session: Session,
    study_instance_uid: str,
    account: str,
    opinion: Opinion,
    sop_instance_uid: str | None = None,
    analysis_id: int | None = None,
) -> Feedback:
    """Store what an account says of the figure of an image, or of the one the study's comes from.

    `analysis_id` is the figure that was seen. Raises UnknownStudyError, and FeedbackError when the
    opinion contradicts itself, the account is unknown, or there is no figure to speak of, or
    another one than was seen.
    """
    opinion.check()
    study = locked_study(session, study_instance_uid)
    row = session.scalar(select(Account).where(Account.name == account))
    if row is None:
        msg = f"there is no account {account}: feedback is given in somebody's name"
        raise FeedbackError(msg)
    analysis = _subject(session, study, sop_instance_uid, analysis_id)
    feedback = Feedback(
        study_id=study.id,
        analysis_id=analysis.id,
        revision=newest_revision(session, study.id),
        account_id=row.id,
        verdict=opinion.verdict,
        corrected_percent=opinion.percent,
        comment=(opinion.comment or "").strip() or None,
    )
    session.add(feedback)
    session.flush()
    record(
        session,
        AuditAction.FEEDBACK_GIVEN,
        opinion.verdict.value,
        actor=account,
        study_instance_uid=study.study_instance_uid,
        sop_instance_uid=analysis.instance.sop_instance_uid,
        model=f"{analysis.model_version.name} {analysis.model_version.version}",
        details={
            "feedback_id": feedback.id,
            "percent": analysis.opacity_percent_total,
            "corrected_percent": opinion.percent,
        },
        patient={"patient_id": study.patient_id},
    )
    return feedback


def _subject(
    session: Session, study: Study, sop_instance_uid: str | None, seen: int | None
) -> Analysis:
    if sop_instance_uid is None:
        analysis = figure_of(session, study)
    else:
        analysis = next(
            (
                each
                for each in newest_analyses(session, study.id)
                if each.instance.sop_instance_uid == sop_instance_uid
            ),
            None,
        )
    what = "the study" if sop_instance_uid is None else "this image of the study"
    if analysis is None:
        msg = f"{what} has no figure that could be accepted, rejected or corrected"
        raise FeedbackError(msg)
    if seen is not None and seen != analysis.id:
        msg = f"{what} has another figure by now: look at it first"
        raise FeedbackError(msg)
    return analysis


def feedback_of(session: Session, study_instance_uid: str) -> list[GivenFeedback]:
    """Return every opinion about a study, newest first."""
    query = select(Feedback).join(Study, Feedback.study_id == Study.id)
    query = query.where(Study.study_instance_uid == study_instance_uid)
    rows = session.scalars(query.order_by(Feedback.id.desc())).all()
    about = {row.analysis_id for row in rows}
    counting = session.scalars(last_opinions().where(Feedback.analysis_id.in_(about))).all()
    return [_given(row, counts=row.id in counting) for row in rows]


def last_opinions() -> Select[int]:
    """Return the query of the feedback that counts: the last of each account about each image."""
    return select(func.max(Feedback.id)).group_by(Feedback.analysis_id, Feedback.account_id)


def agreement(
    session: Session, since: datetime | None = None, until: datetime | None = None
) -> Sequence[Agreement]:
    """Return how readers agree with each model version, over feedback given in that time."""

    def number(verdict: Verdict) -> Any:  # noqa: ANN401  an SQL expression
        return func.sum(case((Feedback.verdict == verdict, 1), else_=0))

    difference = func.abs(Feedback.corrected_percent - Analysis.opacity_percent_total)
    query = (
        select(
            ModelVersion.name,
            ModelVersion.version,
            ModelVersion.sha256,
            func.count(),
            *(number(verdict) for verdict in (Verdict.ACCEPT, Verdict.REJECT, Verdict.CORRECT)),
            func.avg(difference),
        )
        .select_from(Feedback)
        .join(Analysis, Feedback.analysis_id == Analysis.id)
        .join(ModelVersion, Analysis.model_version_id == ModelVersion.id)
        .where(Feedback.id.in_(last_opinions()))
        .group_by(ModelVersion.id, ModelVersion.name, ModelVersion.version, ModelVersion.sha256)
        .order_by(ModelVersion.id)
    )
    if since is not None:
        query = query.where(Feedback.created_at >= since)
    if until is not None:
        query = query.where(Feedback.created_at < until)
    return [Agreement(*row) for row in session.execute(query).all()]


def _given(row: Feedback, *, counts: bool) -> GivenFeedback:
    analysis, model = row.analysis, row.analysis.model_version
    return GivenFeedback(
        study_instance_uid=row.study.study_instance_uid,
        sop_instance_uid=analysis.instance.sop_instance_uid,
        account=row.account.name,
        verdict=row.verdict,
        percent=analysis.opacity_percent_total,
        corrected_percent=row.corrected_percent,
        comment=row.comment,
        model=f"{model.name} {model.version}",
        revision=row.revision,
        at=row.created_at,
        counts=counts,
    )
