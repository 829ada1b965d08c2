"""The sender of the studies, and the PACS that is asked when results came."""

import http.client
import json
import threading
import time
from contextlib import suppress
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE

from dicom_node.demo.pacs import OrthancPacs

SEG: Final = "1.2.840.10008.5.1.4.1.1.66.4"
SR: Final = "1.2.840.10008.5.1.4.1.1.88.34"
_LOOK_SECONDS: Final = 0.02
_TIMEOUT_SECONDS: Final = 120.0


def send(port: int, calling: str, ds: Dataset) -> float:
    """C-STORE one image over an association of its own; return when it was answered (monotonic).

    Ends the benchmark when it is not taken.
    """
    ae = AE(calling)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = _TIMEOUT_SECONDS
    ae.add_requested_context(str(ds.SOPClassUID), ExplicitVRLittleEndian)
    assoc = ae.associate("127.0.0.1", port, ae_title="NODE")
    if not assoc.is_established:
        msg = f"port {port} takes no association"
        raise SystemExit(msg)
    try:
        answer = assoc.send_c_store(ds)
        answered = time.monotonic()
    finally:
        assoc.release()
    if answer.get("Status") != 0:
        msg = f"an image was not taken: {answer.get('Status')}"
        raise SystemExit(msg)
    return answered


class Arrivals:
    """Follows the list of changes of an Orthanc, fifty times a second over one connection."""

    def __init__(self, pacs: OrthancPacs) -> None:
        self._port, self._last = pacs.http_port, 0
        self._came: dict[str, dict[str, float]] = {}
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def wait(self, studies: set[str], seconds: float) -> dict[str, float]:
        """Return when SEG and SR of each study were both there. Ends the benchmark after a while.

        Times are monotonic, and late by the interval of the look at most.
        """

        def complete() -> bool:
            return all({SEG, SR} <= self._came.get(uid, {}).keys() for uid in studies)

        with self._changed:
            if not self._changed.wait_for(complete, seconds):
                there = sum({SEG, SR} <= self._came.get(uid, {}).keys() for uid in studies)
                msg = (
                    f"after {seconds:.0f} s results of {there} of {len(studies)} studies are there"
                )
                raise SystemExit(msg)
            return {uid: max(self._came[uid].values()) for uid in studies}

    def _follow(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            while not self._stop.is_set():
                with suppress(OSError, http.client.HTTPException):
                    if self._look(connection):
                        continue
                self._stop.wait(_LOOK_SECONDS)
        finally:
            connection.close()

    def _look(self, connection: http.client.HTTPConnection) -> bool:
        """Read one page of changes; return whether there are more."""
        page = _get(connection, f"/changes?since={self._last}&limit=100")
        now = time.monotonic()
        for change in page["Changes"]:
            if change["ChangeType"] == "NewInstance":
                tags = _get(connection, f"/instances/{change['ID']}/simplified-tags")
                with self._changed:
                    study = self._came.setdefault(tags["StudyInstanceUID"], {})
                    study[tags["SOPClassUID"]] = now
                    self._changed.notify_all()
        self._last = page["Last"]
        return not page["Done"]

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()


def _get(connection: http.client.HTTPConnection, path: str) -> Any:  # noqa: ANN401  JSON
    connection.request("GET", path)
    return json.loads(connection.getresponse().read())
