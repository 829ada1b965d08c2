"""Which rows count as held, and the results of a study: the SQL that every level shares."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydicom.uid import (
    Comprehensive3DSRStorage,
    EncapsulatedPDFStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from sqlalchemy import ColumnElement, Select, and_, func, or_, select
from sqlalchemy.orm import aliased

from models.imaging import Instance, Series, Study
from models.result import Analysis, Artifact, ReportedAnalysis
from models.states import InstanceState

# Modality of the results that workers make, by SOP Class.
MODALITIES: Final[dict[str, str]] = {
    SegmentationStorage: "SEG",
    Comprehensive3DSRStorage: "SR",
    SecondaryCaptureImageStorage: "OT",
    GrayscaleSoftcopyPresentationStateStorage: "PR",
    EncapsulatedPDFStorage: "DOC",
    KeyObjectSelectionDocumentStorage: "KO",
}
HIDDEN: Final = (InstanceState.QUARANTINED, InstanceState.SUPERSEDED, InstanceState.WITHDRAWN)


@dataclass(frozen=True)
class ResultRow:
    """A DICOM object that was made of a study: SEG, SR, Secondary Capture."""

    sop_class_uid: str
    sop_instance_uid: str
    storage_key: str
    study_instance_uid: str


def is_held() -> ColumnElement[bool]:
    """Condition on Instance and its Study: it is here, under the identity that its bytes have.

    A purged one is not: only its results are held.
    One that an operator corrected is sent with the old identity: only its results are held.
    """
    return and_(_counts(), Instance.correction.is_(None), Instance.purged_at.is_(None))


def is_held_series() -> ColumnElement[bool]:
    """Condition on Series and its Study: something in it is held."""
    return select(Instance.id).where(Instance.series_id == Series.id, is_held()).exists()


def is_held_study() -> ColumnElement[bool]:
    """Condition on Study: something in it counts."""
    within = select(Instance.id).join(Series, Instance.series_id == Series.id)
    return within.where(Series.study_id == Study.id, _counts()).exists()


def _counts() -> ColumnElement[bool]:
    """Condition on Instance and its Study: what is set aside, or of another patient, does not."""
    own = func.coalesce(Instance.patient_id, Study.patient_id, "")
    return and_(
        Instance.state.not_in(HIDDEN),
        own == func.coalesce(Study.patient_id, Instance.patient_id, ""),
    )


def _is_current() -> ColumnElement[bool]:
    """Condition on Analysis, its Instance and Study: made under the identity that counts now."""
    later = aliased(Analysis)
    newest = select(func.max(later.id)).where(later.instance_id == Instance.id).scalar_subquery()
    was_made_again = and_(Instance.state == InstanceState.ANALYSED, Analysis.id == newest)
    return and_(_counts(), or_(Instance.identity_revision == 0, was_made_again))


def results_of(
    study_instance_uids: Sequence[str] | None,
) -> tuple[Select[Any], ...]:
    """Return the queries of the results of images and of the reports: artifact id and ResultRow.

    None: of every study.

    Neither a result nor a report is shown that stands under an identity which was corrected since,
    or speaks of an image that counts no more.
    """
    columns: tuple[Any, ...] = (
        Artifact.id,
        Artifact.sop_class_uid,
        Artifact.sop_instance_uid,
        Artifact.storage_key,
        Study.study_instance_uid,
    )
    wanted = [
        Artifact.sop_instance_uid.is_not(None),  # a picture for the web page has none
        Artifact.purged_at.is_(None),
    ]
    if study_instance_uids is not None:
        wanted.append(Study.study_instance_uid.in_(study_instance_uids))
    of_images = (
        select(*columns)
        .join(Analysis, Artifact.analysis_id == Analysis.id)
        .join(Instance, Analysis.instance_id == Instance.id)
        .join(Series, Instance.series_id == Series.id)
        .join(Study, Series.study_id == Study.id)
        .where(*wanted, _is_current())
    )
    outdated = (
        select(ReportedAnalysis.artifact_id)
        .join(Analysis, ReportedAnalysis.analysis_id == Analysis.id)
        .join(Instance, Analysis.instance_id == Instance.id)
        .where(ReportedAnalysis.artifact_id == Artifact.id, ~_is_current())
        .exists()
    )
    reports = (
        select(*columns)
        .join(Study, Artifact.study_id == Study.id)
        .where(*wanted, ~outdated, is_held_study())
    )
    return of_images, reports
