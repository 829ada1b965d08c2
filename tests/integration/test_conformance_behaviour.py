"""What the conformance statement says of the network, against a real listener and sender."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import chest_dataset
from objects import reports, segmentations
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian
from pynetdicom import AE, AllStoragePresentationContexts, build_role, evt, sop_class
from pynetdicom.acse import APPLICATION_CONTEXT_NAME
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    AsynchronousOperationsWindowNegotiation,
    ImplementationClassUIDNotification,
    MaximumLengthNotification,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)
from pynetdicom.presentation import build_context
from senders import CR, associate

from dicom_node.conformance import tables
from dicom_node.conformance.parameters import association_limits
from dicom_node.contexts import ACCEPTED, STORAGE_SYNTAXES
from dicom_node.senders.base import Parcel, Receiver, Verdict
from dicom_node.senders.cstore import CStoreSender
from models.identity import MADE_CLASSES

Listen = Callable[..., "RunningListener"]  # noqa: F821  a fixture of conftest.py
_REJECTED, _ACCEPTED = 0x03, 0x02  # PDU types, PS3.8 9.3
_CONTEXTS = 128  # PS3.8 9.3.2.2: context IDs are odd, 1 to 255


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """One kind of database is enough: nothing here depends on it."""
    return f"sqlite:///{tmp_path / 'node.db'}"


def _answered(assoc: Association) -> tuple[int, int, int]:
    answer = assoc.acceptor.primitive
    assert answer is not None
    return int(answer.result), int(answer.result_source), int(answer.diagnostic)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"min_free_bytes": 1 << 60, "allowed_calling_aets": ["A"]}, (2, 3, 1)),
        ({"require_called_aet": True, "ae_title": "A", "allowed_calling_aets": ["A"]}, (1, 1, 7)),
        ({"allowed_calling_aets": ["A"]}, (1, 1, 3)),
    ],
)
def test_rejections_are_listed_in_their_order(
    listen: Listen, settings: dict[str, Any], reason: tuple[int, int, int]
) -> None:
    with associate(listen(**settings).port) as assoc:
        assert _answered(assoc) == reason
    assert reason in tables.REJECTIONS


def test_one_association_too_many_is_rejected(listen: Listen) -> None:
    node = listen(max_associations=1)
    with associate(node.port) as first, associate(node.port) as second:
        assert first.is_established
        assert _answered(second) == (2, 3, 2)
    assert (2, 3, 2) in tables.REJECTIONS


def _request_association(port: int, old: bytes, new: bytes) -> bytes:
    """Send an A-ASSOCIATE-RQ with some bytes exchanged; return the PDU that answers."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = APPLICATION_CONTEXT_NAME
    primitive.calling_ae_title, primitive.called_ae_title = "PACS", "NODE"
    primitive.presentation_context_definition_list = [build_context(CR)]
    primitive.presentation_context_definition_list[0].context_id = 1
    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    implementation.implementation_class_uid = UID("1.2.3")
    primitive.user_information = [length, implementation]
    data = A_ASSOCIATE_RQ(primitive).encode()
    assert data.count(old) == 1
    with socket.create_connection(("127.0.0.1", port), 10) as peer:
        peer.sendall(data.replace(old, new))
        return peer.recv(4096)


def test_another_protocol_version_is_rejected(listen: Listen) -> None:
    length = b"\0\x01\0\0NODE"  # protocol version 1, reserved, called AE title
    answer = _request_association(listen().port, length, b"\0\x02\0\0NODE")
    assert answer[0] == _REJECTED
    assert tuple(answer[7:10]) == (1, 2, 2)
    assert (1, 2, 2) in tables.REJECTIONS


def test_the_application_context_is_not_examined(listen: Listen) -> None:
    answer = _request_association(
        listen().port, APPLICATION_CONTEXT_NAME.encode(), b"1.2.840.10008.3.1.1.9"
    )
    assert answer[0] == _ACCEPTED


def _negotiate(port: int, uids: list[str]) -> dict[str, int]:
    with associate(port, *((uid, ExplicitVRLittleEndian) for uid in uids)) as assoc:
        contexts = assoc.accepted_contexts + assoc.rejected_contexts
    return {str(cx.abstract_syntax): int(cx.result or 0) for cx in contexts}


def test_of_all_classes_exactly_the_listed_ones_are_accepted(listen: Listen) -> None:
    node = listen()
    others = [str(cx.abstract_syntax) for cx in AllStoragePresentationContexts]
    others += [str(uid) for name, uid in vars(sop_class).items() if "InformationModel" in name]
    for name in ("StorageCommitmentPushModel", "UnifiedProcedureStepPush", "Verification"):
        others.append(str(vars(sop_class)[name]))
    uids = list(dict.fromkeys([*others, *map(str, ACCEPTED)]))
    results: dict[str, int] = {}
    for start in range(0, len(uids), _CONTEXTS):
        results |= _negotiate(node.port, uids[start : start + _CONTEXTS])
    assert {uid for uid, result in results.items() if result == 0} == {*map(str, ACCEPTED)}
    assert set(results.values()) == {0, 3}


def test_the_first_listed_transfer_syntax_is_chosen(listen: Listen) -> None:
    node = listen()
    for first in range(0, len(STORAGE_SYNTAXES), 5):
        ae = AE()
        ae.add_requested_context(CR, [*reversed(STORAGE_SYNTAXES[first:])])
        assoc = ae.associate("127.0.0.1", node.port)
        assert assoc.accepted_contexts[0].transfer_syntax == [STORAGE_SYNTAXES[first]]
        assoc.release()
    with associate(node.port, (CR, "1.2.840.10008.1.2.4.100")) as assoc:
        assert [cx.result for cx in assoc.rejected_contexts] == [4]


def test_negotiation_items_are_not_answered(listen: Listen) -> None:
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = 5
    window.maximum_number_operations_performed = 5
    user = UserIdentityNegotiation()
    user.user_identity_type, user.primary_field = 1, b"somebody"
    user.positive_response_requested = True
    extended = SOPClassExtendedNegotiation()
    extended.sop_class_uid = UID(CR)
    extended.service_class_application_information = b"\x02\0\x03\0\x01\0"
    role = build_role(CR, scu_role=True, scp_role=True)
    node = listen()
    ae = AE()
    ae.add_requested_context(CR)
    assoc = ae.associate("127.0.0.1", node.port, ext_neg=[window, user, extended, role])
    assert assoc.is_established
    acceptor = assoc.acceptor
    assert {type(item).__name__ for item in acceptor.user_information} == {
        "MaximumLengthNotification",
        "ImplementationClassUIDNotification",
        "ImplementationVersionNameNotification",
    }
    limits = association_limits(node.settings)
    assert f"| Largest PDU received, bytes | {acceptor.maximum_length} |" in limits
    assert f"| Implementation Class UID | `{acceptor.implementation_class_uid}` |" in limits
    assert f"| Implementation Version Name | `{acceptor.implementation_version_name}` |" in limits
    assoc.release()


def test_who_may_not_store_may_verify(listen: Listen) -> None:
    node = listen(store_calling_aets=["FRIEND"])
    assert CStoreSender("PACS", 10).echo(Receiver("node", "NODE", "127.0.0.1", node.port)) is None


def test_an_ipv6_address_can_be_given(listen: Listen) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    node = listen(host="::1")
    assert CStoreSender("PACS", 10).echo(Receiver("node", "NODE", "::1", node.port)) is None


class _Receiver:
    """Remembers what a storage SCU proposes and asks."""

    def __init__(self) -> None:
        self.proposed: set[tuple[str, tuple[str, ...]]] = set()
        self.extended: list[object] = []
        self.priorities: set[int] = set()
        self.maximum_lengths: set[int | None] = set()

    def requested(self, event: Event) -> None:
        requestor = event.assoc.requestor
        self.extended += requestor.extended_negotiation
        self.maximum_lengths.add(requestor.maximum_length)
        self.proposed |= {
            (str(cx.abstract_syntax), tuple(map(str, cx.transfer_syntax)))
            for cx in requestor.requested_contexts
        }

    def stored(self, event: Event) -> int:
        self.priorities.add(event.request.Priority)
        return 0x0000


@contextlib.contextmanager
def _receiver() -> Iterator[tuple[_Receiver, Receiver]]:
    seen, ae = _Receiver(), AE(ae_title="PACS")
    for uid, syntaxes in ACCEPTED.items():
        ae.add_supported_context(uid, list(syntaxes))
    handlers = [
        (evt.EVT_REQUESTED, seen.requested),
        (evt.EVT_C_STORE, seen.stored),
        (evt.EVT_C_ECHO, lambda _event: 0x0000),
    ]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    assert server is not None
    try:
        yield seen, Receiver("pacs", "PACS", "127.0.0.1", server.server_address[1])
    finally:
        ae.shutdown()


def _parcel(number: int, ds: Dataset, folder: Path) -> Parcel:
    path = folder / f"{number}.dcm"
    ds.save_as(path, enforce_file_format=True)
    return Parcel(number, path, str(ds.SOPClassUID), str(ds.SOPInstanceUID))


def test_the_sender_proposes_what_is_listed(tmp_path: Path) -> None:
    made = [segmentations()[0], reports()[0]]
    others = sorted(MADE_CLASSES - {str(ds.SOPClassUID) for ds in made})
    made += [chest_dataset(SOPClassUID=uid, SOPInstanceUID=f"{uid}.1") for uid in others]
    parcels = [_parcel(number, ds, tmp_path) for number, ds in enumerate(made)]
    sender = CStoreSender("NODE", 10)
    with _receiver() as (seen, receiver):
        assert [it.verdict for it in sender.send(receiver, parcels)] == [Verdict.SENT] * len(made)
        assert sender.echo(receiver) is None
    listed = tables.proposed_contexts()
    assert len(seen.proposed) == len(listed.splitlines()) - 2
    for abstract, syntaxes in seen.proposed:
        named = ", ".join(tables.name_of(UID(it)) for it in syntaxes)
        assert f"| `{abstract}` | {named} | SCU | none |" in listed
    assert seen.extended == []
    assert seen.priorities == {0x0000}  # MEDIUM, PS3.7 9.3.1.1


@pytest.mark.parametrize("max_pdu", [1 << 16, 1 << 20, 0])
def test_both_entities_offer_the_pdu_of_the_setting(
    listen: Listen, tmp_path: Path, max_pdu: int
) -> None:
    node = listen(max_pdu=max_pdu)
    parcel = _parcel(1, reports()[0], tmp_path)
    with _receiver() as (seen, receiver):
        (result,) = CStoreSender.of(node.settings).send(receiver, [parcel])
    assert (result.verdict, seen.maximum_lengths) == (Verdict.SENT, {max_pdu})
    with associate(node.port) as assoc:
        assert assoc.acceptor.maximum_length == max_pdu
    limits = association_limits(node.settings)
    assert f"| Largest PDU received, bytes | {max_pdu} | {max_pdu} |" in limits


@pytest.mark.parametrize(
    ("settings", "words", "advice"),
    [
        (
            {"allowed_calling_aets": ["FRIEND"]},
            "Rejected Permanent: Calling AE title not recognised",
            "delivery.calling_aet",
        ),
        (
            {"require_called_aet": True, "ae_title": "OTHER"},
            "Rejected Permanent: Called AE title not recognised",
            "ae_title of the destination",
        ),
        ({"min_free_bytes": 1 << 60}, "Rejected Transient: Temporary congestion", ""),
    ],
)
def test_a_rejection_is_a_retry_that_names_its_reason(
    listen: Listen, tmp_path: Path, settings: dict[str, Any], words: str, advice: str
) -> None:
    """The same words come from `dicom-node check`, which is the C-ECHO below."""
    receiver = Receiver("pacs", "NODE", "127.0.0.1", listen(**settings).port)
    sender = CStoreSender("PACS", 10)
    (result,) = sender.send(receiver, [_parcel(1, reports()[0], tmp_path)])
    assert result.verdict is Verdict.RETRY
    assert result.error == sender.echo(receiver)
    assert words in (result.error or "")
    assert advice in (result.error or "")
