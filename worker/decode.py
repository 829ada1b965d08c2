"""The child process that touches unknown files: `python -m worker.decode`.

A codec that crashes, hangs or eats memory takes this process with it and nothing else. Requests
come as JSON lines on stdin. A reply on stdout is an 8-byte big-endian length, that many bytes of
JSON, and then the bytes of the one array that the JSON announces. Nothing is ever unpickled.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, BinaryIO, Final

from pydicom.dataset import Dataset

from models.reasons import Reason
from worker import fingerprint, gate, header, pixels
from worker.errors import NotAnalysable
from worker.types import ChestImage

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h

Reply = tuple[dict[str, Any], bytes | memoryview]


def main() -> None:
    """Answer requests until stdin closes. The settings stand in the first argument as JSON."""
    settings = json.loads(sys.argv[1])
    limits = gate.Limits(**settings["limits"])
    _die_with_parent()
    requests = sys.stdin.buffer
    replies = _private_stdout()
    _cap_memory(settings["memory_bytes"])
    _send(replies, ({"outcome": "ready"}, b""))
    for line in requests:
        _send(replies, _answer(json.loads(line), limits))


def _answer(request: dict[str, str], limits: gate.Limits) -> Reply:
    path = Path(request["path"])
    try:
        if request["operation"] == "header":
            ds = header.read_data_set(path, pixels=False)
            return {"outcome": "header", "header": _as_json(header.normalised_header(ds))}, b""
        if request["operation"] == "fingerprint":
            return _fingerprint(header.read_data_set(path))
        return _describe(_load(path, limits))
    except NotAnalysable as outcome:
        return {
            "outcome": "not_analysable",
            "reason": outcome.reason.value,
            "detail": outcome.detail,
        }, b""
    except MemoryError:
        return {"outcome": "failed", "reason": Reason.DECODE_MEMORY.value}, b""
    except Exception as error:  # noqa: BLE001  the process edge: a hostile file must get a status
        return {
            "outcome": "not_analysable",
            "reason": Reason.UNREADABLE.value,
            "detail": f"The data set cannot be read ({type(error).__name__}).",
        }, b""


def _load(path: Path, limits: gate.Limits) -> ChestImage:
    """Read, gate, decode, scale: the order in which a file may be refused."""
    ds = header.read_data_set(path)
    gate.check_header(ds, limits)
    stored = pixels.decode_pixels(ds)
    gate.check_contrast(stored)
    image = pixels.chest_image(ds, stored)
    return replace(image, notes=image.notes + gate.notes_of(ds, limits))


def _fingerprint(ds: Dataset) -> Reply:
    description = {
        "outcome": "fingerprint",
        "pixel_sha256": fingerprint.pixel_sha256(ds),
        "header": _as_json(header.normalised_header(ds)),
    }
    return description, b""


def _describe(image: ChestImage) -> Reply:
    description = {
        "outcome": "image",
        "shape": list(image.pixels.shape),
        "header": _as_json(image.header),
        "spacing": None if image.spacing is None else asdict(image.spacing),
        "orientation": asdict(image.orientation),
        "row_height_over_width": image.row_height_over_width,
        "notes": list(image.notes),
        "grey_scale": image.grey_scale.as_json(),
    }
    return description, image.pixels.data.cast("B")


def _as_json(ds: Dataset) -> dict[str, Any]:
    """DICOM JSON model (PS3.18 F.2) of a normalised header."""
    model: dict[str, Any] = ds.to_json_dict()
    return model


def _send(stream: BinaryIO, reply: Reply) -> None:
    description, array = reply
    text = json.dumps(description).encode()
    stream.write(len(text).to_bytes(8, "big") + text)
    stream.write(array)
    stream.flush()


def _private_stdout() -> BinaryIO:
    """Keep stdout for replies alone: codecs print to descriptors 1 and 2 as they like."""
    private = os.fdopen(os.dup(1), "wb")
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)  # their messages quote values of the file, which may be patient data
    return private


def _die_with_parent() -> None:
    """Have the kernel end this process when its parent dies without closing the pipe."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _cap_memory(allowance: int) -> None:
    """Cap the address space at what the program itself takes now, plus the allowance."""
    with Path("/proc/self/statm").open(encoding="ascii") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + allowance, now + allowance))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core holds patient data


if __name__ == "__main__":
    main()
