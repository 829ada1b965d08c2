"""C-FIND over real associations, asked by pynetdicom; who may ask at all."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from builders import chest_dataset
from conftest import RunningListener
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from querying import (
    FIND,
    GET,
    Desk,
    Receiver,
    Workstation,
    add_results,
    identifier,
    make_desk,
    receiver,
    send,
    small_image,
    two_images,
)
from rows import CR, SEG, SR, outcomes
from sqlalchemy import update

from models.audit import AuditAction
from models.imaging import Instance, Series, Study
from models.states import InstanceState

Listen = Callable[..., RunningListener]
ALL = tuple((uid, ExplicitVRLittleEndian) for uid in (CR, SEG, SR))


@pytest.fixture
def place() -> Iterator[Receiver]:
    """A storage SCP."""
    with receiver() as scp:
        yield scp


@pytest.fixture
def desk(listen: Listen, place: Receiver) -> Desk:
    """A node whose C-MOVE knows the storage SCP as DESK2."""
    return make_desk(listen, place)


def test_it_is_off_unless_switched_on(listen: Listen) -> None:
    ae = AE("VIEWER")
    for model in (FIND, GET, CR):
        ae.add_requested_context(model)
    assoc = ae.associate("127.0.0.1", listen().port, ae_title="NODE")
    assert {str(cx.abstract_syntax): cx.result for cx in assoc.rejected_contexts} == {
        FIND: 3,
        GET: 3,
    }
    assoc.release()


def test_an_ae_that_is_not_on_the_list_gets_nothing(desk: Desk, place: Receiver) -> None:
    image = small_image("1")
    send(desk.node.port, image)
    stranger = Workstation(desk.node.port, title="STRANGER")
    assert stranger.find("STUDY", PatientID="")[:2] == (0x0124, [])
    uid = image.StudyInstanceUID
    assert stranger.move("DESK2", "STUDY", StudyInstanceUID=uid)[0].Status == 0x0124
    assert stranger.get(ALL, "STUDY", StudyInstanceUID=uid)[0].Status == 0x0124
    assert (place.objects, stranger.received) == ({}, [])
    (event,) = desk.events(AuditAction.QUERY)
    assert (event.outcome, event.calling_aet, event.status) == (
        "QueryNotAuthorisedError",
        "STRANGER",
        0x0124,
    )


def test_studies_by_rows_and_by_headers(desk: Desk) -> None:
    for number, name in enumerate(("Adams^Ann", "Baker^Bob", "Adamson^Cy")):
        send(
            desk.node.port,
            small_image(str(number), PatientName=name, StudyDate=f"2026010{number + 1}"),
        )

    def ids(**keys: Any) -> list[str]:
        status, found, _ = desk.viewer.find("STUDY", PatientID="", **keys)
        assert status == 0x0000
        return [str(ds.PatientID) for ds in found]

    assert ids() == ["P-2", "P-1", "P-0"]
    assert ids(PatientName="adam*") == ["P-2", "P-0"]
    assert ids(PatientName="Adams^*") == ["P-0"]
    assert ids(StudyDate="20260102-") == ["P-2", "P-1"]
    assert ids(StudyDate="20260101-20260102", PatientName="*a*") == ["P-1", "P-0"]
    assert ids(StudyTime="1100-1300") == ["P-2", "P-1", "P-0"]
    assert ids(StudyTime="1300-") == []
    assert ids(AccessionNumber="A-?") == ["P-2", "P-1", "P-0"]
    assert ids(ModalitiesInStudy="CR", StudyDate="20260101") == ["P-0"]
    assert ids(ModalitiesInStudy="MR") == []
    uids = [small_image(seed).StudyInstanceUID for seed in ("0", "2")]
    assert ids(StudyInstanceUID=uids) == ["P-2", "P-0"]


@pytest.mark.parametrize(
    "value", ["%", "_-1", "P%", "P__", "'; DROP TABLE study; --", "*a" * 60, "P[-]1", "?"]
)
def test_what_sql_and_patterns_would_read_is_plain_text(desk: Desk, value: str) -> None:
    send(desk.node.port, small_image("1"))
    for key in ("PatientID", "AccessionNumber", "PatientName", "StudyID"):
        if (key, value) != ("StudyID", "?"):  # which it matches: StudyID is "1"
            assert desk.viewer.find("STUDY", **{key: value})[:2] == (0x0000, [])
    assert len(desk.viewer.find("STUDY", PatientID="P-1")[1]) == 1


@pytest.mark.parametrize(
    ("level", "keys"),
    [
        ("PATIENT", {"PatientID": ""}),
        ("SERIES", {"Modality": ""}),
        ("IMAGE", {"StudyInstanceUID": "1.2"}),
        ("STUDY", {"PatientID": "x" * 10_000}),
        ("STUDY", {"StudyDate": "yesterday"}),
        ("STUDY", {"StudyInstanceUID": "1.2' OR '1'='1"}),
        ("STUDY", {"StudyInstanceUID": ["1.2"] * 1001}),
    ],
)
def test_an_identifier_that_does_not_fit_is_refused(
    desk: Desk, level: str, keys: dict[str, Any]
) -> None:
    desk.viewer.transfer_syntax = ImplicitVRLittleEndian  # a long list of UIDs fits
    send(desk.node.port, small_image("1"))
    assert desk.viewer.find(level, **keys)[:2] == (0xA900, [])
    assert outcomes(desk.database, AuditAction.QUERY) == ["IdentifierError"]


def test_an_identifier_without_end_is_refused(desk: Desk) -> None:
    desk.viewer.transfer_syntax = ImplicitVRLittleEndian
    with desk.viewer.associate(FIND) as assoc:
        long = identifier(QueryRetrieveLevel="STUDY", PatientComments="x" * (2 << 20))
        ((status, _),) = assoc.send_c_find(long, FIND)
    assert (status.Status, status.ErrorComment) == (
        0xC000,
        "the identifier has more than 1048576 bytes",
    )


def test_series_images_and_results_are_found(desk: Desk) -> None:
    first, second = two_images()
    send(desk.node.port, first, second)
    seg, report = add_results(desk.node.settings, desk.database, first)
    study = str(first.StudyInstanceUID)
    _, (found,), _ = desk.viewer.find(
        "STUDY",
        ModalitiesInStudy="",
        SOPClassesInStudy="",
        NumberOfStudyRelatedSeries="",
        NumberOfStudyRelatedInstances="",
        PatientName="",
        PatientBirthDate="",
        PatientSex="",
    )
    assert list(found.ModalitiesInStudy) == ["CR", "SEG", "SR"]
    assert set(found.SOPClassesInStudy) == {CR, SEG, SR}
    assert (found.NumberOfStudyRelatedSeries, found.NumberOfStudyRelatedInstances) == (4, 4)
    assert (found.StudyInstanceUID, found.RetrieveAETitle) == (study, "NODE")
    assert (str(found.PatientName), found.PatientBirthDate) == ("Phantom^Chest", "19700101")
    series = desk.viewer.find(
        "SERIES",
        StudyInstanceUID=study,
        Modality="",
        SeriesNumber="",
        NumberOfSeriesRelatedInstances="",
    )[1]
    assert {(it.Modality, it.SeriesNumber, it.NumberOfSeriesRelatedInstances) for it in series} == {
        ("CR", 1, 1),
        ("CR", 2, 1),
        ("SEG", 9001, 1),
        ("SR", 9002, 1),
    }
    images = {}
    for each in series:
        _, (image,), _ = desk.viewer.find(
            "IMAGE",
            StudyInstanceUID=study,
            SeriesInstanceUID=each.SeriesInstanceUID,
            SOPClassUID="",
            InstanceNumber="",
            Rows="",
        )
        images[str(image.SOPInstanceUID)] = (str(image.SOPClassUID), image.Rows)
    assert images == {
        str(first.SOPInstanceUID): (CR, 256),
        str(second.SOPInstanceUID): (CR, 256),
        seg: (SEG, 256),
        report: (SR, None),
    }


def test_names_come_in_utf_8_whatever_they_are_stored_in(desk: Desk) -> None:
    latin = small_image("1", SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Änne")
    japanese = small_image(
        "2", SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName="Yamada^Tarou=山田^太郎"
    )
    plain = small_image("3", PatientName="Smith^Ann")
    send(desk.node.port, latin, japanese, plain)
    found = {str(ds.PatientName): ds for ds in desk.viewer.find("STUDY", PatientName="")[1]}
    assert set(found) == {"Müller^Änne", "Yamada^Tarou=山田^太郎", "Smith^Ann"}
    assert found["Müller^Änne"].SpecificCharacterSet == "ISO_IR 192"
    assert "SpecificCharacterSet" not in found["Smith^Ann"]
    keys = {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "MÜLLER*"}
    (again,) = desk.viewer.find("STUDY", **keys)[1]
    assert str(again.PatientName) == "Müller^Änne"


def test_unsupported_keys_come_back_empty_with_a_warning(desk: Desk) -> None:
    send(desk.node.port, small_image("1"))
    status, (found,), pending = desk.viewer.find("STUDY", EthnicGroup="x", PatientID="P-1")
    assert (status, pending) == (0x0000, [0xFF01])
    assert "EthnicGroup" in found
    assert not found.EthnicGroup
    assert desk.viewer.find("STUDY", PatientID="P-1")[2] == [0xFF00]


def test_what_is_in_quarantine_is_invisible(desk: Desk, place: Receiver) -> None:
    send(desk.node.port, small_image("1", PatientID=""))  # no_patient_id
    first, second = two_images()
    second.PatientID = "SOMEBODY ELSE"  # patient_mismatch
    send(desk.node.port, first, second)
    studies = desk.viewer.find("STUDY", NumberOfStudyRelatedInstances="", PatientID="")[1]
    assert [(it.PatientID, it.NumberOfStudyRelatedInstances) for it in studies] == [("P-1", 1)]
    study = str(first.StudyInstanceUID)
    series = desk.viewer.find("SERIES", StudyInstanceUID=study)[1]
    assert [it.SeriesInstanceUID for it in series] == [first.SeriesInstanceUID]
    keys = {"StudyInstanceUID": study, "SeriesInstanceUID": str(second.SeriesInstanceUID)}
    assert desk.viewer.find("IMAGE", **keys)[:2] == (0x0000, [])
    assert desk.viewer.move("DESK2", "SERIES", **keys)[0].Status == 0x0000
    desk.viewer.move("DESK2", "STUDY", StudyInstanceUID=study)
    assert [*place.objects] == [first.SOPInstanceUID]


@pytest.mark.parametrize("state", [InstanceState.SUPERSEDED, InstanceState.WITHDRAWN])
def test_results_of_what_counts_no_more_are_invisible(desk: Desk, state: InstanceState) -> None:
    first, second = two_images()
    send(desk.node.port, first, second)
    add_results(desk.node.settings, desk.database, first)
    with desk.database.write() as session:
        uid = str(first.SOPInstanceUID)
        statement = update(Instance).where(Instance.sop_instance_uid == uid)
        session.execute(statement.values(state=state))
    study = str(first.StudyInstanceUID)
    series = desk.viewer.find("SERIES", StudyInstanceUID=study, Modality="")[1]
    assert [it.SeriesInstanceUID for it in series] == [second.SeriesInstanceUID]


def test_a_corrected_image_is_not_found_under_the_identity_that_its_bytes_lack(
    desk: Desk, place: Receiver
) -> None:
    image = small_image("1")
    image.PatientName = "Wrong^Name"
    send(desk.node.port, image)
    corrected = chest_dataset(seed="1", PatientID="4711", PatientName="Right^Name")
    correction = {"PatientID": "4711"}
    seg, _ = add_results(desk.node.settings, desk.database, image, shown_as=corrected)
    with desk.database.write() as session:
        session.execute(update(Study).values(patient_id="4711"))
        values = {"correction": correction, "identity_revision": 1, "patient_id": "4711"}
        session.execute(update(Instance).values(values))
    study = str(image.StudyInstanceUID)
    keys = {"PatientName": "", "NumberOfStudyRelatedInstances": ""}
    (found,) = desk.viewer.find("STUDY", PatientID="4711", **keys)[1]
    assert (str(found.PatientName), found.NumberOfStudyRelatedInstances) == ("Right^Name", 2)
    assert desk.viewer.find("STUDY", PatientID="P-1")[1] == []
    desk.viewer.move("DESK2", "STUDY", StudyInstanceUID=study)
    assert seg in place.objects
    assert image.SOPInstanceUID not in place.objects
    with desk.database.write() as session:  # to be analysed again: the SEG is of the old identity
        session.execute(update(Instance).values(state=InstanceState.QUEUED))
    assert desk.viewer.find("SERIES", StudyInstanceUID=study)[:2] == (0x0000, [])


def test_more_matches_than_the_limit_are_said(listen: Listen, place: Receiver) -> None:
    desk = make_desk(listen, place, max_results=2)
    images = [small_image(str(number)) for number in range(3)]
    send(desk.node.port, *images)
    status, found, _ = desk.viewer.find("STUDY", PatientID="")
    assert (status, len(found)) == (0xA700, 2)
    assert len(desk.viewer.find("STUDY", PatientID="P-0")[1]) == 1
    send(
        desk.node.port,
        *(small_image(f"x{it}", StudyInstanceUID="1.2.3", PatientID="P") for it in "abc"),
    )
    answer, _ = desk.viewer.move("DESK2", "STUDY", StudyInstanceUID="1.2.3")
    assert (answer.Status, place.objects) == (0xA701, {})


def test_more_files_than_the_limit_are_not_opened(listen: Listen, place: Receiver) -> None:
    desk = make_desk(listen, place, max_files=2)
    send(desk.node.port, *(small_image(str(number)) for number in range(3)))
    assert desk.viewer.find("STUDY", PatientName="Nobody")[0] == 0xA700
    assert desk.viewer.find("STUDY", PatientName="Phantom*", PatientID="P-1")[0] == 0x0000
    assert len(desk.viewer.find("STUDY", PatientID="")[1]) == 3  # rows are enough


def test_more_studies_than_a_page(desk: Desk) -> None:
    with desk.database.write() as session:
        for number in range(230):
            study = Study(study_instance_uid=f"1.2.{number}", calling_aet="X", patient_id="P")
            session.add(
                Instance(
                    series=Series(study=study, series_instance_uid="1.3", modality="CR"),
                    sop_instance_uid=f"1.4.{number}",
                    sop_class_uid=CR,
                    transfer_syntax_uid=ExplicitVRLittleEndian,
                    data_set_sha256=f"{number:064}",
                    size_bytes=1,
                    storage_key=str(number),
                    calling_aet="X",
                    called_aet="NODE",
                )
            )
    status, found, _ = desk.viewer.find("STUDY", PatientID="P", ModalitiesInStudy="CR")
    assert (status, len({ds.StudyInstanceUID for ds in found})) == (0x0000, 230)


def test_a_query_is_recorded_and_its_values_stand_apart(desk: Desk) -> None:
    send(desk.node.port, small_image("1"))
    desk.viewer.find("STUDY", PatientName="Phantom*", StudyDate="", PatientID="P-1")
    (event,) = desk.events(AuditAction.QUERY)
    assert (event.outcome, event.calling_aet, event.called_aet) == ("success", "VIEWER", "NODE")
    assert event.details == {
        "service": "C-FIND",
        "level": "STUDY",
        "keys": ["PatientID", "PatientName"],
        "matches": 1,
    }
    assert event.patient == {"PatientID": "P-1", "PatientName": "Phantom*"}
