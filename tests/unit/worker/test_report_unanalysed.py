"""worker.report: the images of a study that got no figures, as its SR lists them."""

from dataclasses import replace
from io import BytesIO

import highdicom as hd
import pytest
from builders import DX, DX_FOR_PROCESSING, analysed_image, lung_masks, object_context
from pydicom.dataset import Dataset

from models.analysis_sections import AnalysisSettings
from models.identity import PRIVATE_SCHEME
from models.reasons import SENTENCES, Reason
from worker.equipment import to_bytes
from worker.measurements import measure
from worker.report import build_report
from worker.report_groups import ReportImage
from worker.segmentation import build_segmentation
from worker.types import AnalysedImage, Caveat, UnanalysedImage

COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.33"
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
LATERAL = UnanalysedImage("1.2.3.7", DX, Reason.LATERAL_VIEW)
BROKEN = UnanalysedImage("1.2.3.5", DX, Reason.DECODE_TIMEOUT)
RAW = UnanalysedImage("1.2.3.6", DX_FOR_PROCESSING, Reason.FOR_PROCESSING_SIBLING)


def _report_image(analysed: AnalysedImage) -> ReportImage:
    return ReportImage.of(analysed, build_segmentation(analysed, object_context()))


def _with(*unanalysed: UnanalysedImage) -> hd.sr.Comprehensive3DSR:
    image = _report_image(analysed_image())
    report = build_report([image], object_context(), 1, unanalysed=unanalysed)
    return hd.sr.srread(BytesIO(to_bytes(report)))


def _listed(report: Dataset) -> list[tuple[str, str, str]]:
    """UID, reason and sentence of the images that the report lists as not analysed, in order."""
    found = []
    for container in report.ContentSequence:
        if container.ConceptNameCodeSequence[0].CodeMeaning == "Qualitative Evaluations":
            for item in container.ContentSequence:
                uid, text = item.ContentSequence
                assert item.ConceptNameCodeSequence[0].CodeValue == "NOT_ANALYSED"
                found.append((uid.UID, item.value.value, text.TextValue))
    return found


def _measured(report: hd.sr.Comprehensive3DSR) -> list[str]:
    content = report.content
    groups = content.get_planar_roi_measurement_groups() + content.get_image_measurement_groups()
    return [Dataset(group[0]).to_json() for group in groups]


def test_images_that_were_not_analysed_are_listed_with_their_reasons() -> None:
    assert _listed(_with(LATERAL, BROKEN, RAW, LATERAL)) == [
        ("1.2.3.5", "DECODE_TIMEOUT", SENTENCES[Reason.DECODE_TIMEOUT]),
        ("1.2.3.6", "FOR_PROCESSING_SIBLING", SENTENCES[Reason.FOR_PROCESSING_SIBLING]),
        ("1.2.3.7", "LATERAL_VIEW", SENTENCES[Reason.LATERAL_VIEW]),
    ]


def test_the_list_changes_neither_measurements_nor_evidence() -> None:
    """The ledger and every reader count the analysed images by the evidence."""
    without, with_list = _with(), _with(LATERAL)
    evidence = "CurrentRequestedProcedureEvidenceSequence"
    assert with_list[evidence].to_json() == without[evidence].to_json()
    assert "PertinentOtherEvidenceSequence" not in with_list
    assert _measured(with_list) == _measured(without)
    assert _listed(without) == []


def test_the_order_of_the_unanalysed_does_not_matter_but_what_they_are_does() -> None:
    one = _with(LATERAL, RAW)
    assert to_bytes(_with(RAW, LATERAL)) == to_bytes(one)
    others = (_with(), _with(RAW), _with(replace(LATERAL, reason=Reason.ROTATED), RAW))
    assert len({str(report.SOPInstanceUID) for report in (one, *others)}) == 4


@pytest.mark.parametrize(
    ("image", "listed"),
    [
        (UnanalysedImage("1.2.3", "1.2.840.10008.5.1.4.1.1.7", Reason.SOP_CLASS), True),
        (UnanalysedImage("1.2.3", "1.3.46.670589.1", Reason.SOP_CLASS), True),  # a private class
        (UnanalysedImage("1.2.3", "", Reason.UNREADABLE), True),
        (UnanalysedImage("1.2.3", COMPREHENSIVE_SR, Reason.SOP_CLASS), False),
        (UnanalysedImage("1.2.3", SEGMENTATION, Reason.OWN_RESULT), False),
        (UnanalysedImage("1.2.3", DX, Reason.OWN_RESULT), False),
    ],
)
def test_documents_and_own_results_are_no_images_of_the_study(
    image: UnanalysedImage, *, listed: bool
) -> None:
    assert bool(_listed(_with(image))) == listed


def test_a_private_code_means_one_thing() -> None:
    """PS3.3 8.1: a code value is unambiguous within its coding scheme."""
    measured = measure(lung_masks(), None, AnalysisSettings(zone_score=True))
    analysed = analysed_image(caveats=tuple(Caveat), measurements=measured)
    rest = [UnanalysedImage(f"1.2.{number}", DX, it) for number, it in enumerate(Reason, start=1)]
    report = build_report([_report_image(analysed)], object_context(), 1, unanalysed=rest)
    meanings: dict[str, set[str]] = {}
    for element in report.iterall():
        if element.keyword in {"ConceptNameCodeSequence", "ConceptCodeSequence"}:
            code = element.value[0]
            if code.CodingSchemeDesignator == PRIVATE_SCHEME:
                value = code.get("CodeValue") or code.LongCodeValue
                meanings.setdefault(value, set()).add(code.CodeMeaning)
                assert len(code.CodeMeaning) <= 64
    expected = {it.name for it in Reason} - {Reason.OWN_RESULT.name}
    expected |= {f"CAVEAT_{it.name}" for it in Caveat}
    assert expected <= meanings.keys()
    assert {value: words for value, words in meanings.items() if len(words) > 1} == {}
