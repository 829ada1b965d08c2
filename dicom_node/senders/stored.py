"""The stored objects that are sent: how each is encoded, and what is wrong with one that cannot."""

from typing import Final

from pydicom.filereader import read_file_meta_info

from dicom_node.senders.base import Contact, Parcel, SendResult, Verdict
from dicom_node.status import is_retryable, is_stored

_CLASS_NOT_SUPPORTED: Final = 0x0122  # PS3.7 C.5.7


def transfer_syntax(parcel: Parcel) -> str | SendResult:
    """Return the Transfer Syntax UID of a stored object, or the result when it cannot be sent."""
    try:
        return str(read_file_meta_info(parcel.path).TransferSyntaxUID)
    except OSError as error:
        verdict, message = Verdict.RETRY, f"the stored object cannot be read: {error.strerror}"
    except Exception as error:  # noqa: BLE001  whatever is wrong with it, it is no DICOM file
        verdict = Verdict.REJECTED
        message = f"the stored object is damaged ({type(error).__name__})"
    return SendResult(parcel.delivery_id, verdict, error=message, contact=Contact.NONE)


def judge(delivery_id: int, status: int, said: str) -> SendResult:
    """Return what a status of PS3.4 B.2.3 means for a delivery; `said` begins the sentence."""
    if is_stored(status):
        return SendResult(delivery_id, Verdict.SENT, status)
    verdict = Verdict.RETRY if is_retryable(status) else Verdict.REJECTED
    error = f"{said} 0x{status:04X}"
    return SendResult(
        delivery_id, verdict, status, error, class_refused=status == _CLASS_NOT_SUPPORTED
    )
