"""Decoding of unknown files in a child process that may crash, hang or run out of memory."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NoReturn, Self

import numpy as np
from pydicom.dataset import Dataset

from models.reasons import Reason
from models.settings import Settings
from worker.errors import AnalysisFailed, DecoderStartError, NotAnalysable
from worker.grey_scale import GreyScale
from worker.types import ChestImage, Orientation, Spacing, SpacingBasis

_START_SECONDS: Final = 60.0
_MAX_DESCRIPTION: Final = 16 << 20
_BYTES_PER_PIXEL: Final = 2
_ENVIRONMENT: Final = {
    # Thread pools cost address space, which is capped, and a child decodes one image at a time.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
}


class _ChildDiedError(Exception):
    """The child closed its end before the whole reply came."""


class Sandbox:
    """One persistent decoding child; started on first use, again after it died or was forked away.

    Not for use by several threads at once, and the thread that uses it first must live as long as
    it is used: the kernel ends the child with the thread that started it. Works inside daemonic
    (prefork) workers.
    """

    def __init__(self, settings: Settings) -> None:
        self._timeout = settings.decode.timeout_seconds
        self._max_pixels = settings.decode.max_pixels
        self._arguments = json.dumps(
            {
                "memory_bytes": settings.decode.memory_bytes,
                "limits": {
                    "min_side_pixels": settings.analysis.min_side_pixels,
                    "max_pixels": settings.decode.max_pixels,
                    "uid_root": settings.objects.uid_root,
                    "min_age_years": settings.analysis.min_age_years,
                    "secondary_capture": settings.analysis.secondary_capture,
                },
            }
        )
        self._child: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Process id of the child, if one runs."""
        running = self._child is not None and self._child.poll() is None
        return self._child.pid if running and self._child is not None else None

    def load(self, path: Path) -> ChestImage:
        """Decode one file onto the display scale.

        Raises NotAnalysable when the file must not get a number, AnalysisFailed when decoding it
        crashed, took too long or too much memory.
        """
        description, array = self._ask("load", path)
        if description["outcome"] != "image":
            _raise_outcome(description)
        return _image(description, array)

    def header(self, path: Path) -> Dataset:
        """Return the normalised header of any DICOM file. Raises as `load`."""
        description, _ = self._ask("header", path)
        if description["outcome"] != "header":
            _raise_outcome(description)
        return _dataset(description["header"])

    def fingerprint(self, path: Path) -> tuple[str, Dataset]:
        """Return the pixel hash and the normalised header of a file. Raises as `load`."""
        description, _ = self._ask("fingerprint", path)
        if description["outcome"] != "fingerprint":
            _raise_outcome(description)
        return description["pixel_sha256"], _dataset(description["header"])

    def close(self) -> None:
        """End the child. Using the sandbox again starts a new one."""
        child, self._child = self._child, None
        if child is None or self._owner != os.getpid():
            return
        child.kill()
        child.wait()
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def _ask(self, operation: str, path: Path) -> tuple[dict[str, Any], bytearray]:
        with path.open("rb") as file:
            file.read(1)  # a missing or unreadable file is no fault of the image: OSError
        request = json.dumps({"operation": operation, "path": str(path.absolute())})
        try:
            return self._exchange(request)
        except _ChildDiedError:
            if self._end_of_child() != -signal.SIGKILL:
                raise AnalysisFailed(Reason.DECODER_CRASH) from None
        # Somebody else's SIGKILL (an operator, the kernel short of memory) is not the file's fault.
        try:
            return self._exchange(request)
        except _ChildDiedError:
            self.close()
            raise AnalysisFailed(
                Reason.DECODE_MEMORY, "The decoder was killed twice, as when memory runs out."
            ) from None

    def _exchange(self, request: str) -> tuple[dict[str, Any], bytearray]:
        """Send one request and read its reply; any interruption ends the child."""
        child = self._running_child()
        deadline = time.monotonic() + self._timeout
        try:
            _write(child, request.encode() + b"\n")
            description = _read_description(child, deadline)
            rows, columns = description.get("shape", (0, 0))
            room = min(rows * columns, self._max_pixels) * _BYTES_PER_PIXEL
            return description, _read(child, room, deadline)
        except TimeoutError:
            self.close()
            raise AnalysisFailed(Reason.DECODE_TIMEOUT) from None
        except _ChildDiedError:
            raise
        except BaseException:  # a soft time limit of the task may strike anywhere: never reuse
            self.close()
            raise

    def _running_child(self) -> subprocess.Popen[bytes]:
        if self._owner == os.getpid() and self._child is not None and self._child.poll() is None:
            return self._child
        self.close()
        self._owner = os.getpid()
        self._child = subprocess.Popen(  # noqa: S603  our own interpreter and module
            [sys.executable, "-m", "worker.decode", self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=os.environ | _ENVIRONMENT,
            start_new_session=True,
        )
        try:
            _read_description(self._child, time.monotonic() + _START_SECONDS)
        except (_ChildDiedError, TimeoutError) as error:
            self.close()
            msg = "The decoder process does not start."
            raise DecoderStartError(msg) from error
        except BaseException:
            self.close()
            raise
        return self._child

    def _end_of_child(self) -> int:
        """Reap the child and return how it ended, negative for a signal."""
        child = self._child
        code = 0
        if child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = child.wait(timeout=5)
        self.close()
        return code


def _raise_outcome(description: dict[str, Any]) -> NoReturn:
    kind = NotAnalysable if description["outcome"] == "not_analysable" else AnalysisFailed
    raise kind(Reason(description["reason"]), description.get("detail"))


def _image(description: dict[str, Any], array: bytearray) -> ChestImage:
    spacing = description["spacing"]
    return ChestImage(
        pixels=np.frombuffer(array, dtype=np.uint16).reshape(description["shape"]),
        header=_dataset(description["header"]),
        spacing=None
        if spacing is None
        else Spacing(
            float(spacing["row_mm"]), float(spacing["column_mm"]), SpacingBasis(spacing["basis"])
        ),
        orientation=Orientation(**description["orientation"]),
        row_height_over_width=float(description["row_height_over_width"]),
        notes=tuple(description["notes"]),
        grey_scale=GreyScale.of_json(description["grey_scale"]),
    )


def _dataset(model: dict[str, Any]) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # illegal UIDs are carried; the message would quote them
        return Dataset.from_json(model)


def _write(child: subprocess.Popen[bytes], data: bytes) -> None:
    if child.stdin is None:
        raise _ChildDiedError
    try:
        child.stdin.write(data)
    except BrokenPipeError:
        raise _ChildDiedError from None


def _read_description(child: subprocess.Popen[bytes], deadline: float) -> dict[str, Any]:
    length = int.from_bytes(_read(child, 8, deadline), "big")
    if length > _MAX_DESCRIPTION:
        raise _ChildDiedError
    description: dict[str, Any] = json.loads(_read(child, length, deadline))
    return description


def _read(child: subprocess.Popen[bytes], length: int, deadline: float) -> bytearray:
    """Read exactly `length` bytes. Raises TimeoutError at the deadline, _ChildDiedError at EOF."""
    if child.stdout is None:
        raise _ChildDiedError
    descriptor = child.stdout.fileno()
    data = bytearray(length)
    view = memoryview(data)
    done = 0
    while done < length:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([descriptor], [], [], left)[0]:
            raise TimeoutError
        count = os.readv(descriptor, [view[done:]])
        if count == 0:
            raise _ChildDiedError
        done += count
    return data
