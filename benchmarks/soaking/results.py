"""When reports arrive in the PACS, and what the node has still to do."""

import threading
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

import sqlalchemy as sa
from pynetdicom.events import Event
from typing_extensions import override

from dicom_node.demo.pacs import OrthancPacs, StoragePacs

SR: Final = "1.2.840.10008.5.1.4.1.1.88.34"
_POLL_SECONDS: Final = 0.5

# What is not done yet, by SQL: the view from outside.
_OPEN: Final = {
    "jobs": "SELECT count(*) FROM job WHERE state IN ('pending', 'leased')",
    "deliveries": "SELECT count(*) FROM delivery WHERE state IN ('due', 'sending')",
    "studies": "SELECT count(*) FROM study WHERE state IN ('open', 'settled', 'reported')",
}


class Arrivals(Protocol):
    """Whoever knows when the reports of a study came."""

    def reports(self) -> dict[str, list[float]]:
        """Return monotonic times of the arrival of each study's SRs."""
        ...


class TimedStoragePacs(StoragePacs):
    """Our own storage SCP, which notes when an SR comes."""

    def __init__(self, folder: Path) -> None:
        self._times: dict[str, list[float]] = {}
        super().__init__(folder)

    @override
    def _store(self, event: Event) -> int:
        status = super()._store(event)
        if event.request.AffectedSOPClassUID == SR:
            study = str(event.dataset.StudyInstanceUID)
            self._times.setdefault(study, []).append(time.monotonic())
        return status

    def reports(self) -> dict[str, list[float]]:
        """Return monotonic times of the arrival of each study's SRs."""
        return dict(self._times)


class OrthancArrivals:
    """Follows the list of changes of an Orthanc; times are those of the look, twice a second."""

    def __init__(self, pacs: OrthancPacs) -> None:
        self._pacs, self._last = pacs, 0
        self._times: dict[str, list[float]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        while not self._stop.is_set():
            with suppress(OSError):
                if not self._look():
                    self._stop.wait(_POLL_SECONDS)

    def _look(self) -> bool:
        """Read one page of changes; return whether there are more."""
        page = self._pacs.get(f"/changes?since={self._last}&limit=200")
        now = time.monotonic()
        for change in page["Changes"]:
            if change["ChangeType"] == "NewInstance":
                tags = self._pacs.get(f"/instances/{change['ID']}/simplified-tags")
                if tags["SOPClassUID"] == SR:
                    self._times.setdefault(tags["StudyInstanceUID"], []).append(now)
        self._last = page["Last"]
        return not page["Done"]

    def reports(self) -> dict[str, list[float]]:
        """Return monotonic times of the arrival of each study's SRs."""
        return dict(self._times)

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()


class Rows:
    """The node's database, asked from outside."""

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(url, poolclass=sa.NullPool)

    def count(self, statement: str) -> int:
        """Return the number that a query gives; a locked database is asked again."""
        while True:
            with suppress(sa.exc.OperationalError), self._engine.connect() as connection:
                return int(connection.execute(sa.text(statement)).scalar_one())
            time.sleep(0.1)

    def analysed(self) -> int:
        """Return how many analyse jobs have ended."""
        return self.count(
            "SELECT count(*) FROM job WHERE kind = 'analyse' AND state NOT IN ('pending', 'leased')"
        )

    def images_of(self, studies: Iterable[str]) -> dict[str, list[str]]:
        """Return state and reason of each image of these studies."""
        query = sa.text(
            "SELECT i.state, coalesce(i.reason, '') FROM instance i JOIN series s "
            "ON i.series_id = s.id JOIN study t ON s.study_id = t.id "
            "WHERE t.study_instance_uid = :uid ORDER BY i.id"
        )
        with self._engine.connect() as connection:
            return {
                uid: [" ".join(row).strip() for row in connection.execute(query, {"uid": uid})]
                for uid in sorted(studies)
            }

    def backlog(self) -> Counter[str]:
        """Return how much is not done yet, by kind."""
        return Counter({name: self.count(query) for name, query in _OPEN.items()})
