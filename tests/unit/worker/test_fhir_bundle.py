"""worker.fhir_bundle: the transaction, validated by fhir.resources and compared with the ORU."""

import json
from dataclasses import replace
from typing import Any

import pytest
from builders import DX, chest_dataset
from fhir.resources.R4B.bundle import Bundle
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import LATERAL, SECOND, at, content, report_image, two_images, without_figures

from models.reasons import SENTENCES, Reason
from worker.fhir_bundle import build_bundle, essence, has_figures
from worker.header import normalised_header
from worker.message_content import MessageContent
from worker.oru import build_oru
from worker.types import CAVEAT_SENTENCES, Caveat, UnanalysedImage, Zone, ZoneMeasurement, ZoneScore


def _valid(data: bytes) -> list[Any]:
    """Return the entries of a bundle that is R4B, each reference in it leading somewhere."""
    bundle = Bundle.model_validate_json(data)
    assert bundle.type == "transaction"
    urls = [entry.fullUrl for entry in bundle.entry]
    assert len(urls) == len(set(urls))
    told = json.loads(data)

    def references(value: Any) -> set[str]:
        if isinstance(value, list):
            return set().union(*map(references, value)) if value else set()
        if isinstance(value, dict):
            own = {value["reference"]} if "reference" in value else set()
            return own | references(list(value.values()))
        return set()

    assert references(told) <= set(urls)
    return list(bundle.entry)


def _resources(data: bytes, kind: str) -> list[Any]:
    resources = [entry.resource for entry in _valid(data)]
    return [each for each in resources if each.get_resource_type() == kind]


def _report(data: bytes) -> Any:
    (report,) = _resources(data, "DiagnosticReport")
    return report


def _observation(data: bytes, uid: str) -> Any:
    (found,) = (
        each
        for each in _resources(data, "Observation")
        if uid in {part.valueString for part in each.component or ()}
    )
    return found


def test_it_has_the_numbers_of_the_other_message() -> None:
    told = content()
    values = set()
    for each in _resources(build_bundle(told), "Observation"):
        quantities = [each.valueQuantity, *(part.valueQuantity for part in each.component)]
        values |= {(float(it.value), it.code) for it in quantities if it is not None}
    lines = [line.split("|") for line in build_oru(told).decode().split("\r")]
    numbers = {
        (float(line[5]), line[6].partition("^")[0])
        for line in lines
        if line[0] == "OBX" and line[2] == "NM"
    }
    assert values == numbers


def test_no_part_of_an_observation_shares_the_code_of_its_value() -> None:
    zones = ZoneScore({zone: ZoneMeasurement(10.0 + n, n % 4) for n, zone in enumerate(Zone)})
    images = [
        replace(each, measurements=replace(each.measurements, zones=zones)) for each in two_images()
    ]

    def codings(concept: Any) -> set[tuple[str, str]]:
        return {(each.system, each.code) for each in concept.coding}

    with_value = [
        each
        for each in _resources(build_bundle(content(*images)), "Observation")
        if each.valueQuantity is not None
    ]
    assert len(with_value) == 2
    for each in with_value:  # obs-7
        assert not codings(each.code) & set().union(*(codings(it.code) for it in each.component))
        own = [next(iter(codings(it.code)))[1] for it in each.component if len(it.code.coding) == 1]
        assert {"OPACITY_AREA_PCT_LEFT", "OPACITY_AREA_PCT_RIGHT"} <= set(own)


def test_the_report_says_whose_it_is_and_refers_to_the_study() -> None:
    image = report_image(IssuerOfPatientID="NORTH", TimezoneOffsetFromUTC="-0330")
    told = content(image, identifier_systems={"NORTH": "urn:oid:1.2.3"})
    report = _report(build_bundle(told))
    assert report.status == "preliminary"
    assert report.code.coding[0].code == "126000"
    subject = report.subject
    assert subject.identifier.value == "P-1"
    assert subject.identifier.system == "urn:oid:1.2.3"
    assert subject.identifier.assigner.display == "NORTH"
    assert subject.display == "Phantom, Chest"
    study = report.imagingStudy[0].identifier
    assert (study.system, study.value) == ("urn:dicom:uid", f"urn:oid:{told.study_uid}")
    assert report.basedOn[0].identifier.value == "A-1"
    assert report.conclusionCode[0].coding[0].code == "255604002"  # SCT, Mild
    assert report.effectiveDateTime.isoformat() == "2026-01-01T12:00:00-03:30"
    assert len(report.result) == 2
    for said in ("severity mild", CAVEAT_SENTENCES[Caveat.UNCERTAIN], "Research use only"):
        assert said in report.conclusion
    assert SENTENCES[Reason.LATERAL_VIEW] in report.conclusion


def test_the_issuer_is_the_study_s_also_where_the_first_image_names_none() -> None:
    named = report_image(0.6, SOPInstanceUID=SECOND, IssuerOfPatientID="NORTH")
    mixed = content(report_image(), named)
    known = replace(content(report_image()), known_issuer="NORTH")
    for told in (mixed, known):
        assert _report(build_bundle(told)).subject.identifier.assigner.display == "NORTH"


def test_without_a_zone_only_the_date_is_certain() -> None:
    report = _report(build_bundle(content()))
    assert report.effectiveDateTime.isoformat() == "2026-01-01"


def test_an_observation_has_value_method_device_and_lungs() -> None:
    image = report_image()
    data = build_bundle(content(image, rest=()))
    uid, model = str(image.header.SOPInstanceUID), image.model
    it = _observation(data, uid)
    assert it.status == "final"
    assert float(it.valueQuantity.value) == round(image.measurements.total.percent or 0, 2)
    assert (it.valueQuantity.code, it.valueQuantity.system) == ("%", "http://unitsofmeasure.org")
    assert it.bodySite.coding[0].code == "39607008"
    assert it.method.text.startswith(f"{model.name} {model.version}")
    names = {part.code.coding[0].code for part in it.component}
    assert {"OPACITY_AREA_PCT_LEFT", "OPACITY_AREA_PCT_RIGHT", "LUNG_AREA_LEFT"} <= names
    (device,) = _resources(data, "Device")
    assert device.udiCarrier is None
    assert device.property[0].valueCode[0].text == model.sha256
    (entry,) = (
        each for each in _valid(data) if each.resource is not None and each.request.ifNoneExist
    )
    assert it.device.reference == entry.fullUrl


def test_an_image_that_was_not_analysed_has_a_reason_and_no_value() -> None:
    it = _observation(build_bundle(content()), LATERAL.sop_instance_uid)
    assert it.status == "cancelled"
    assert it.valueQuantity is None
    assert it.dataAbsentReason.text == SENTENCES[Reason.LATERAL_VIEW]
    codes = [each.code for each in it.dataAbsentReason.coding]
    assert codes == ["not-performed", "LATERAL_VIEW"]


def test_every_revision_puts_the_same_resources() -> None:
    def urls(data: bytes) -> set[str]:
        return {each.request.url for each in _valid(data) if each.request.method == "PUT"}

    first = build_bundle(content())
    assert first == build_bundle(content(*reversed(two_images())))
    second = build_bundle(content(context=at(1)), first)
    assert urls(first) == urls(second)
    assert all("identifier=urn:ietf:rfc:3986%7Curn:oid:" in each for each in urls(first))
    assert _report(second).status == "corrected"
    assert {each.status for each in _resources(second, "Observation")} == {
        "corrected",
        "cancelled",
    }


def test_what_is_gone_was_entered_in_error() -> None:
    first = build_bundle(content())
    second = build_bundle(content(report_image(), rest=(), context=at(1)), first)
    wrong = [it for it in _resources(second, "Observation") if it.component is None]
    # The second image, and the lateral one, which never had a figure.
    assert sorted(it.status for it in wrong) == ["cancelled", "entered-in-error"]
    assert all(it.valueQuantity is None and it.component is None for it in wrong)
    assert len(_report(second).result) == 1
    third = build_bundle(content(report_image(), rest=(), context=at(2)), second)
    assert len(_resources(third, "Observation")) == 3
    back = build_bundle(content(context=at(3)), third)
    assert "entered-in-error" not in {it.status for it in _resources(back, "Observation")}
    assert _observation(back, SECOND).valueQuantity is not None


def test_a_rejected_study_was_entered_in_error() -> None:
    told = content(report_image(), rest=())
    uid = str(told.images[0].header.SOPInstanceUID)
    first = build_bundle(told)
    gone = without_figures(told, UnanalysedImage(uid, DX, Reason.REJECTED_QUALITY))
    second = build_bundle(gone, first)
    assert has_figures(first)
    assert not has_figures(second)
    assert _report(second).status == "entered-in-error"
    assert _observation(second, uid).status == "entered-in-error"
    again = build_bundle(without_figures(gone, *gone.rest, second=20), second)
    assert essence(again) == essence(second)
    assert essence(second) != essence(first)


def test_a_study_without_any_figure_is_cancelled() -> None:
    data = build_bundle(without_figures(content(), LATERAL))
    assert _report(data).status == "cancelled"
    assert _resources(data, "Device") == []


def test_under_another_patient_the_same_resources_get_another_subject() -> None:
    told = content()
    images = two_images(PatientID="P-2")
    moved: MessageContent = replace(told, header=images[0].header, images=tuple(images))
    second = build_bundle(moved, build_bundle(told))
    assert {it.subject.identifier.value for it in _resources(second, "Observation")} == {"P-2"}
    assert _report(second).subject.identifier.value == "P-2"


_BASE = content()


@given(st.lists(st.text(max_size=40), min_size=4, max_size=4))
@settings(max_examples=40, deadline=None)
def test_hostile_texts_of_a_header_are_valid_in_it(texts: list[str]) -> None:
    ds = chest_dataset()
    keywords = ("PatientName", "PatientID", "IssuerOfPatientID", "AccessionNumber")
    for keyword, text in zip(keywords, texts, strict=True):
        setattr(ds, keyword, "")
        ds[keyword]._value = text
    _valid(build_bundle(replace(_BASE, header=normalised_header(ds))))


@pytest.mark.parametrize("empty", ["PatientID", "PatientName", "AccessionNumber", "StudyDate"])
def test_what_the_header_lacks_is_left_out(empty: str) -> None:
    _valid(build_bundle(content(report_image(**{empty: None}))))
