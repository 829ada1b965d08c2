"""worker.oru: the HL7 v2 message, parsed by another program and compared with the SR."""

from dataclasses import replace
from typing import Any

import hl7
import pytest
from builders import DX, chest_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import LATERAL, SECOND, at, content, report_image, two_images, without_figures
from pydicom.dataset import Dataset

from models.reasons import SENTENCES, Reason
from worker.header import normalised_header
from worker.hl7_syntax import escaped
from worker.message_content import MessageContent
from worker.oru import build_oru, essence, has_figures, sub_id
from worker.report import build_report
from worker.report_groups import ReportImage
from worker.types import CAVEAT_SENTENCES, Caveat, UnanalysedImage, Zone, ZoneMeasurement, ZoneScore


def _parsed(data: bytes) -> list[Any]:
    return [hl7.parse(text) for text in hl7.split_file(data.decode())]


def _one(data: bytes) -> Any:
    (message,) = _parsed(data)
    return message


def _results(message: Any, status: str | None = None) -> dict[tuple[str, str], str]:
    """Value by name and sub-ID, of those with a status."""
    return {
        (each.extract_field(1, 3), str(each[4])): str(each[5])
        for each in map(_Obx, message.segments("OBX"))
        if status in {None, str(each[11])}
    }


class _Obx:
    """One OBX segment, whose fields may be asked for by number."""

    def __init__(self, segment: Any) -> None:
        self._segment = segment

    def __getitem__(self, number: int) -> str:
        return str(self._segment[number]) if number < len(self._segment) else ""

    def extract_field(self, component: int, number: int) -> str:
        return self[number].split("^")[component - 1]


def _numbers_of_sr(images: list[ReportImage]) -> set[tuple[str, float]]:
    """Code and value of every number in the SR but those that describe its images."""
    found = set()

    def walk(ds: Dataset) -> None:
        for item in ds.get("ContentSequence", []):
            if item.ConceptNameCodeSequence[0].CodeMeaning == "Image Library":
                continue
            if item.ValueType == "NUM":
                name = item.ConceptNameCodeSequence[0].CodeValue
                found.add((name, float(item.MeasuredValueSequence[0].NumericValue)))
            walk(item)

    walk(build_report(images, at(), 1))
    return found


def _with_zones(image: ReportImage) -> ReportImage:
    zones = ZoneScore({zone: ZoneMeasurement(10.0 + n, n % 4) for n, zone in enumerate(Zone)})
    return replace(image, measurements=replace(image.measurements, zones=zones))


def test_every_number_of_the_sr_is_there_with_its_code_and_unit() -> None:
    images = [_with_zones(each) for each in two_images()]
    message = _one(build_oru(content(*images)))
    told = set()
    for each in map(_Obx, message.segments("OBX")):
        if each[2] == "NM":
            names = each[3].split("^")
            told.add((names[3] if len(names) > 3 else names[0], float(each[5])))
            assert each[6] in {"%^Percent^UCUM", "mm2^square millimeter^UCUM", "1^no units^UCUM"}
    assert told == _numbers_of_sr(images)
    assert len(_results(message)) == len(message.segments("OBX"))  # no name twice


def test_the_header_says_what_it_is_and_who_sent_it() -> None:
    message = _one(build_oru(content(sending_facility="NORTH", processing_id="T")))
    msh = message.segment("MSH")
    assert [str(msh[n]) for n in (3, 4, 9, 11, 12, 18)] == [
        "DICOM-NODE",
        "NORTH",
        "ORU^R01^ORU_R01",
        "T",
        "2.5.1",
        "UNICODE UTF-8",
    ]
    assert str(msh[7]) == "20260102030405+0100"
    assert len(str(msh[10])) == 20
    obr = message.segment("OBR")
    assert [str(obr[n]) for n in (4, 7, 18, 24, 25)] == [
        "126000^Imaging Measurement Report^DCM",
        "20260101120000",
        "A-1",
        "RAD",
        "R",
    ]
    assert "Research use only" in str(message.segment("NTE")[3])


def test_the_patient_is_named_as_in_the_image() -> None:
    japanese = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    header = {"PatientName": japanese, "IssuerOfPatientID": "NORTH", "PatientSex": "F"}
    images = two_images(**header)
    pid = _one(build_oru(content(*images))).segment("PID")
    assert str(pid[3]) == "P-1^^^NORTH^PI"
    assert str(pid[5]) == "Yamada^Tarou^^^^^^A~山田^太郎^^^^^^I~やまだ^たろう^^^^^^P"
    assert (str(pid[7]), str(pid[8])) == ("19700101", "F")
    systems = {"NORTH": "urn:oid:1.2.3"}
    pid = _one(build_oru(content(*images, identifier_systems=systems))).segment("PID")
    assert str(pid[3]) == "P-1^^^NORTH&1.2.3&ISO^PI"
    other = two_images(PatientName="A^B^C^Dr^Jr", IssuerOfPatientID="1.2.4", PatientSex=None)
    pid = _one(build_oru(content(*other, assigning_authority="NORTH"))).segment("PID")
    assert (str(pid[3]), str(pid[8])) == ("P-1^^^&1.2.4&ISO^PI", "U")
    assert str(pid[5]) == "A^B^C^Jr^Dr^^^A"
    pid = _one(build_oru(content(assigning_authority="NORTH"))).segment("PID")
    assert str(pid[3]) == "P-1^^^NORTH^PI"


def test_an_image_that_names_no_issuer_makes_no_other_patient() -> None:
    silent, second = two_images()
    named = report_image(0.6, SOPInstanceUID=SECOND, IssuerOfPatientID="NORTH")
    first = build_oru(content(named))
    own = "P-1^^^NORTH^PI"
    assert str(_one(first).segment("PID")[3]) == own
    for told in (
        content(silent, named),
        replace(content(silent, second), known_issuer="NORTH"),
        replace(without_figures(content(silent, second), LATERAL), known_issuer="NORTH"),
    ):
        message = _one(build_oru(told, first))
        assert str(message.segment("PID")[3]) == own
        assert str(message.segment("OBR")[25]) == "C"
    # Where an operator took the issuer away, no image brings it back.
    taken = replace(content(named, assigning_authority="HERE"), known_issuer="")
    assert str(_one(build_oru(taken)).segment("PID")[3]) == "P-1^^^HERE^PI"


def test_model_caveats_and_what_was_not_analysed_are_told() -> None:
    told = content(report_image())
    message = _one(build_oru(told))
    first = sub_id(str(told.images[0].header.SOPInstanceUID))
    values = _results(message)
    model = told.images[0].model
    assert values["111001", first] == model.name
    assert f"weights_sha256={model.sha256}" in values["111002", first]
    for caveat in (Caveat.UNCERTAIN, Caveat.MIRRORED):
        assert CAVEAT_SENTENCES[caveat] in values["CAVEAT", first]
    assert values["INTENDED_USE", first].startswith("RESEARCH_ONLY^")
    assert values["SEVERITY_TOTAL", first].startswith("255604002^Mild^SCT")
    assert values["SR_INSTANCE_UID", ""] == "1.2.840.10.9"
    lateral = {key: value for key, value in values.items() if key[1] == sub_id("1.2.840.10.3")}
    assert lateral["NOT_ANALYSED", sub_id("1.2.840.10.3")].endswith(SENTENCES[Reason.LATERAL_VIEW])
    assert len(lateral) == 2
    assert list(_results(message, "X")) == [("NOT_ANALYSED", sub_id("1.2.840.10.3"))]
    equipment = {str(each[18]) for each in message.segments("OBX") if len(each) > 18}
    assert all(it.startswith(f"{model.name} 1.0+sha256.") for it in equipment if it)


def test_the_same_input_gives_the_same_bytes_and_another_time_another_control_id() -> None:
    assert build_oru(content()) == build_oru(content(*reversed(two_images())))
    later = build_oru(content(context=at(1)))
    first, second = (str(_one(it).segment("MSH")[10]) for it in (build_oru(content()), later))
    assert first != second
    assert essence(later) == essence(build_oru(content()))


_HOSTILE = st.text(st.characters(codec="utf-8") | st.sampled_from("|^~\\&\r\n\x0b\x1c\x00"))


@given(_HOSTILE)
@settings(max_examples=300, deadline=None)
def test_any_text_comes_back_from_its_escapes(text: str) -> None:
    container = hl7.parse("MSH|^~\\&|A")
    written = escaped(text)
    assert not set("|^~&\r\n\x0b\x1c") & set(written)
    assert container.unescape(written) == text


_BASE = content()


@given(st.lists(_HOSTILE.map(lambda text: text[:40]), min_size=4, max_size=4))
@settings(max_examples=60, deadline=None)
def test_no_text_of_a_header_leaves_its_field(texts: list[str]) -> None:
    keywords = ("PatientName", "PatientID", "IssuerOfPatientID", "AccessionNumber")
    ds = chest_dataset()
    for keyword, text in zip(keywords, texts, strict=True):
        setattr(ds, keyword, "")
        ds[keyword]._value = text
    header = normalised_header(ds)
    data = build_oru(replace(_BASE, header=header))
    assert b"\x0b" not in data
    assert b"\x1c" not in data
    message = _one(data)
    assert {str(each[0]) for each in message} == {"MSH", "PID", "OBR", "NTE", "OBX"}
    said = header.get("PatientID", "")
    if said:
        assert message.extract_field("PID", 1, 3, 1, 1) == said
    if header.get("AccessionNumber"):
        assert message.extract_field("OBR", 1, 18, 1, 1) == header.AccessionNumber
    family = str(header.PatientName).split("=")[0].split("^")[0]
    if family.strip() and "=" not in str(header.PatientName):
        assert message.extract_field("PID", 1, 5, 1, 1) == family


def test_a_corrected_report_replaces_and_deletes() -> None:
    first = build_oru(content())
    image = report_image(0.6)
    second = build_oru(content(image, rest=(), context=at(1)), first)
    message = _one(second)
    assert str(message.segment("OBR")[25]) == "C"
    assert str(message.segment("OBR")[3]) == str(_one(first).segment("OBR")[3])
    gone = {sub_id(SECOND), sub_id("1.2.840.10.3")}
    assert {key[1] for key in _results(message, "D")} == gone
    assert set(_results(message, "D").values()) == {""}
    assert {key[1] for key in _results(message, "C")} == {"", sub_id(image.header.SOPInstanceUID)}
    # Also a receiver that never got the second one hears what is gone.
    third = _one(build_oru(content(image, rest=(), context=at(2)), second))
    assert {key[1] for key in _results(third, "D")} == gone
    again = _one(build_oru(content(context=at(3)), second))
    assert _results(again, "D") == {}


@pytest.mark.parametrize(
    ("reason", "status"),
    [(Reason.REJECTED_QUALITY, "D"), (Reason.REJECTED_WORKLIST, "W")],
)
def test_a_rejected_image_takes_its_figures_back(reason: Reason, status: str) -> None:
    told = content(report_image(), rest=())
    uid = str(told.images[0].header.SOPInstanceUID)
    first = build_oru(told)
    gone = without_figures(told, UnanalysedImage(uid, DX, reason))
    second = build_oru(gone, first)
    message = _one(second)
    assert has_figures(first)
    assert not has_figures(second)
    assert str(message.segment("OBR")[25]) == "C"
    taken_back = _results(message, status)
    assert taken_back["OPACITY_AREA_PCT_TOTAL", sub_id(uid)] == ""
    assert _results(message, "X")["NOT_ANALYSED", sub_id(uid)].endswith(SENTENCES[reason])
    assert essence(build_oru(without_figures(gone, *gone.rest, second=20), second)) == essence(
        second
    )


def test_a_study_without_any_figure_has_no_result() -> None:
    told = without_figures(content(), LATERAL)
    message = _one(build_oru(told))
    assert str(message.segment("OBR")[25]) == "X"
    assert [key for key, _ in _results(message, "X")] == ["NOT_ANALYSED"]
    assert not any(str(each[2]) == "NM" for each in message.segments("OBX"))


def _moved(told: MessageContent, patient_id: str, second: int) -> MessageContent:
    images = two_images(PatientID=patient_id)
    return replace(told, header=images[0].header, images=tuple(images), context=at(second))


def test_under_another_patient_the_earlier_message_is_taken_back_first() -> None:
    told = content()
    first = build_oru(told)
    second = build_oru(_moved(told, "P-2", 1), first)
    recall, new = _parsed(second)
    assert str(recall.segment("PID")) == str(_one(first).segment("PID"))
    assert str(recall.segment("OBR")[3]) == str(_one(first).segment("OBR")[3])
    assert {str(each[11]) for each in recall.segments("OBX")} == {"W"}
    assert {str(each[5]) for each in recall.segments("OBX")} == {""}
    assert str(new.segment("PID")[3]).startswith("P-2^")
    assert str(new.segment("OBR")[25]) == "R"
    assert str(new.segment("OBR")[3]) != str(recall.segment("OBR")[3])
    # A receiver that never got the second one gets the recall with the third.
    third = build_oru(_moved(told, "P-2", 2), second)
    again, corrected = _parsed(third)
    assert str(again) == str(recall)
    assert str(corrected.segment("OBR")[25]) == "C"
    ids = [str(each.segment("MSH")[10]) for each in (recall, new, corrected)]
    assert len(set(ids)) == 3


def test_a_patient_that_comes_back_is_corrected_and_not_taken_back() -> None:
    told = content()
    first = build_oru(told)
    second = build_oru(_moved(told, "P-2", 1), first)
    back = replace(content(report_image(), rest=()), context=at(2))
    third = build_oru(back, second)
    recall, again = _parsed(third)
    assert str(recall.segment("PID")[3]).startswith("P-2^")
    assert {str(each[11]) for each in recall.segments("OBX")} == {"W"}
    assert str(again.segment("PID")[3]).startswith("P-1^")
    assert str(again.segment("OBR")[3]) == str(_one(first).segment("OBR")[3])
    assert str(again.segment("OBR")[25]) == "C"
    uid = str(back.images[0].header.SOPInstanceUID)
    assert ("OPACITY_AREA_PCT_TOTAL", sub_id(uid)) in _results(again, "C")
    gone = {sub_id(SECOND), sub_id("1.2.840.10.3")}
    assert {key[1] for key in _results(again, "D")} == gone
    # And once more to and fro: each patient has one message, the old one first.
    recall, new = _parsed(build_oru(_moved(told, "P-2", 3), third))
    assert str(recall.segment("PID")[3]).startswith("P-1^")
    assert str(new.segment("OBR")[25]) == "C"
