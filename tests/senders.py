"""Storage SCUs for tests: polite ones, and ones that send exactly the bytes they are told to."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE

from dicom_node.mended import MENDED

CR = "1.2.840.10008.5.1.4.1.1.1"


@contextmanager
def associate(
    port: int,
    *contexts: tuple[str, str],
    calling: str = "PACS",
    called: str = "NODE",
    address: str = "127.0.0.1",
) -> Iterator[Association]:
    """Yield an association with that address and port; released (or aborted) at the end."""
    ae = AE(ae_title=calling)
    for sop_class, syntax in contexts or ((CR, ExplicitVRLittleEndian),):
        ae.add_requested_context(sop_class, syntax)
    assoc = ae.associate(address, port, ae_title=called, evt_handlers=[MENDED])
    try:
        yield assoc
    finally:
        if assoc.is_established:
            assoc.release()
        ae.shutdown()


def encoded(ds: Dataset) -> bytes:
    """Return the data set in Explicit VR Little Endian, without file meta."""
    buffer = DicomBytesIO()
    buffer.is_implicit_VR = False
    buffer.is_little_endian = True
    plain = Dataset()
    plain.update(ds)
    write_dataset(buffer, plain)
    return bytes(buffer.getvalue())


def send_half(assoc: Association, data: bytes) -> None:
    """Send a C-STORE command and the first half of its data set, in small PDUs, and no more."""
    message = C_STORE_RQ()
    message.primitive_to_message(store_request(CR, "1.2.3", data))
    message.context_id = assoc.accepted_contexts[0].context_id
    pdus = list(message.encode_msg(message.context_id or 1, 4096))
    for pdu in pdus[: len(pdus) // 2]:
        assoc.dul.send_pdu(pdu)


def store_request(sop_class_uid: str, sop_instance_uid: str, data: bytes) -> C_STORE:
    """Return a C-STORE request that carries `data` as it is."""
    request = C_STORE()
    request.MessageID = 1
    request.AffectedSOPClassUID = sop_class_uid
    request.AffectedSOPInstanceUID = sop_instance_uid
    request.Priority = 2
    request.DataSet = BytesIO(data)
    return request


def store_bytes(
    assoc: Association,
    sop_class_uid: str,
    sop_instance_uid: str,
    data: bytes,
    transfer_syntax: str | None = None,
) -> int | None:
    """C-STORE `data` as it is under the UIDs given; None when no answer came.

    The context is the first one of the class, or of class and transfer syntax.
    """
    context = next(
        cx
        for cx in assoc.accepted_contexts
        if cx.abstract_syntax == sop_class_uid
        and transfer_syntax in {None, *map(str, cx.transfer_syntax)}
    )
    request = store_request(sop_class_uid, sop_instance_uid, data)
    assoc._reactor_checkpoint.clear()
    while not assoc._is_paused:
        time.sleep(0.0001)
    try:
        assoc.dimse.send_msg(request, context.context_id or 0)
        _, answer = assoc.dimse.get_msg(block=True)
    finally:
        assoc._reactor_checkpoint.set()
    return None if answer is None else int(answer.Status)


def store(port: int, ds: Dataset, calling: str = "PACS") -> int | None:
    """C-STORE one data set over an association of its own and return the status."""
    sop_class = str(ds.SOPClassUID)
    syntax = str(ds.file_meta.TransferSyntaxUID)
    with associate(port, (sop_class, syntax), calling=calling) as assoc:
        assert assoc.is_established
        answer = assoc.send_c_store(ds)
    return int(answer.Status) if "Status" in answer else None
