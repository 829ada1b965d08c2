"""WADO-RS: stored objects as they are, what their headers say, frames, pictures (PS3.18 10.4)."""

from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Final

from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRBigEndian, ExplicitVRLittleEndian
from starlette.responses import Response

from dicom_node.query.retrieve import StoredObject
from dicom_node.web.dicomweb.answers import Stream, warned
from dicom_node.web.dicomweb.errors import NotAcceptableError, NotHereError, ParameterError
from dicom_node.web.dicomweb.events import Events, Transfer
from dicom_node.web.dicomweb.frames import Frames
from dicom_node.web.dicomweb.json_model import bulk_value, known_of, text_of
from dicom_node.web.dicomweb.media_types import (
    DICOM,
    FRAME_TYPES,
    NATIVE,
    OCTETS,
    PNG,
    MediaType,
    Representation,
    choose,
    json_form,
)
from dicom_node.web.dicomweb.multipart import Part, Writer
from dicom_node.web.dicomweb.pieces import of_file, swapped
from dicom_node.web.dicomweb.stored_header import (
    PIXEL_DATA,
    WORDS,
    StoredHeader,
    open_stored,
)
from dicom_node.web.dicomweb.targets import Target, Targets

_PDF: Final = "application/pdf"
_DOCUMENT: Final = "00420011"  # Encapsulated Document
_NOT_RENDERED: Final = ("annotation", "iccprofile", "quality", "viewport")


class Retrieval:
    """Answers for one node; safe for several threads."""

    def __init__(self, targets: Targets) -> None:
        self._targets = targets

    def instances(self, events: Events, target: Target, ranges: Sequence[MediaType]) -> Response:
        """Return the objects, each as it is stored; 206 when some of them cannot be given so."""
        found = self._targets.objects(target)
        chosen = [(each, _as_stored(each, target, ranges)) for each in found]
        taken = [(each, form) for each, form in chosen if form is not None]
        if not taken:
            raise NotAcceptableError(_stored_in(found))
        present = [(each, form) for each, form in taken if each.path.is_file()]
        if not present:
            msg = "the file of the object is missing"
            raise NotHereError(msg)
        transfer = Transfer(events, self._targets, [each for each, _ in present])
        transfer.begin()
        status = HTTPStatus.OK if len(present) == len(found) else HTTPStatus.PARTIAL_CONTENT
        ((first, form), *_) = present
        if not form.is_multipart:
            pieces = transfer.pieces(_file(first, transfer))
            return Stream(pieces, form.content_type, status)
        writer = Writer(DICOM)
        parts = (Part(form.content_type, _file(each, transfer)) for each, form in present)
        return Stream(transfer.pieces(writer.body(parts)), writer.media_type, status)

    def metadata(
        self, events: Events, target: Target, ranges: Sequence[MediaType], root: str
    ) -> Response:
        """Return what the headers of the objects say, one after the other."""
        form = json_form(ranges)
        found = self._targets.objects(target)
        events.read("metadata", target, self._targets.patients([target.study]))
        return Stream(_listed(found, root), form)

    def frames(
        self, events: Events, target: Target, ranges: Sequence[MediaType], numbers: str | None
    ) -> Response:
        """Return frames as they are stored, plain ones in little endian; None: all."""
        frames = Frames.of(self._open(target))
        wanted = list(range(1, frames.number + 1)) if numbers is None else frames.chosen(numbers)
        form = choose(ranges, _forms_of_frames(frames.stored, len(wanted)))
        if form is None:
            stored = FRAME_TYPES.get(frames.stored.syntax, OCTETS)
            msg = f"the frames are stored as {stored}; {frames.stored.syntax}"
            raise NotAcceptableError(msg)
        data = frames.data(wanted)
        events.read("frames", target, self._targets.patients([target.study]))
        return _parts(form, data)

    def bulk(
        self, events: Events, target: Target, ranges: Sequence[MediaType], path: str
    ) -> Response:
        """Return one long value; the path names its tag, and the items around it."""
        stored = self._open(target)
        places = path.split("/")
        tag = int(path, 16) if len(places) == 1 else None
        found = stored.bulk.get(tag) if tag is not None else None
        if tag == PIXEL_DATA and found is not None and found.length is None:
            return self.frames(events, target, ranges, None)
        kind = _kind_of(stored, path)
        offers = [
            Representation(each, is_multipart=is_multipart)
            for each in dict.fromkeys((kind, OCTETS))
            for is_multipart in (True, False)
        ]
        form = choose(ranges, offers)
        if form is None:
            msg = f"the value is sent as {kind}"
            raise NotAcceptableError(msg)
        if found is not None:
            data = stored.value(found)
        else:
            vr, value = bulk_value(stored, places)
            is_swapped = stored.syntax == ExplicitVRBigEndian
            data = swapped(iter([value]), WORDS.get(vr, 1) if is_swapped else 1)
        events.read("bulkdata", target, self._targets.patients([target.study]))
        return _parts(form, [data])

    def rendered(
        self,
        events: Events,
        target: Target,
        ranges: Sequence[MediaType],
        parameters: Sequence[str],
    ) -> Response:
        """Return an instance for the eye: a document as it is, of an image its picture."""
        found, *_ = self._targets.objects(target)
        if found.sop_class_uid == EncapsulatedPDFStorage:
            if choose(ranges, [Representation(_PDF)]) is None:
                msg = f"the document is sent as {_PDF}"
                raise NotAcceptableError(msg)
            return self.bulk(events, target, [MediaType(_PDF)], _DOCUMENT)
        return self.picture(events, target, ranges, parameters)

    def picture(
        self,
        events: Events,
        target: Target,
        ranges: Sequence[MediaType],
        parameters: Sequence[str] = (),
    ) -> Response:
        """Return the PNG that was made of an image, in its own size and window."""
        if "window" in parameters:
            msg = "window is not supported: the picture has the window that the image asks for"
            raise ParameterError(msg)
        if choose(ranges, [Representation(PNG)]) is None:
            msg = f"pictures are sent as {PNG}"
            raise NotAcceptableError(msg)
        path = self._targets.picture(target)
        if not path.is_file():
            msg = "the file of the picture is missing"
            raise NotHereError(msg)
        ignored = sorted(set(parameters).intersection(_NOT_RENDERED))
        remarks = [f"not supported: {', '.join(ignored)}"] if ignored else []
        events.read("picture", target, self._targets.patients([target.study]))
        return Stream(of_file(path), PNG, headers=warned(remarks))

    def _open(self, target: Target) -> StoredHeader:
        found, *_ = self._targets.objects(target)
        return open_stored(found.path)


def _as_stored(
    each: StoredObject, target: Target, ranges: Sequence[MediaType]
) -> Representation | None:
    """Return in which form an object may go: it is sent in the transfer syntax that it has."""
    if not each.transfer_syntax_uid:
        return None
    offers = [Representation(DICOM, each.transfer_syntax_uid, is_multipart=True)]
    if target.instance is not None:
        offers.append(Representation(DICOM, each.transfer_syntax_uid))
    return choose(ranges, offers)


def _stored_in(objects: Sequence[StoredObject]) -> str:
    syntaxes = sorted({each.transfer_syntax_uid for each in objects})
    return (
        f"the objects are sent as {DICOM} in the transfer syntax they have: {', '.join(syntaxes)}"
    )


def _file(each: StoredObject, transfer: Transfer) -> Iterator[bytes]:
    yield from of_file(each.path)
    transfer.sent(each)


def _listed(objects: Sequence[StoredObject], root: str) -> Iterator[bytes]:
    """Yield a JSON array, one object at a time; one whose file went away meanwhile is left out."""
    yield b"["
    separator = ""
    for each in objects:
        try:
            stored = open_stored(each.path)
        except NotHereError:
            continue
        known = known_of(
            SOPClassUID=each.sop_class_uid,
            SOPInstanceUID=each.sop_instance_uid,
            StudyInstanceUID=each.study_instance_uid,
        )
        series = stored.text("SeriesInstanceUID")
        at = Target(each.study_instance_uid, series, each.sop_instance_uid)
        yield f"{separator}{text_of(stored, f'{root}/{at.path}', known)}".encode()
        separator = ",\n"
    yield b"]"


def _forms_of_frames(stored: StoredHeader, number: int) -> list[Representation]:
    """Return in which forms frames can go, our choice first.

    Compressed ones go as plain bytes, too, where that transfer syntax is accepted by name or by
    `*`: viewers ask so, and look at the transfer syntax alone.
    """
    default = str(ExplicitVRLittleEndian)
    ways = [True, False] if number == 1 else [True]
    if stored.syntax in NATIVE:
        return [Representation(OCTETS, default, default, way) for way in ways]
    kind, syntax = FRAME_TYPES.get(stored.syntax, OCTETS), str(stored.syntax)
    return [
        *(Representation(kind, syntax, None, way) for way in ways),
        *(Representation(OCTETS, syntax, default, way) for way in ways),
    ]


def _kind_of(stored: StoredHeader, path: str) -> str:
    is_pdf = path == _DOCUMENT and stored.text("MIMETypeOfEncapsulatedDocument") == _PDF
    return _PDF if is_pdf else OCTETS


def _parts(form: Representation, data: Sequence[Iterator[bytes]]) -> Response:
    if not form.is_multipart:
        return Stream(data[0], form.content_type)
    writer = Writer(form.kind)
    return Stream(writer.body(Part(form.content_type, each) for each in data), writer.media_type)
