"""C-MOVE and C-GET over real associations: counts, statuses, bytes, cancel, audit."""

import threading
from collections.abc import Callable, Iterator

import pytest
from conftest import RunningListener
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, JPEGLosslessSV1
from pynetdicom.events import Event
from querying import (
    MOVE,
    Desk,
    Receiver,
    Workstation,
    add_results,
    identifier,
    make_desk,
    receiver,
    send,
    small_image,
    stored_files,
    two_images,
)
from rows import CR, SEG, SR
from servers import free_port, wait_until

from models.audit import AuditAction

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


def _compressed(seed: str) -> FileDataset:
    ds = small_image(seed, transfer_syntax=JPEGLosslessSV1)
    ds.PixelData = encapsulate([b"\xff\xd8 no decoder ever sees this \xff\xd9"])
    ds["PixelData"].VR = "OB"
    return ds


def _counts(answer: object) -> tuple[int, ...]:
    names = ("Completed", "Failed", "Warning")
    return tuple(int(getattr(answer, f"NumberOf{name}Suboperations")) for name in names)


def test_a_study_with_its_results_moves_as_it_is_stored(desk: Desk, place: Receiver) -> None:
    first, second = two_images()
    send(desk.node.port, first, second)
    seg, report = add_results(desk.node.settings, desk.database, first)
    answer, identifier = desk.viewer.move("DESK2", "STUDY", StudyInstanceUID=first.StudyInstanceUID)
    assert (answer.Status, _counts(answer), identifier) == (0x0000, (4, 0, 0), None)
    settings = desk.node.settings
    held = stored_files(settings.spool_dir) | stored_files(settings.artifact_dir)
    assert set(place.objects) == {seg, report, first.SOPInstanceUID, second.SOPInstanceUID}
    assert place.objects == held


def test_sub_operations_name_whose_move_it_is(desk: Desk, place: Receiver) -> None:
    send(desk.node.port, small_image("1"))
    uid = small_image("1").StudyInstanceUID
    answer, _ = desk.viewer.move("DESK2", "STUDY", StudyInstanceUID=uid)
    assert answer.Status == 0x0000
    ((request, _, calling_aet),) = place.requests
    assert request.MoveOriginatorApplicationEntityTitle == "VIEWER"
    assert request.MoveOriginatorMessageID == 7
    assert calling_aet == "NODE"


def test_receivers_of_results_are_move_destinations_too(listen: Listen, place: Receiver) -> None:
    section = {"enabled": True, "calling_aets": ["VIEWER"]}
    node = listen(
        sections={"query_retrieve": section, "destinations": [place.place | {"name": "x"}]}
    )
    image = small_image("1")
    send(node.port, image)
    desk = Desk(node, Workstation(node.port))
    answer, _ = desk.viewer.move("DESK2", "STUDY", StudyInstanceUID=image.StudyInstanceUID)
    assert (answer.Status, [*place.objects]) == (0x0000, [image.SOPInstanceUID])


def test_an_unknown_destination_is_refused(desk: Desk) -> None:
    send(desk.node.port, small_image("1"))
    uid = small_image("1").StudyInstanceUID
    answer, _ = desk.viewer.move("NOWHERE", "STUDY", StudyInstanceUID=uid)
    assert answer.Status == 0xA801
    (event,) = desk.events(AuditAction.INSTANCES_TRANSFERRED)
    assert event.outcome == "UnknownDestinationError"


# pynetdicom leaves the socket of a refused connection to the garbage collector.
@pytest.mark.filterwarnings("ignore:.*unclosed.*:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_destination_that_is_away_fails_every_sub_operation(listen: Listen) -> None:
    away = {"ae_title": "AWAY", "host": "127.0.0.1", "port": free_port()}
    desk = make_desk(listen, move_destinations=[away])
    image = small_image("1")
    send(desk.node.port, image)
    answer, identifier = desk.viewer.move("AWAY", "STUDY", StudyInstanceUID=image.StudyInstanceUID)
    assert (answer.Status, _counts(answer)) == (0xA702, (0, 1, 0))
    assert identifier is not None
    assert identifier.FailedSOPInstanceUIDList == image.SOPInstanceUID


def test_what_a_receiver_does_not_take_is_listed(desk: Desk, place: Receiver) -> None:
    plain, compressed = small_image("1"), _compressed("2")
    compressed.StudyInstanceUID, compressed.PatientID = plain.StudyInstanceUID, plain.PatientID
    send(desk.node.port, plain, compressed)
    answer, identifier = desk.viewer.move("DESK2", "STUDY", StudyInstanceUID=plain.StudyInstanceUID)
    assert (answer.Status, _counts(answer)) == (0xB000, (1, 1, 0))
    assert identifier is not None
    assert identifier.FailedSOPInstanceUIDList == compressed.SOPInstanceUID
    assert [*place.objects] == [plain.SOPInstanceUID]
    (event,) = desk.events(AuditAction.INSTANCES_TRANSFERRED)
    assert (event.outcome, event.details["failed"]) == ("warning", 1)


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, DeflatedExplicitVRLittleEndian])
def test_an_object_goes_in_its_own_transfer_syntax(listen: Listen, syntax: str) -> None:
    with receiver(ExplicitVRLittleEndian, syntax) as place:
        desk = make_desk(listen, place)
        image = _compressed("1")
        if syntax == DeflatedExplicitVRLittleEndian:
            image = small_image("1", transfer_syntax=syntax)
        send(desk.node.port, image)
        answer, _ = desk.viewer.move("DESK2", "STUDY", StudyInstanceUID=image.StudyInstanceUID)
        assert answer.Status == 0x0000
        assert [used for _, used, _ in place.requests] == [syntax]


@pytest.mark.parametrize(
    ("status", "final", "counts"),
    [
        (0x0111, 0x0000, (1, 0, 0)),
        (0xB007, 0xB000, (0, 0, 1)),
        (0xA700, 0xA702, (0, 1, 0)),
        (0xC001, 0xA702, (0, 1, 0)),
    ],
)
def test_answers_of_the_receiver_are_counted(
    desk: Desk, status: int, final: int, counts: tuple[int, ...]
) -> None:
    image = small_image("1")
    send(desk.node.port, image)
    desk.viewer.store_status = status
    answer, _ = desk.viewer.get(ALL, "STUDY", StudyInstanceUID=image.StudyInstanceUID)
    assert (answer.Status, _counts(answer)) == (final, counts)


def test_get_brings_images_and_results_of_each_level(desk: Desk) -> None:
    first, second = two_images()
    send(desk.node.port, first, second)
    seg, report = add_results(desk.node.settings, desk.database, first)
    study = first.StudyInstanceUID
    answer, _ = desk.viewer.get(ALL, "STUDY", StudyInstanceUID=study)
    assert (answer.Status, _counts(answer)) == (0x0000, (4, 0, 0))
    got = {str(ds.SOPInstanceUID): ds for ds in desk.viewer.received}
    assert set(got) == {seg, report, first.SOPInstanceUID, second.SOPInstanceUID}
    assert got[str(first.SOPInstanceUID)].PixelData == first.PixelData
    for level, keys in (
        ("SERIES", {"SeriesInstanceUID": got[seg].SeriesInstanceUID}),
        ("IMAGE", {"SeriesInstanceUID": got[seg].SeriesInstanceUID, "SOPInstanceUID": seg}),
    ):
        desk.viewer.received.clear()
        answer, _ = desk.viewer.get(ALL, level, StudyInstanceUID=study, **keys)
        assert answer.Status == 0x0000
        assert [ds.SOPInstanceUID for ds in desk.viewer.received] == [seg]


def test_get_lists_what_has_no_context(desk: Desk) -> None:
    first, _ = two_images()
    send(desk.node.port, first)
    seg, report = add_results(desk.node.settings, desk.database, first)
    answer, failed = desk.viewer.get(ALL[:1], "STUDY", StudyInstanceUID=first.StudyInstanceUID)
    assert (answer.Status, _counts(answer)) == (0xB000, (1, 2, 0))
    assert failed is not None
    assert set(failed.FailedSOPInstanceUIDList) == {seg, report}


def test_a_file_that_is_gone_fails_alone(desk: Desk) -> None:
    first, second = two_images()
    send(desk.node.port, first, second)
    kept, gone = (
        path
        for uid in (first.SOPInstanceUID, second.SOPInstanceUID)
        for path in desk.node.spooled
        if uid in path.read_bytes()[:2000].decode("latin-1")
    )
    gone.unlink()
    answer, failed = desk.viewer.get(ALL, "STUDY", StudyInstanceUID=first.StudyInstanceUID)
    assert (answer.Status, _counts(answer)) == (0xB000, (1, 1, 0))
    assert failed is not None
    assert failed.FailedSOPInstanceUIDList == second.SOPInstanceUID
    assert kept.exists()


@pytest.mark.parametrize("content", [b"", bytes(4096), b"\0" * 128 + b"DICM" + b"\xff" * 4096])
def test_a_file_that_is_damaged_fails_alone(desk: Desk, content: bytes) -> None:
    first, second = two_images()
    send(desk.node.port, first)
    (damaged,) = desk.node.spooled
    send(desk.node.port, second)
    damaged.write_bytes(content)
    answer, failed = desk.viewer.get(ALL, "STUDY", StudyInstanceUID=first.StudyInstanceUID)
    assert (answer.Status, _counts(answer)) == (0xB000, (1, 1, 0))
    assert failed is not None
    assert failed.FailedSOPInstanceUIDList == first.SOPInstanceUID


def test_nothing_selected_is_success(desk: Desk) -> None:
    answer, _ = desk.viewer.get(ALL, "STUDY", StudyInstanceUID="1.2.3.4")
    assert (answer.Status, _counts(answer)) == (0x0000, (0, 0, 0))


def test_cancel_ends_a_retrieve_after_the_running_sub_operation(desk: Desk) -> None:
    images = [
        small_image(str(number), StudyInstanceUID="1.2.3", PatientID="P") for number in range(5)
    ]
    send(desk.node.port, *images)
    desk.viewer.cancel_after = 2
    answer, _ = desk.viewer.get(ALL, "STUDY", StudyInstanceUID="1.2.3")
    assert (answer.Status, _counts(answer)) == (0xFE00, (2, 0, 0))
    assert answer.NumberOfRemainingSuboperations == 3
    (event,) = desk.events(AuditAction.INSTANCES_TRANSFERRED)
    assert (event.outcome, event.details["remaining"]) == ("cancelled", 3)


def test_an_abort_ends_a_move(listen: Listen) -> None:
    aborted = threading.Event()

    def wait(_event: Event) -> int:
        if len(place.objects) > 1:
            aborted.wait(30)
        return 0x0000

    with receiver(answer=wait) as place:
        desk = make_desk(listen, place)
        send(
            desk.node.port,
            *(small_image(str(it), StudyInstanceUID="1.2.3", PatientID="P") for it in range(30)),
        )
        with desk.viewer.associate(MOVE) as assoc:
            request = identifier(QueryRetrieveLevel="STUDY", StudyInstanceUID="1.2.3")
            next(assoc.send_c_move(request, "DESK2", MOVE))
            assoc.abort()
        aborted.set()
        wait_until(
            lambda: bool(desk.events(AuditAction.INSTANCES_TRANSFERRED)), 30, "the move ended"
        )
    (event,) = desk.events(AuditAction.INSTANCES_TRANSFERRED)
    assert event.outcome == "cancelled"
    assert event.details["remaining"] > 0


def test_transfers_are_recorded_by_study(desk: Desk) -> None:
    images = [small_image("1"), small_image("2")]
    send(desk.node.port, *images)
    uids = [image.StudyInstanceUID for image in images]
    desk.viewer.move("DESK2", "STUDY", StudyInstanceUID=uids)
    for action in (AuditAction.BEGIN_TRANSFERRING, AuditAction.INSTANCES_TRANSFERRED):
        events = desk.events(action)
        assert {event.study_instance_uid for event in events} == set(uids)
        assert {str(event.patient) for event in events} == {
            "{'patient_id': 'P-1'}",
            "{'patient_id': 'P-2'}",
        }
    assert events[0].calling_aet == "VIEWER"
    assert events[0].details == {
        "service": "C-MOVE",
        "destination": "DESK2",
        "level": "STUDY",
        "remaining": 0,
        "completed": 1,
        "warning": 0,
        "failed": 0,
    }
