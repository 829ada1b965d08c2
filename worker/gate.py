"""What may be analysed by its header, and why not: checks in the order of a table.

Modality and SOP Class are no gate by themselves: archives hold lateral chests, dogs and teeth as
CR. Where a header says nothing, the image passes, and `worker.image_gate` looks at the picture;
where it contradicts itself, it does not.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from models.identity import is_own_object
from models.reasons import Reason
from worker.age import ADULT, age_years
from worker.errors import NotAnalysable
from worker.header import get_items, get_numbers, get_text, get_values


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


@dataclass(frozen=True)
class Limits:
    """The settings that header checks need."""

    min_side_pixels: int = 128
    max_pixels: int = 64_000_000
    uid_root: str = ""
    min_age_years: int = ADULT  # 0: any age
    secondary_capture: bool = False


_CR: Final = "1.2.840.10008.5.1.4.1.1.1"
_DX_FOR_PRESENTATION: Final = "1.2.840.10008.5.1.4.1.1.1.1"
_DX_FOR_PROCESSING: Final = "1.2.840.10008.5.1.4.1.1.1.1.1"
SOP_CLASSES: Final = frozenset({_CR, _DX_FOR_PRESENTATION, _DX_FOR_PROCESSING})
SECONDARY_CAPTURE: Final = "1.2.840.10008.5.1.4.1.1.7"
MODALITIES: Final = frozenset({"CR", "DX"})
NOTE_AGE: Final = "The patient's age is unknown: an adult was assumed."
_PIXEL_DATA: Final = ("PixelData",)

# What a technician's protocol names; StudyDescription names the order, which may be several views.
_SERIES_TEXTS: Final = (
    "SeriesDescription",
    "ProtocolName",
    "AcquisitionDeviceProcessingDescription",
    "AcquisitionProtocolDescription",
)
_STUDY_TEXTS: Final = (
    "StudyDescription",
    "PerformedProcedureStepDescription",
    "RequestedProcedureDescription",
)

_FRONTAL: Final = _words("PA AP FRONTAL FRONT FACE FRENTE POSTEROANTERIOR ANTEROPOSTERIOR")
_LATERAL: Final = _words("LAT LATERAL LATERALE LATERALIS LL RL PROFIL SEITLICH")
_OTHER_VIEW: Final = _words(
    "OBL OBLIQUE DECUB DECUBITUS LLD RLD LAO RAO LPO RPO LLO RLO AXIAL TANGENTIAL"
)
_CHEST: Final = _words(
    "CHEST THORAX LUNG LUNGS TORAX TORACE TORAKS CXR THORACIC PULMO POUMON POUMONS"
)
_OTHER_PARTS: Final = _words(
    "ABD ABDOMEN ANKLE ARM CALCANEUS CERVICAL CLAVICLE COCCYX CSPINE DENTAL ELBOW EXTREMITY FEMUR "
    "FINGER FOOT FOREARM HAND HEAD HEEL HIP HUMERUS JAW KNEE KUB LEG LSPINE LUMBAR MANDIBLE "
    "MAXILLA NECK ORBIT PANORAMIC PATELLA PELVIS RADIUS RIB RIBS SACRUM SCAPULA SHOULDER SINUS "
    "SKULL SPINE STERNUM TEETH TIBIA TMJ TOE TOES TOOTH TSPINE ULNA WRIST"
)
# Tokens that make a chest word mean something else: `CHEST RIBS`, `THORACIC SPINE`.
_OVERRIDES_CHEST: Final = _words("SPINE RIB RIBS STERNUM SHOULDER CLAVICLE SCAPULA")
_ANIMALS: Final = _words(
    "CANINE FELINE EQUINE BOVINE OVINE PORCINE AVIAN DOG HORSE RABBIT VET VETERINARY K9"
)
_HUMAN: Final = frozenset({"", "HOMO SAPIENS", "HUMAN", "HOMO"})
_HUMAN_CODES: Final = frozenset({"337915000", "L-85B00"})  # SCT and SRT (PS3.16 CID 7454)

_FRONTAL_VIEWS: Final = (
    codes.SCT.PosteroAnterior,
    Code("R-10214", "SRT", "postero-anterior"),  # pydicom's map from SRT to SCT lacks some views
    codes.SCT.AnteroPosterior,
    codes.SCT.Frontal,
)
_LATERAL_VIEWS: Final = (
    codes.SCT.LeftLateral,
    Code("R-10236", "SRT", "left lateral"),
    codes.SCT.RightLateral,
    Code("R-10232", "SRT", "right lateral"),
    codes.SCT.LateralProjection,
    codes.SCT.Sagittal,
    codes.SCT.LateralMedial,
)
_CHEST_REGIONS: Final = (
    codes.SCT.Thorax,
    codes.SCT.Lung,
    Code("51185008", "SCT", "Thoracic structure"),
    Code("43799004", "SCT", "Intra-thoracic"),
    Code("T-D3000", "SRT", "Chest"),
    Code("T-28000", "SRT", "Lung"),
)
_MIN_GREY_LEVELS: Final = 16


def check_header(ds: Dataset, limits: Limits) -> None:
    """Raise NotAnalysable for the first reason in `CHECKS` that the header gives."""
    for check in CHECKS:
        reason = check(ds, limits)
        if reason is not None:
            raise NotAnalysable(reason)


def check_contrast(stored: NDArray[np.integer[Any]]) -> None:
    """Raise NotAnalysable FLAT_IMAGE when the decoded pixels hold almost no grey levels."""
    sample = stored[:: max(1, stored.shape[0] // 512), :: max(1, stored.shape[1] // 512)]
    low, high = np.percentile(sample, (0.5, 99.5))
    levels = np.unique(sample[(sample >= low) & (sample <= high)]).size
    if levels < _MIN_GREY_LEVELS:
        raise NotAnalysable(Reason.FLAT_IMAGE)


def notes_of(ds: Dataset, limits: Limits) -> tuple[str, ...]:
    """Return what was taken for granted of an image that passed `check_header`."""
    return (NOTE_AGE,) if limits.min_age_years and age_years(ds) is None else ()


def _own_result(ds: Dataset, limits: Limits) -> Reason | None:
    own = is_own_object(
        get_text(ds, "Manufacturer"),
        get_text(ds, "ManufacturerModelName"),
        get_text(ds, "SOPClassUID"),
        get_text(ds, "SOPInstanceUID"),
        limits.uid_root,
    )
    return Reason.OWN_RESULT if own else None


def _sop_class(ds: Dataset, limits: Limits) -> Reason | None:
    """Secondary captures say nothing of how they were made; a setting lets those of CR, DX in."""
    stated = get_text(ds, "SOPClassUID")
    accepted = stated in SOP_CLASSES or (limits.secondary_capture and stated == SECONDARY_CAPTURE)
    return None if accepted else Reason.SOP_CLASS


def _modality(ds: Dataset, _limits: Limits) -> Reason | None:
    return None if get_text(ds, "Modality").upper() in MODALITIES else Reason.MODALITY


def _pixel_data(ds: Dataset, _limits: Limits) -> Reason | None:
    present = any(keyword in ds and ds[keyword].value for keyword in _PIXEL_DATA)
    return None if present else Reason.NO_PIXEL_DATA


def _frames(ds: Dataset, _limits: Limits) -> Reason | None:
    frames = get_numbers(ds, "NumberOfFrames") or (1.0,)
    return None if frames in {(1.0,), (0.0,)} else Reason.MULTI_FRAME


def _photometric(ds: Dataset, _limits: Limits) -> Reason | None:
    grey = get_text(ds, "PhotometricInterpretation") in {"MONOCHROME1", "MONOCHROME2"}
    single = (get_numbers(ds, "SamplesPerPixel") or (1.0,)) == (1.0,)
    return None if grey and single else Reason.NOT_GRAYSCALE


def _size(ds: Dataset, limits: Limits) -> Reason | None:
    rows, columns = get_numbers(ds, "Rows"), get_numbers(ds, "Columns")
    if len(rows) != 1 or len(columns) != 1 or min(*rows, *columns) < limits.min_side_pixels:
        return Reason.TOO_SMALL
    return Reason.TOO_LARGE if rows[0] * columns[0] > limits.max_pixels else None


def _species(ds: Dataset, _limits: Limits) -> Reason | None:
    """PS3.3 C.7.1.1: a patient is human unless an attribute for animals says otherwise.

    Responsible Person alone proves nothing: a child has one too.
    """
    described = get_text(ds, "PatientSpeciesDescription").upper() not in _HUMAN
    coded = any(
        get_text(item, "CodeValue") not in _HUMAN_CODES | {""}
        for item in get_items(ds, "PatientSpeciesCodeSequence")
    )
    veterinary = any(
        (
            get_text(ds, "PatientBreedDescription"),
            get_text(ds, "PatientSexNeutered"),
            get_items(ds, "PatientBreedCodeSequence"),
            get_items(ds, "BreedRegistrationSequence"),
            get_text(ds, "ResponsiblePersonRole").upper() == "OWNER",
        )
    )
    named = _tokens(ds, (*_SERIES_TEXTS, *_STUDY_TEXTS, "BodyPartExamined")) & _ANIMALS
    return Reason.NOT_HUMAN if described or coded or veterinary or named else None


def _view(ds: Dataset, _limits: Limits) -> Reason | None:
    """Coded statements first; words only where they are the only statement."""
    directions = [text[:1].upper() for text in get_values(ds, "PatientOrientation")]
    if len(directions) == 2 and {"A", "P"} & set(directions):  # noqa: PLR2004  row, column
        # PS3.3 C.7.6.1.1.1: rows or columns run front to back
        return Reason.LATERAL_VIEW
    views = [_code(item) for item in get_items(ds, "ViewCodeSequence")]
    if any(view in _LATERAL_VIEWS for view in views):
        return Reason.LATERAL_VIEW
    if any(view.value and view not in _FRONTAL_VIEWS for view in views):
        return Reason.NOT_FRONTAL
    position = _tokens(ds, ("ViewPosition",))
    if position:
        return _judge_view(position) or (None if position & _FRONTAL else Reason.NOT_FRONTAL)
    return _judge_view(_tokens(ds, _SERIES_TEXTS)) or _judge_view(_all_tokens(ds))


def _judge_view(tokens: frozenset[str]) -> Reason | None:
    """Judge the words of one statement; a frontal word outweighs (`CHEST PA AND LATERAL`)."""
    if tokens & _FRONTAL:
        return None
    if tokens & _LATERAL:
        return Reason.LATERAL_VIEW
    return Reason.NOT_FRONTAL if tokens & _OTHER_VIEW else None


def _body_part(ds: Dataset, _limits: Limits) -> Reason | None:
    """Body Part Examined and Anatomic Region must be the chest where they speak.

    The protocol's words may contradict them: real shoulders and spines are labelled CHEST.
    """
    part = _tokens(ds, ("BodyPartExamined",))
    if part and (not part & _CHEST or part & _OVERRIDES_CHEST):
        return Reason.BODY_PART
    for item in get_items(ds, "AnatomicRegionSequence"):
        meaning = _split(get_text(item, "CodeMeaning"))
        chest = _code(item) in _CHEST_REGIONS or meaning & _CHEST
        if get_text(item, "CodeValue") and (not chest or meaning & _OVERRIDES_CHEST):
            return Reason.BODY_PART
    words = _tokens(ds, _SERIES_TEXTS)
    if not part and not words & (_CHEST | _OTHER_PARTS):
        words = _tokens(ds, _STUDY_TEXTS)
    elsewhere = words & _OTHER_PARTS and not words & _CHEST
    return Reason.BODY_PART if elsewhere or words & _OVERRIDES_CHEST else None


def _age(ds: Dataset, limits: Limits) -> Reason | None:
    """No child was in the training data, and a child's chest is no small adult's."""
    age = age_years(ds) if limits.min_age_years else None
    return Reason.PAEDIATRIC if age is not None and age < limits.min_age_years else None


CHECKS: Final[tuple[Callable[[Dataset, Limits], Reason | None], ...]] = (
    _own_result,
    _sop_class,
    _modality,
    _pixel_data,
    _frames,
    _photometric,
    _size,
    _species,
    _view,
    _body_part,
    _age,
)


def _code(item: Dataset) -> Code:
    """Return the coded concept; old SNOMED schemes become SRT, which pydicom maps to SCT."""
    scheme = get_text(item, "CodingSchemeDesignator").upper()
    scheme = "SRT" if scheme in {"SNM3", "99SDM"} else scheme
    return Code(get_text(item, "CodeValue"), scheme, get_text(item, "CodeMeaning"))


def _all_tokens(ds: Dataset) -> frozenset[str]:
    return _tokens(ds, (*_SERIES_TEXTS, *_STUDY_TEXTS))


def _tokens(ds: Dataset, keywords: tuple[str, ...]) -> frozenset[str]:
    """Whole words of several attributes, upper case: `T-SPINE,LATERAL` has T, SPINE, LATERAL."""
    return frozenset[str]().union(*(_split(get_text(ds, keyword)) for keyword in keywords))


def _split(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[A-Z0-9]+", text.upper()))
