"""Coded concepts of SEG and SR: standard codes by name, and ours where no standard code exists."""

from enum import StrEnum
from typing import Final

from highdicom.sr import CodedConcept
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from models.identity import PRIVATE_SCHEME
from models.reasons import Reason
from worker.types import Caveat, Severity, Side, SpacingBasis, Zone

AnyCode = Code | CodedConcept


def _private(value: str, meaning: str) -> CodedConcept:
    return CodedConcept(value, PRIVATE_SCHEME, meaning)


def _named(member: StrEnum, prefix: str = "") -> CodedConcept:
    """Return the private code of a member: its name, and its value in words."""
    return _private(prefix + member.name, member.value.replace("_", " ").capitalize())


LUNG: Final = codes.SCT.Lung
OPACITY: Final = codes.DCM.Opacity
ANATOMICAL_STRUCTURE: Final = codes.SCT.AnatomicalStructure
ABNORMAL_STRUCTURE: Final = codes.SCT.MorphologicallyAbnormalStructure
AREA: Final = codes.SCT.AreaOfDefinedRegion
SEVERITY: Final = codes.SCT.Severity
SQUARE_MM: Final = codes.UCUM.SquareMillimeter
PERCENT: Final = codes.UCUM.Percent
NO_UNITS: Final = codes.UCUM.NoUnits
COMMENT: Final = codes.DCM.Comment
DEVICE: Final = codes.DCM.Device
REPORT_TITLE: Final = codes.DCM.ImagingMeasurementReport
QUALITATIVE_EVALUATIONS: Final = Code("C0034375", "UMLS", "Qualitative Evaluations")
ALGORITHM_NAME: Final = codes.DCM.AlgorithmName
ALGORITHM_VERSION: Final = codes.DCM.AlgorithmVersion
ALGORITHM_PARAMETERS: Final = codes.DCM.AlgorithmParameters
ARTIFICIAL_INTELLIGENCE: Final = codes.DCM.ArtificialIntelligence
SOURCE_IMAGE: Final = codes.DCM.SourceImageForImageProcessingOperation
PLAIN_CHEST_XRAY: Final = Code("399208008", "SCT", "Plain X-ray of chest")

LATERALITY: Final[dict[Side, Code]] = {
    "left": codes.SCT.Left,
    "right": codes.SCT.Right,
    "total": codes.SCT.Bilateral,
}
SEVERITIES: Final[dict[Severity, Code]] = {
    Severity.NONE: codes.SCT.None_,
    Severity.MILD: codes.SCT.Mild,
    Severity.MODERATE: codes.SCT.Moderate,
    Severity.SEVERE: codes.SCT.Severe,
}

# CID 6171: radiographic zones, which are not lobes
ZONE_SITES: Final[dict[Zone, Code]] = {
    Zone.RIGHT_UPPER: codes.SCT.UpperZoneOfLung,
    Zone.RIGHT_MIDDLE: codes.SCT.MiddleZoneOfLung,
    Zone.RIGHT_LOWER: codes.SCT.LowerZoneOfLung,
    Zone.LEFT_UPPER: codes.SCT.UpperZoneOfLung,
    Zone.LEFT_MIDDLE: codes.SCT.MiddleZoneOfLung,
    Zone.LEFT_LOWER: codes.SCT.LowerZoneOfLung,
}
ZONE_GRADE: Final = _private("ZONE_GRADE", "Opacity grade of lung zone, 0 to 3")
ZONE_SCORE: Final = _private("ZONE_SCORE", "Sum of opacity grades of lung zones")
ZONE_METHOD: Final = _private("ZONE_METHOD", "Basis of zone grades")
ZONE_BY_AREA: Final = _private(
    "ZONE_BY_AREA", "Opaque area of thirds of lung height; not the Brixia score"
)
ZONE_WITHHELD: Final = _private("ZONE_WITHHELD", "A zone without lung pixels: no sum given")

OPACITY_PERCENT: Final = _private(
    "OPACITY_AREA_PCT", "Lung opacity area as percent of lung field area"
)

# What a number means, said in code so that a reader can filter by it.
SPACING_METHODS: Final[dict[SpacingBasis, CodedConcept]] = {
    SpacingBasis.CALIBRATED: _private("SPACING_PATIENT", "Pixel spacing calibrated to patient"),
    SpacingBasis.DETECTOR_PLANE: _private(
        "SPACING_DETECTOR", "Pixel spacing at detector, not corrected for magnification"
    ),
    SpacingBasis.MAGNIFICATION_CORRECTED: _private(
        "SPACING_DIVIDED", "Detector pixel spacing divided by estimated magnification"
    ),
    SpacingBasis.FILM_SCAN: _private(
        "SPACING_FILM", "Pixel spacing on scanned film, not corrected for magnification"
    ),
}
NO_SPACING: Final = _private("SPACING_ABSENT", "No pixel spacing: areas withheld")
SPACING_BASIS: Final = _private("SPACING_BASIS", "Basis of areas")

SIDES_BASIS: Final = _private("SIDES_BASIS", "Basis of left and right")
SIDES_STATED: Final = _private("SIDES_STATED", "Patient Orientation stated in the source image")
SIDES_ASSUMED: Final = _private(
    "SIDES_ASSUMED", "Assumed: patient's left at the right of the image"
)

LUNG_DEFINITION: Final = _private("LUNG_DEFINITION", "Definition of lung field")
WITH_RETROCARDIAC: Final = _private(
    "LUNG_WITH_HEART", "Lung fields include the region behind the heart"
)

INTENDED_USE: Final = _private("INTENDED_USE", "Intended use")
RESEARCH_ONLY: Final = _private("RESEARCH_ONLY", "Research use only, not for diagnosis")

EXPERIMENT: Final = _private(
    "EXPERIMENT", "Experimental classification, not validated, not for diagnosis"
)

CAVEAT: Final = _private("CAVEAT", "Why the figures deserve a second look")


def caveat(kind: Caveat) -> CodedConcept:
    """Return the code of a caveat; its sentence stands beside it as text.

    Some words are caveat and reason alike, in two senses: hence the prefix.
    """
    return _named(kind, prefix="CAVEAT_")


NOT_ANALYSED: Final = _private("NOT_ANALYSED", "Image received and not analysed")
SOP_INSTANCE_UID: Final = _private("SOP_INSTANCE_UID", "SOP Instance UID")  # PS3.16 D has none


def reason(kind: Reason) -> CodedConcept:
    """Return the code of the reason why an image was not analysed; its sentence stands below it."""
    return _named(kind)


# Document titles of rejection notes (CID 7010)
REJECTIONS: Final[dict[Reason, Code]] = {
    Reason.REJECTED_QUALITY: codes.DCM.RejectedForQualityReasons,
    Reason.REJECTED_SAFETY: codes.DCM.RejectedForPatientSafetyReasons,
    Reason.REJECTED_WORKLIST: codes.DCM.IncorrectModalityWorklistEntry,
}
