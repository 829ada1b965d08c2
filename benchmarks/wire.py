"""A cheap C-STORE sender: PDUs are made once, and only the SOP Instance UID differs per object.

One process per sender. It costs little beside the receiver that is measured: no file is read, no
data set encoded, nothing waits but for the response.
"""

import socket
import struct
import time
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Final

import numpy as np
from pydicom.dataset import Dataset, FileDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

_APPLICATION_CONTEXT: Final = b"1.2.840.10008.3.1.1.1"
_CONTEXT_ID: Final = 1
_COLUMNS: Final = 2048


def _uid(series: int, number: int) -> str:
    """Return a UID of 40 characters."""
    return f"2.25.1{time.time_ns():019d}{series:05d}{number:010d}"[:40]


def data_set(size_bytes: int) -> Dataset:
    """Return a DX image with about `size_bytes` of pixel data: noise, which nothing compresses."""
    ds = FileDataset("", {}, preamble=None)
    rows = max(1, size_bytes // (2 * _COLUMNS))
    ds.SOPClassUID = DigitalXRayImageStorageForPresentation
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = ds.AcquisitionDate = "20260102"
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = ds.AcquisitionTime = "101112"
    ds.AccessionNumber, ds.Modality, ds.PresentationIntentType = "A1", "DX", "FOR PRESENTATION"
    ds.Manufacturer, ds.InstitutionName, ds.ManufacturerModelName = "Bench", "Bench", "Bench"
    ds.StudyDescription = ds.SeriesDescription = "Chest"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "B^B", "B1", "19600101", "O"
    ds.PatientAge, ds.BodyPartExamined, ds.ViewPosition = "066Y", "CHEST", "PA"
    ds.SeriesNumber, ds.InstanceNumber, ds.PatientOrientation = 1, 1, ["L", "F"]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit = rows, _COLUMNS, 16, 16, 15
    ds.PixelRepresentation, ds.PixelSpacing = 0, [0.14, 0.14]
    ds.WindowCenter, ds.WindowWidth = 32768, 65535
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "US"
    noise = np.random.default_rng(0).integers(0, 1 << 16, rows * _COLUMNS, dtype=np.uint16)
    ds.PixelData = noise.tobytes()
    return ds


@dataclass
class Plan:
    """What one sender does, and what it found."""

    host: str
    port: int
    called_aet: str
    size_bytes: int
    images: int
    sender: int
    latencies: list[float] = field(default_factory=list)  # seconds from first byte to response
    statuses: dict[int, int] = field(default_factory=dict)


class Association:
    """One association over a blocking socket (PS3.8 9.3), one presentation context."""

    def __init__(self, plan: Plan) -> None:
        self.sock = socket.create_connection((plan.host, plan.port), 30)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.sendall(_associate_rq(plan.called_aet))
        kind, body = self.read_pdu()
        if kind != 2:  # noqa: PLR2004  A-ASSOCIATE-AC
            msg = f"the association was refused (PDU type {kind})"
            raise ConnectionError(msg)
        at = body.index(b"\x51\x00\x00\x04")  # Maximum Length Sub-Item (PS3.8 D.1)
        self.max_pdu = struct.unpack(">L", body[at + 4 : at + 8])[0] or 1 << 20

    def read_pdu(self) -> tuple[int, bytes]:
        """Return type and body of the next PDU."""
        head = self._read(6)
        return head[0], self._read(struct.unpack(">L", head[2:])[0])

    def _read(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            part = self.sock.recv(length - len(data))
            if not part:
                msg = "the receiver closed the connection"
                raise ConnectionError(msg)
            data += part
        return data

    def release(self) -> None:
        """Release and close."""
        self.sock.sendall(b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00")
        self.read_pdu()
        self.sock.close()


def _item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(body)) + body


def _associate_rq(called_aet: str) -> bytes:
    """Return an A-ASSOCIATE-RQ (PS3.8 9.3.2)."""
    syntaxes = _item(0x30, str(DigitalXRayImageStorageForPresentation).encode())
    syntaxes += _item(0x40, str(ExplicitVRLittleEndian).encode())
    user = _item(0x51, struct.pack(">L", 1 << 17)) + _item(0x52, b"1.2.826.0.1.3680043.8.498.1")
    body = struct.pack(">HH", 1, 0) + called_aet.ljust(16).encode() + b"BENCH".ljust(16) + bytes(32)
    body += _item(0x10, _APPLICATION_CONTEXT)
    body += _item(0x20, bytes((_CONTEXT_ID, 0, 0, 0)) + syntaxes) + _item(0x50, user)
    return b"\x01\x00" + struct.pack(">L", len(body)) + body


def _element(tag: int, value: bytes) -> bytes:
    return struct.pack("<HHL", 0, tag, len(value)) + value


def _command(sop_instance_uid: str, message_id: int) -> bytes:
    """Return a C-STORE-RQ command set (PS3.7 9.3.1.1), Implicit VR Little Endian."""
    sop_class = str(DigitalXRayImageStorageForPresentation).encode()
    body = _element(0x0002, sop_class + b"\0" * (len(sop_class) % 2))
    body += _element(0x0100, b"\x01\x00") + _element(0x0110, struct.pack("<H", message_id))
    body += _element(0x0700, b"\x00\x00") + _element(0x0800, b"\x00\x00")
    body += _element(0x1000, sop_instance_uid.encode())
    return _element(0x0000, struct.pack("<L", len(body))) + body


class Template:
    """The bytes of one C-STORE for a given PDU length, with the places of the UIDs in them."""

    def __init__(self, size_bytes: int, max_pdu: int) -> None:
        ds = data_set(size_bytes)
        marks = {"SOPInstanceUID": "8", "StudyInstanceUID": "7", "SeriesInstanceUID": "6"}
        for keyword, digit in marks.items():
            setattr(ds, keyword, digit * 40)
        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, False
        write_dataset(buffer, ds)
        raw = buffer.getvalue()
        self.size_bytes = len(raw)
        self.wire = bytearray(_pdu(_command("8" * 40, 1), 3))
        room = max_pdu - 6
        for start in range(0, len(raw), room):
            part = raw[start : start + room]
            self.wire += _pdu(part, 2 if start + room >= len(raw) else 0)
        self._places = {key: _places(self.wire, digit * 40) for key, digit in marks.items()}

    def of(self, study: str, series: str, instance: str) -> bytearray:
        """Return the bytes with these UIDs; the same buffer each time."""
        values = {
            "SOPInstanceUID": instance,
            "StudyInstanceUID": study,
            "SeriesInstanceUID": series,
        }
        for keyword, value in values.items():
            for place in self._places[keyword]:
                self.wire[place : place + 40] = value.encode()
        return self.wire


def _pdu(fragment: bytes, control: int) -> bytes:
    """Return a P-DATA-TF PDU with one PDV (PS3.8 9.3.5)."""
    item = struct.pack(">LBB", len(fragment) + 2, _CONTEXT_ID, control) + fragment
    return b"\x04\x00" + struct.pack(">L", len(item)) + item


def _places(wire: bytearray, mark: str) -> list[int]:
    found, at = [], wire.find(mark.encode(), 0, 1 << 16)
    while at >= 0:
        found.append(at)
        at = wire.find(mark.encode(), at + 40, 1 << 16)
    return found


def _work(plan: Plan, pipe: Connection) -> None:
    """Associate, wait for the start, send, report."""
    association = Association(plan)
    template = Template(plan.size_bytes, association.max_pdu)
    pipe.send(template.size_bytes)
    pipe.recv()
    study = series = ""
    for number in range(plan.images):
        if number % 2 == 0:  # two images per study, as a chest examination has
            study, series = _uid(plan.sender, 2 * number), _uid(plan.sender, 2 * number + 1)
        wire = template.of(study, series, _uid(plan.sender, 4 * plan.images + number))
        begun = time.perf_counter()
        association.sock.sendall(wire)
        _, body = association.read_pdu()
        plan.latencies.append(time.perf_counter() - begun)
        at = body.index(b"\x00\x00\x00\x09\x02\x00\x00\x00")  # (0000,0900) Status, US
        status = struct.unpack("<H", body[at + 8 : at + 10])[0]
        plan.statuses[status] = plan.statuses.get(status, 0) + 1
    association.release()
    pipe.send(plan)


@dataclass(frozen=True)
class Measured:
    """One run: `seconds` of wall time between the common start and the last response."""

    images: int
    bytes_sent: int
    seconds: float
    latencies: list[float]
    refused: int

    @property
    def megabytes_per_second(self) -> float:
        """Return data-set bytes per second, in 10^6 bytes."""
        return self.bytes_sent / self.seconds / 1e6

    @property
    def images_per_second(self) -> float:
        """Return answered images per second."""
        return self.images / self.seconds


def send(port: int, called_aet: str, size_bytes: int, images: int, senders: int) -> Measured:
    """Send `images` in all, by `senders` processes at once."""
    context = get_context("fork")
    pipes, processes = [], []
    for sender in range(senders):
        ours, theirs = context.Pipe()
        plan = Plan("127.0.0.1", port, called_aet, size_bytes, images // senders, sender)
        process = context.Process(target=_work, args=(plan, theirs), daemon=True)
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    size = [pipe.recv() for pipe in pipes].pop()
    begun = time.perf_counter()
    for pipe in pipes:
        pipe.send(None)
    plans: list[Plan] = [pipe.recv() for pipe in pipes]
    seconds = time.perf_counter() - begun
    for process in processes:
        process.join()
    answered = sum(sum(plan.statuses.values()) for plan in plans)
    good = sum(plan.statuses.get(0, 0) for plan in plans)
    latencies = sorted(value for plan in plans for value in plan.latencies)
    return Measured(answered, answered * size, seconds, latencies, answered - good)
