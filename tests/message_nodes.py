"""A node that sends messages: every role in one process, over one listener."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from pydicom import dcmread
from rejection_bench import Bench
from sqlalchemy import select, update
from typing_extensions import override

from dicom_node.queue import JobQueue
from models.base import utc_now
from models.delivery import Delivery, Destination
from models.imaging import Instance, Study
from models.job import Job
from models.reasons import Reason
from models.result import Artifact
from models.states import ArtifactKind, DeliveryState, InstanceState
from worker.sandbox import Sandbox

Listen = Callable[..., Any]


class MessageBench(Bench):
    """The node; lateral views are not analysed, and a receiver that is away is borne."""

    @override
    def finish_analysis(self, job: Job) -> None:
        (row,) = self.all(Instance, Instance.id == job.instance_id)
        if dcmread(self.settings.spool_dir / row.storage_key).ViewPosition != "LL":
            super().finish_analysis(job)
            return
        reason = Reason.LATERAL_VIEW
        self.store.store_no_result(job.id, InstanceState.NOT_ANALYSED, reason, "")

    @override
    def run(self) -> None:
        """Let every role work until nothing changes."""
        before = None
        while before != (before := self._stand()):
            self.dispatch()
            self.analyse()
            self.compare()
            self.report()
            self.dispatch()
            self.deliver()

    def _stand(self) -> tuple[object, ...]:
        """Return the states of everything."""
        tables = (Job, Study, Delivery)
        return tuple((it.id, it.state) for table in tables for it in self.all(table))

    def of_kind(self, kind: ArtifactKind) -> list[tuple[int | None, DeliveryState]]:
        """Return revision and state of the deliveries of a kind of message, in order."""
        query = select(Artifact.revision, Delivery.state).join(Delivery).order_by(Delivery.id)
        with self.database.read() as session:
            rows = session.execute(query.where(Artifact.kind == kind)).all()
        return [(revision, state) for revision, state in rows]

    def make_due(self) -> None:
        """Let every pause be over."""
        past = utc_now() - timedelta(seconds=1)
        with self.database.write() as session:
            session.execute(update(Delivery).values(next_attempt_at=past))
            paused = Destination.retry_at.is_not(None)
            session.execute(update(Destination).where(paused).values(retry_at=past))


@contextmanager
def message_node(
    listen: Listen,
    broker_url: str,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    *destinations: dict[str, Any],
    **sections: Any,
) -> Iterator[MessageBench]:
    """Yield a node with these destinations; keyword arguments are sections of the settings."""
    monkeypatch.setenv("DICOM_NODE_DESTINATIONS", json.dumps(destinations))
    monkeypatch.setenv("DICOM_NODE_DISPATCH__SETTLE_SECONDS", "0")
    delivery = {"timeout_seconds": 2.0} | sections.pop("delivery", {})
    running = listen(sections={"delivery": delivery, **sections})
    queue = JobQueue(broker_url)
    try:
        yield MessageBench(running.port, running.database, running.settings, queue, sandbox)
    finally:
        queue.close()
