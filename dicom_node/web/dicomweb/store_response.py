"""The answer to STOW-RS: the Store Instances Response Module (PS3.18 10.5.3, Annex I)."""

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from dicom_node.query.keys import tag_of
from dicom_node.status import is_retryable
from dicom_node.types import StoreRequest
from dicom_node.web.dicomweb.targets import Target

SYNTAX_NOT_SUPPORTED: Final = 0xC122  # PS3.18 Table I.2-2
CANNOT_UNDERSTAND: Final = 0xC000
OUT_OF_RESOURCES: Final = 0xA700


@dataclass(frozen=True)
class Kept:
    """A part that was stored; `target` is None where it cannot be retrieved."""

    request: StoreRequest
    study: str
    target: Target | None
    is_last: bool = False


@dataclass(frozen=True)
class Failed:
    """A part that was not; without a request nothing says which object it was.

    `is_last`: the rest of the body was not read.
    """

    reason: int
    request: StoreRequest | None = None
    is_last: bool = False


Outcome = Kept | Failed


def status_of_all(outcomes: Sequence[Outcome]) -> HTTPStatus:
    """Return the status: all stored, some, none (PS3.18 Table 10.5.3-1).

    None for want of room, disk or database is a 503: the sender may try again.
    """
    failed = [each for each in outcomes if isinstance(each, Failed)]
    if not failed:
        return HTTPStatus.OK
    if len(failed) < len(outcomes):
        return HTTPStatus.ACCEPTED
    if all(is_retryable(each.reason) for each in failed):
        return HTTPStatus.SERVICE_UNAVAILABLE
    return HTTPStatus.CONFLICT


def module_of(outcomes: Sequence[Outcome], root: str) -> Dataset:
    """Return the module; Retrieve URLs begin with `root`."""
    ds = Dataset()
    kept = [each for each in outcomes if isinstance(each, Kept)]
    failed = [each for each in outcomes if isinstance(each, Failed)]
    studies = {each.study for each in kept}
    url = f"{root}/{Target(*studies).path}" if len(studies) == 1 else None
    ds.add_new(tag_of("RetrieveURL"), "UR", url)
    known = [each for each in failed if each.request is not None]
    others = [each for each in failed if each.request is None]
    for keyword, items in (
        ("ReferencedSOPSequence", [_referenced(each, root) for each in kept]),
        ("FailedSOPSequence", [_failed(each) for each in known]),
        ("OtherFailuresSequence", [_failed(each) for each in others]),
    ):
        if items:
            ds.add_new(tag_of(keyword), "SQ", Items(items))
    return ds


def _referenced(each: Kept, root: str) -> Dataset:
    item = _named(each.request)
    url = f"{root}/{each.target.path}" if each.target is not None else None
    item.add_new(tag_of("RetrieveURL"), "UR", url)
    return item


def _failed(each: Failed) -> Dataset:
    item = _named(each.request) if each.request is not None else Dataset()
    item.FailureReason = each.reason
    return item


def _named(request: StoreRequest) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = request.sop_class_uid
    item.ReferencedSOPInstanceUID = request.sop_instance_uid
    return item
