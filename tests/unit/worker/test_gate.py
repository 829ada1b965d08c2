"""worker.gate: which images may be analysed, as a table."""

from typing import Any

import numpy as np
import pytest
from builders import DX, DX_FOR_PROCESSING, chest_dataset
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from models.identity import MANUFACTURER, NODE_MODEL_NAME
from models.reasons import Reason
from worker.errors import NotAnalysable
from worker.gate import NOTE_AGE, SECONDARY_CAPTURE, Limits, check_contrast, check_header, notes_of

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR")  # real files have them


def _coded(value: str, scheme: str, meaning: str) -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return Sequence([item])


PASSES: list[dict[str, Any]] = [
    {},
    {"SOPClassUID": DX, "Modality": "DX"},
    {"SOPClassUID": DX_FOR_PROCESSING, "Modality": "DX"},
    {"PhotometricInterpretation": "MONOCHROME1"},
    {"ViewPosition": "AP"},
    {"ViewPosition": ""},
    {"ViewPosition": None, "PatientOrientation": None, "BodyPartExamined": None},
    {"BodyPartExamined": "THORAX"},
    {"BodyPartExamined": "PORT CHEST"},
    {"NumberOfFrames": 1},
    {"StudyDescription": "CHEST PA AND LATERAL"},
    {"ViewPosition": None, "StudyDescription": "CHEST PA AND LATERAL"},
    {"ViewPosition": None, "SeriesDescription": "Thorax face et profil"},
    {"SeriesDescription": "BILATERAL LUNGS"},
    {"ViewCodeSequence": _coded("R-10214", "SNM3", "postero-anterior")},
    {"ViewCodeSequence": _coded("399348003", "SCT", "antero-posterior")},
    {"AnatomicRegionSequence": _coded("T-D3000", "SRT", "Chest")},
    {"AnatomicRegionSequence": _coded("816094009", "SCT", "Thorax")},
    {"PatientSpeciesDescription": "Homo sapiens"},
    {"ResponsiblePerson": "Doe^Jane", "ResponsiblePersonRole": "MOTHER"},
    {"StudyDescription": "SKELETAL SURVEY SKULL"},
    {"PatientOrientation": ["R", "F"]},
    {"PatientAge": "018Y", "PatientBirthDate": "20200101"},
    {"PatientAge": "216M"},
    {"PatientAge": "000Y", "PatientBirthDate": "19500101"},  # written by an anonymiser
    {"PatientAge": "62"},
    {"PatientAge": "999Y", "PatientBirthDate": "19500101"},
    {"PatientAge": None, "PatientBirthDate": "20080101", "StudyDate": "20260101"},
    {"PatientBirthDate": "20270101"},  # after the study
    {"PatientBirthDate": "18000101"},
    {"PatientBirthDate": None},
    {"PatientBirthDate": "19800101", "StudyDate": "19010101", "ContentDate": "20200101"},
]

REFUSED: list[tuple[dict[str, Any], Reason]] = [
    (
        {"Manufacturer": MANUFACTURER, "ManufacturerModelName": NODE_MODEL_NAME},
        Reason.OWN_RESULT,
    ),
    (
        {"SOPInstanceUID": "1.2.826.99.7", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"},
        Reason.OWN_RESULT,
    ),
    ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, Reason.SOP_CLASS),
    ({"SOPClassUID": None}, Reason.SOP_CLASS),
    ({"Modality": "PX"}, Reason.MODALITY),
    ({"PixelData": None}, Reason.NO_PIXEL_DATA),
    ({"NumberOfFrames": 2}, Reason.MULTI_FRAME),
    ({"PhotometricInterpretation": "RGB"}, Reason.NOT_GRAYSCALE),
    ({"SamplesPerPixel": 3}, Reason.NOT_GRAYSCALE),
    ({"Rows": 127}, Reason.TOO_SMALL),
    ({"Rows": None}, Reason.TOO_SMALL),
    ({"Rows": 65535, "Columns": 65535}, Reason.TOO_LARGE),
    ({"PatientSpeciesDescription": "canina"}, Reason.NOT_HUMAN),
    ({"PatientBreedDescription": "Beagle"}, Reason.NOT_HUMAN),
    ({"ResponsiblePersonRole": "OWNER"}, Reason.NOT_HUMAN),
    ({"PatientSexNeutered": "ALTERED"}, Reason.NOT_HUMAN),
    ({"PatientSpeciesCodeSequence": _coded("L-80700", "SRT", "Canine")}, Reason.NOT_HUMAN),
    ({"AcquisitionDeviceProcessingDescription": "CANINE LATERAL THORAX"}, Reason.NOT_HUMAN),
    ({"PatientOrientation": ["P", "F"]}, Reason.LATERAL_VIEW),
    ({"PatientOrientation": ["A", "F"]}, Reason.LATERAL_VIEW),
    ({"ViewPosition": "LL"}, Reason.LATERAL_VIEW),
    ({"ViewPosition": "LATERAL"}, Reason.LATERAL_VIEW),
    ({"ViewPosition": "LLD"}, Reason.NOT_FRONTAL),
    ({"ViewPosition": "LAO"}, Reason.NOT_FRONTAL),
    ({"ViewCodeSequence": _coded("R-10236", "SRT", "left lateral")}, Reason.LATERAL_VIEW),
    ({"ViewCodeSequence": _coded("399182000", "SCT", "oblique")}, Reason.NOT_FRONTAL),
    ({"ViewPosition": None, "SeriesDescription": "W033 Chest lat."}, Reason.LATERAL_VIEW),
    ({"ViewPosition": "", "StudyDescription": "CHEST LATERAL"}, Reason.LATERAL_VIEW),
    ({"ViewPosition": "", "ProtocolName": "CHEST DECUBITUS"}, Reason.NOT_FRONTAL),
    ({"BodyPartExamined": "HIP"}, Reason.BODY_PART),
    ({"BodyPartExamined": "CHESTABDOMEN"}, Reason.BODY_PART),
    ({"SeriesDescription": "SHOULDER"}, Reason.BODY_PART),
    ({"SeriesDescription": "T-SPINE, AP"}, Reason.BODY_PART),
    ({"SeriesDescription": "THORACIC SPINE AP"}, Reason.BODY_PART),
    ({"BodyPartExamined": "", "SeriesDescription": "MODALITYLUT - TEETH"}, Reason.BODY_PART),
    ({"BodyPartExamined": "", "StudyDescription": "HIP JOINT"}, Reason.BODY_PART),
    ({"AnatomicRegionSequence": _coded("T-11100", "SRT", "Skull")}, Reason.BODY_PART),
    ({"PatientAge": "017Y"}, Reason.PAEDIATRIC),
    ({"PatientAge": "17Y"}, Reason.PAEDIATRIC),
    ({"PatientAge": "9"}, Reason.PAEDIATRIC),
    ({"PatientAge": "215M"}, Reason.PAEDIATRIC),
    ({"PatientAge": "010D", "PatientBirthDate": "19700101"}, Reason.PAEDIATRIC),
    ({"PatientAge": "000Y", "PatientBirthDate": None}, Reason.PAEDIATRIC),
    ({"PatientBirthDate": "20080102", "StudyDate": "20260101"}, Reason.PAEDIATRIC),
    (
        {"PatientBirthDate": "2020.01.02", "StudyDate": None, "AcquisitionDate": "20250101"},
        Reason.PAEDIATRIC,
    ),
    (
        {"PatientBirthDate": "20200102", "StudyDate": "", "ContentDate": "20250101"},
        Reason.PAEDIATRIC,
    ),
    ({"PatientAge": "005Y", "PatientSpeciesDescription": "canina"}, Reason.NOT_HUMAN),
]

LIMITS = Limits(uid_root="1.2.826.99")


@pytest.mark.parametrize("attributes", PASSES, ids=str)
def test_passes(attributes: dict[str, Any]) -> None:
    check_header(chest_dataset(**attributes), LIMITS)


@pytest.mark.parametrize(("attributes", "reason"), REFUSED, ids=str)
def test_is_refused(attributes: dict[str, Any], reason: Reason) -> None:
    with pytest.raises(NotAnalysable) as caught:
        check_header(chest_dataset(**attributes), LIMITS)
    assert caught.value.reason is reason


@pytest.mark.parametrize("value", [0, 7, 4095])
def test_an_empty_exposure_is_flat(value: int) -> None:
    with pytest.raises(NotAnalysable) as caught:
        check_contrast(np.full((300, 300), value, np.uint16))
    assert caught.value.reason is Reason.FLAT_IMAGE


def test_a_few_stray_pixels_are_no_contrast() -> None:
    stored = np.zeros((300, 300), np.uint16)
    stored[150, :100] = np.arange(100)
    with pytest.raises(NotAnalysable):
        check_contrast(stored)


def test_a_chest_has_contrast() -> None:
    check_contrast(chest_dataset().pixel_array)


def test_a_site_may_set_the_age() -> None:
    child = chest_dataset(PatientAge="010Y")
    check_header(child, Limits(min_age_years=0))
    check_header(child, Limits(min_age_years=10))
    with pytest.raises(NotAnalysable) as caught:
        check_header(chest_dataset(PatientAge="020Y"), Limits(min_age_years=21))
    assert caught.value.reason is Reason.PAEDIATRIC


@pytest.mark.parametrize(
    ("attributes", "min_age", "notes"),
    [
        ({"PatientAge": "040Y"}, 18, ()),
        ({"PatientBirthDate": "19700101"}, 18, ()),
        ({"PatientBirthDate": None}, 18, (NOTE_AGE,)),
        ({"PatientBirthDate": "20990101"}, 18, (NOTE_AGE,)),
        ({"PatientBirthDate": None}, 0, ()),
    ],
)
def test_an_unknown_age_is_noted(
    attributes: dict[str, Any], min_age: int, notes: tuple[str, ...]
) -> None:
    assert notes_of(chest_dataset(**attributes), Limits(min_age_years=min_age)) == notes


def test_a_setting_lets_secondary_captures_of_radiographs_in() -> None:
    limits = Limits(secondary_capture=True)
    check_header(chest_dataset(SOPClassUID=SECONDARY_CAPTURE), limits)
    with pytest.raises(NotAnalysable) as caught:
        check_header(chest_dataset(SOPClassUID=SECONDARY_CAPTURE, Modality="OT"), limits)
    assert caught.value.reason is Reason.MODALITY
