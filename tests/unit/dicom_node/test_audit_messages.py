"""Each kind of event becomes the message that PS3.15 A.5.3 has for it, valid by the schema."""

from base64 import b64decode
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import pytest
from audit_schema import Read
from pydicom.filereader import read_dataset
from pydicom.sr.codedict import codes

from dicom_node.audit.codes import TOLD, Message
from dicom_node.audit.facts import Facts, StudyFacts
from dicom_node.audit.messages import Node, messages, severity_of, split_peer
from models.audit import AuditAction

NODE = Node("host1", "NODE", "Radiology")
CR = "1.2.840.10008.5.1.4.1.1.1"
FACTS = Facts({"1.2.3": StudyFacts("P1", "A1")}, {"1.2.3.1": CR, "1.2.3.2": CR})
AT = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)


def _event(action: str, outcome: str = "success", **values: Any) -> dict[str, Any]:
    empty = dict.fromkeys(
        (
            *("calling_aet", "called_aet", "peer", "study_instance_uid", "sop_instance_uid"),
            *("status", "actor", "model", "patient_id", "patient"),
        )
    )
    return {"id": 7, "at": AT, "action": action, "outcome": outcome, "details": {}} | empty | values


def _read(*events: dict[str, Any]) -> list[Read]:
    return [Read.of(each.xml()) for each in messages(events, FACTS, NODE)]


STUDY = ("1.2.3", "110180", "2", "3")
PATIENT = ("P1", "2", "1", "1")


@pytest.mark.parametrize("action", [*AuditAction, "of_a_newer_release"])
def test_every_action_has_a_valid_message(action: str) -> None:
    full = {
        "calling_aet": "CR1",
        "called_aet": "NODE",
        "peer": "10.0.0.1:1024",
        "study_instance_uid": "1.2.3",
        "sop_instance_uid": "1.2.3.1",
        "status": 0,
        "actor": "ann",
        "model": "unet 1",
        "patient_id": "P1",
        "patient": {"patient_id": "P1"},
        "details": {"destination": "PACS"},
    }
    assert len(_read(_event(action), _event(action, **full))) == 2
    one = {name: value for name, value in full.items() if name not in {"actor", "called_aet"}}
    (said,) = _read(_event(action, **one))
    assert [requestor for *_, requestor in said.participants].count("true") <= 1  # A.5.2


def test_every_dicom_code_is_one_of_the_standard() -> None:
    """Those that pydicom's tables have (CID 400, 401)."""
    known = {
        getattr(group, name).value: getattr(group, name).meaning
        for group in (codes.cid400, codes.cid401)
        for name in group.dir()
    }
    for told in TOLD.values():
        for code in (told.message.value, told.kind):
            if code is not None and code.scheme == "DCM" and told.message is not Message.OWN:
                assert known[code.value].lower() == code.meaning.lower()


def test_what_is_in_every_message() -> None:
    (said,) = _read(_event("login", peer="10.0.0.9", actor="ann"))
    head = said.find("EventIdentification")
    assert head.attrib["EventDateTime"] == "2026-01-02T03:04:05.678+00:00"
    source = said.find("AuditSourceIdentification")
    assert source.attrib == {"AuditEnterpriseSiteID": "Radiology", "AuditSourceID": "NODE@host1"}


def test_objects_of_one_study_are_one_transfer() -> None:
    """Table A.5.3.7-1: one message per patient, with the number of instances."""
    shared = {
        "calling_aet": "CR1",
        "called_aet": "NODE",
        "study_instance_uid": "1.2.3",
        "patient_id": "P1",
    }
    stored = [
        _event("instance_stored", "stored", peer=f"10.0.0.1:{port}", sop_instance_uid=uid, **shared)
        for port, uid in ((1024, "1.2.3.1"), (1025, "1.2.3.2"))
    ]
    again = _event("instance_stored", "duplicate", peer="10.0.0.1:1026", **shared)
    other = _event("instance_stored", "stored", **(shared | {"study_instance_uid": "1.9"}))
    first, second, third = _read(stored[0], again, stored[1], other)
    assert first.event == ("110104", "C", "0")
    assert second.event == ("110104", "R", "0")
    assert first.participants == [("CR1", "110153", "true"), ("host1", "110152", "false")]
    assert first.objects == [STUDY, PATIENT]
    sop_class = first.find(".//SOPClass")
    assert sop_class.attrib == {"UID": CR, "NumberOfInstances": "2"}
    assert first.find(".//Accession").attrib == {"Number": "A1"}
    assert first.find("ActiveParticipant").attrib["AlternativeUserID"] == "AETITLES=CR1"
    assert first.find("ActiveParticipant").attrib["NetworkAccessPointID"] == "10.0.0.1"
    assert third.objects[0][0] == "1.9"


def test_what_we_send_goes_from_us_to_the_receiver() -> None:
    sent = {"called_aet": "PACS", "peer": "pacs.example:104", "study_instance_uid": "1.2.3"}
    (said,) = _read(_event("artifact_sent", "sent", **sent))
    assert said.event == ("110104", "R", "0")
    assert said.participants == [("host1", "110153", "true"), ("PACS", "110152", "false")]
    assert said.objects == [STUDY, PATIENT]  # the patient by the study
    (said,) = _read(_event("artifact_sent", "rejected", **sent))
    assert said.event == ("110104", "R", "8")
    assert said.find(".//EventOutcomeDescription").text == "rejected"


def test_a_move_names_who_asked_for_it() -> None:
    """Table A.5.3.3-1: other participants, especially third parties that are the requestor."""
    asked = {"calling_aet": "WS1", "study_instance_uid": "1.2.3"}
    (said,) = _read(
        _event("begin_transferring", "begun", details={"destination": "ARCHIVE"}, **asked)
    )
    assert said.event == ("110102", "E", "0")
    assert said.participants == [
        ("host1", "110153", "false"),
        ("ARCHIVE", "110152", "false"),
        ("WS1", None, "true"),
    ]
    (said,) = _read(_event("instances_transferred", status=0xB000, **asked))
    assert said.event == ("110104", "R", "4")
    assert said.participants == [("host1", "110153", "false"), ("WS1", "110152", "true")]


def test_a_query_is_in_its_message_as_a_data_set() -> None:
    """Table A.5.3.10-1, with values that no standard allows."""
    query = _event(
        "query",
        calling_aet="WS1",
        study_instance_uid="1.2.3",
        details={
            "service": "C-FIND",
            "level": "STUDY",
            "keys": ["PatientName", "StudyInstanceUID"],
        },
        patient={"PatientName": "Ødegård*", "StudyDate": "yesterday", "made_up": "x"},
    )
    (said,) = _read(query)
    assert said.event == ("110112", "E", "0")
    assert said.objects == [("1.2.840.10008.5.1.4.1.2.2.1", "110181", "2", "3")]
    assert said.details() == {"TransferSyntax": "1.2.840.10008.1.2.1"}
    raw = b64decode(said.find(".//ParticipantObjectQuery").text)
    ds = read_dataset(BytesIO(raw), is_implicit_VR=False, is_little_endian=True)
    assert (ds.QueryRetrieveLevel, ds.StudyInstanceUID) == ("STUDY", "1.2.3")
    assert str(ds.PatientName) == "Ødegård*"
    assert ds.get_item("StudyDate").value == b"yesterday "


@pytest.mark.parametrize("value", ["1*", "abc", "9" * 5000])
@pytest.mark.parametrize("key", ["NumberOfStudyRelatedInstances", "Rows"])
def test_of_a_value_that_is_no_number_the_key_is_left(key: str, value: str) -> None:
    ds = _identifier({key: value, "PatientID": "P1"})
    assert ds.get_item(key).value in (None, b"")
    assert ds.PatientID == "P1"


def test_a_binary_number_is_in_the_data_set() -> None:
    assert _identifier({"Rows": "512"}).Rows == 512


def _identifier(patient: dict[str, str]) -> Any:
    details = {"service": "C-FIND", "keys": list(patient)}
    (said,) = _read(_event("query", details=details, patient=patient))
    raw = b64decode(said.find(".//ParticipantObjectQuery").text)
    return read_dataset(BytesIO(raw), is_implicit_VR=False, is_little_endian=True)


def test_who_was_refused_is_a_security_alert() -> None:
    """Table A.5.3.11-1: performing participants are no requestors."""
    (said,) = _read(_event("connection_refused", "no_certificate", peer="10.0.0.66:5000"))
    assert (said.event, said.kind) == (("110113", "E", "4"), "110126")
    assert said.participants == [("host1", "110150", "false"), ("10.0.0.66", None, "false")]
    assert said.objects == [("10.0.0.66", "110182", "2", "13")]
    assert said.details()["Alert Description"] == "connection refused: no_certificate"


def test_logins_and_starts() -> None:
    (login, failed, start) = _read(
        _event("login", "password", actor="ann", peer="10.0.0.9"),
        _event("login_failed", "unknown_account", peer="10.0.0.9"),
        _event("application_started", "listen"),
    )
    assert (login.event, login.kind) == (("110114", "E", "0"), "110122")
    assert login.participants[0] == ("ann", None, "true")
    assert login.find("ActiveParticipant").attrib["NetworkAccessPointTypeCode"] == "2"
    assert failed.event == ("110114", "E", "4")
    assert (start.event, start.kind) == (("110100", "E", "0"), "110120")
    assert start.participants == [("host1", "110150", "false")]


def test_an_analysis_says_what_it_was_made_with() -> None:
    event = _event(
        "instance_analysed",
        "analysed",
        study_instance_uid="1.2.3",
        sop_instance_uid="1.2.3.1",
        model="unet 1.2.0",
        details={"weights_sha256": "f" * 64, "seconds": 0.8, "configuration_sha256": "c" * 64},
    )
    (said,) = _read(event)
    assert said.event == ("110103", "R", "0")
    assert said.participants == [("host1", "110150", "true")]
    assert said.details() == {
        "event": "7",
        "model": "unet 1.2.0",
        "weights_sha256": "f" * 64,
        "configuration_sha256": "c" * 64,
        "seconds": "0.8",
    }


def test_a_reader_and_the_audit_itself() -> None:
    read, log = _read(
        _event("patient_data_read", "study", actor="ann", study_instance_uid="1.2.3"),
        _event("audit_read", actor="bob"),
    )
    assert read.event == ("110103", "R", "0")
    assert read.participants == [("ann", None, "true"), ("host1", "110150", "false")]
    assert log.event == ("110101", "R", "0")
    assert log.objects == [("dicom-node://host1/audit", "12", "2", "13")]
    assert log.find(".//ParticipantObjectName").text == "Security Audit Log"


def test_an_event_without_a_message_of_its_own_is_told_under_its_name() -> None:
    (said,) = _read(_event("storage_scrubbed", "sound"))
    assert said.event == ("storage_scrubbed", "E", "0")
    assert said.find(".//EventID").attrib["codeSystemName"] == "99DICOMNODE"


def test_hostile_text_stays_text() -> None:
    hostile = '<script>"&\x00\x1b\ud800\uffff]]>'
    (said,) = _read(
        _event(
            "instance_stored",
            hostile,
            calling_aet=hostile,
            peer=hostile,
            study_instance_uid=hostile,
            patient_id=hostile,
        )
    )
    assert said.participants[0][0].startswith('<script>"&')


def test_failures_are_warnings() -> None:
    (good, bad) = messages([_event("login"), _event("audit_alarm")], FACTS, NODE)
    assert (severity_of(good), severity_of(bad)) == (5, 4)


@pytest.mark.parametrize(
    ("peer", "parts"),
    [
        ("10.0.0.1:104", ("10.0.0.1", "104")),
        ("[fd00::1]:104", ("fd00::1", "104")),
        ("fd00::1:104", ("fd00::1:104", None)),
        ("pacs.example", ("pacs.example", None)),
        ("pacs.example:x", ("pacs.example:x", None)),
        (None, (None, None)),
    ],
)
def test_where_a_peer_is(peer: str | None, parts: tuple[str | None, str | None]) -> None:
    assert split_peer(peer) == parts
