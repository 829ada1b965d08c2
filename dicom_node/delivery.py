"""The loop that sends results: claims due rows, sends, records, backs off.

One thread per destination, so that a slow or hanging PACS keeps no other one waiting.
"""

import logging
import os
import socket
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from dicom_node.backoff import backoff
from dicom_node.commitment.asking import Asker
from dicom_node.commitment.reporting import Reporter
from dicom_node.loop import run_loop
from dicom_node.planning import ENDED, plan_substitute
from dicom_node.rejection import end_if_withdrawn
from dicom_node.senders.base import Parcel, Receiver, Sender, SendResult, Verdict
from dicom_node.senders.cstore import CStoreSender
from models.audit import AuditAction, record
from models.base import advance, utc_now
from models.delivery import Delivery, Destination
from models.result import Artifact, ReportedAnalysis
from models.sections import DeliverySettings
from models.session import Database
from models.settings import Settings
from models.states import ArtifactKind, DeliveryState

log = logging.getLogger(__name__)


class Deliverer:
    """Delivers to one destination; `step` does one batch."""

    def __init__(
        self, settings: Settings, database: Database, sender: Sender, destination_id: int
    ) -> None:
        self._settings: DeliverySettings = settings.delivery
        self._root: Path = settings.artifact_dir
        self._with_fallback = settings.destinations_by_captures("fallback")
        self._with_commitment = settings.destinations_with_commitment
        self._database = database
        self._sender = sender
        self._destination_id = destination_id
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{threading.get_ident()}"

    def step(self) -> bool:
        """Send one batch of due artifacts; return whether there was any."""
        with self._database.read() as session:
            due = self._due_ids(session)
            expired = self._expired_ids(session)
        for delivery_id in expired:
            self._take_back(delivery_id)
        if not due:
            return bool(expired)
        receiver, parcels = self._claim(due)
        if not parcels:
            return True  # another deliverer was faster
        open_parcels = {parcel.delivery_id for parcel in parcels}
        try:
            for result in self._sender.send(receiver, parcels):
                open_parcels.discard(result.delivery_id)
                self._record(receiver, result)
        finally:
            for delivery_id in sorted(open_parcels):
                error = "the sender failed before this object; the log has the traceback"
                self._record(receiver, SendResult(delivery_id, Verdict.RETRY, error=error))
        return True

    def _due_ids(self, session: Session) -> list[int]:
        """Return due deliveries, segmentations first, a report only after its segmentations."""
        segmentation, sibling = aliased(Artifact), aliased(Delivery)
        open_segmentation = (
            select(sibling.id)
            .join(segmentation, sibling.artifact_id == segmentation.id)
            .join(ReportedAnalysis, ReportedAnalysis.analysis_id == segmentation.analysis_id)
            .where(
                ReportedAnalysis.artifact_id == Artifact.id,
                segmentation.kind == ArtifactKind.SEG,
                sibling.destination_id == self._destination_id,
                sibling.state.not_in(ENDED),
            )
        )
        query = (
            select(Delivery.id)
            .join(Artifact, Delivery.artifact_id == Artifact.id)
            .where(
                Delivery.destination_id == self._destination_id,
                Delivery.state == DeliveryState.DUE,
                Delivery.next_attempt_at <= utc_now(),
                (Artifact.kind != ArtifactKind.SR) | ~open_segmentation.exists(),
            )
            .order_by(Delivery.next_attempt_at, Delivery.id)
            .limit(self._settings.batch)
        )
        return list(session.scalars(query))

    def _expired_ids(self, session: Session) -> list[int]:
        query = select(Delivery.id).where(
            Delivery.destination_id == self._destination_id,
            Delivery.state == DeliveryState.SENDING,
            Delivery.lease_until < utc_now(),
        )
        return list(session.scalars(query))

    def _take_back(self, delivery_id: int) -> None:
        """Make due again what a dead sender had; an object that did arrive may arrive again."""
        with self._database.write() as session:
            delivery = session.get_one(Delivery, delivery_id)
            if delivery.state is DeliveryState.SENDING:
                advance(session, delivery, DeliveryState.DUE, lease_owner=None, lease_until=None)

    def _claim(self, ids: list[int]) -> tuple[Receiver, list[Parcel]]:
        """Lease the rows for the time that a batch may take at worst."""
        worst = self._settings.lease_seconds + self._settings.timeout_seconds * len(ids)
        until = utc_now() + timedelta(seconds=worst)
        parcels: list[Parcel] = []
        with self._database.write() as session:
            destination = session.get_one(Destination, self._destination_id)
            receiver = Receiver(
                destination.name, destination.ae_title, destination.host, destination.port
            )
            for delivery_id in ids:
                delivery = session.get_one(Delivery, delivery_id)
                if end_if_withdrawn(session, delivery):
                    continue
                if delivery.state is DeliveryState.DUE and advance(
                    session,
                    delivery,
                    DeliveryState.SENDING,
                    lease_owner=self._owner,
                    lease_until=until,
                    attempts=delivery.attempts + 1,
                ):
                    parcels.append(self._parcel(delivery))
        return receiver, parcels

    def _parcel(self, delivery: Delivery) -> Parcel:
        artifact = delivery.artifact
        return Parcel(
            delivery_id=delivery.id,
            path=self._root / artifact.storage_key,
            sop_class_uid=artifact.sop_class_uid or "",
            sop_instance_uid=artifact.sop_instance_uid or "",
        )

    def _record(self, receiver: Receiver, result: SendResult) -> None:
        with self._database.write() as session:
            delivery = session.get_one(Delivery, result.delivery_id)
            if delivery.state is not DeliveryState.SENDING or delivery.lease_owner != self._owner:
                return  # the lease expired and somebody else has it now
            to_commit = receiver.name in self._with_commitment
            self._advance(session, delivery, result, to_commit=to_commit)
            if result.class_refused and receiver.name in self._with_fallback:
                plan_substitute(session, delivery)
            artifact = delivery.artifact
            record(
                session,
                AuditAction.ARTIFACT_SENT,
                result.verdict.value,
                called_aet=receiver.ae_title,
                peer=f"{receiver.host}:{receiver.port}",
                sop_instance_uid=artifact.sop_instance_uid,
                status=result.status,
                details={"delivery": delivery.id, "attempt": delivery.attempts},
            )
        if result.verdict is not Verdict.SENT:
            log.warning("delivery %d: %s: %s", delivery.id, result.verdict.value, result.error)

    def _advance(
        self, session: Session, delivery: Delivery, result: SendResult, *, to_commit: bool
    ) -> None:
        common: dict[str, object] = {
            "lease_owner": None,
            "lease_until": None,
            "error": result.error,
            "status": result.status,
        }
        if result.verdict is Verdict.SENT:
            pause = timedelta(seconds=self._settings.commitment_delay_seconds)
            ask_at = utc_now() + pause if to_commit else None
            common |= {"sent_at": utc_now(), "commitment_due_at": ask_at}
            advance(session, delivery, DeliveryState.SENT, **common)
        elif result.verdict is Verdict.REJECTED:
            advance(session, delivery, DeliveryState.REJECTED, **common)
        elif delivery.attempts >= self._settings.max_attempts:
            advance(session, delivery, DeliveryState.DEAD, **common)
        else:
            due = utc_now() + timedelta(seconds=backoff(self._settings, delivery.attempts))
            advance(session, delivery, DeliveryState.DUE, next_attempt_at=due, **common)


def synchronise_destinations(database: Database, settings: Settings) -> None:
    """Make the destination rows say what the settings say; what is gone there is disabled here."""
    with database.write() as session:
        known = {row.name: row for row in session.scalars(select(Destination))}
        for wanted in settings.destinations:
            row = known.pop(wanted.name, None) or Destination(name=wanted.name)
            row.ae_title, row.host, row.port = wanted.ae_title, wanted.host, wanted.port
            row.enabled = True
            session.add(row)
        for row in known.values():
            row.enabled = False
            _end_deliveries(session, row)


def _end_deliveries(session: Session, destination: Destination) -> None:
    """End what is due to a destination that was removed: nobody would ever send it."""
    query = select(Delivery).where(
        Delivery.destination_id == destination.id, Delivery.state == DeliveryState.DUE
    )
    for delivery in session.scalars(query):
        advance(session, delivery, DeliveryState.DEAD, error="the destination was removed")


def retry(database: Database, delivery_id: int | None = None) -> int:
    """Make a rejected or dead delivery due again (None: all of them); return how many it were."""
    query = select(Delivery).where(
        Delivery.state.in_((DeliveryState.REJECTED, DeliveryState.DEAD)),
        Delivery.destination_id.in_(select(Destination.id).where(Destination.enabled)),
    )
    if delivery_id is not None:
        query = query.where(Delivery.id == delivery_id)
    with database.write() as session:
        return sum(_due_again(session, delivery) for delivery in session.scalars(query).all())


def _due_again(session: Session, delivery: Delivery) -> bool:
    """Make a delivery due with new attempts, and remember that the object may have arrived.

    A rejected one did not; after an attempt without an answer nobody knows (models.rejection).
    """
    tried = min(delivery.attempts, 1) if delivery.state is DeliveryState.DEAD else 0
    return advance(session, delivery, DeliveryState.DUE, attempts=tried, next_attempt_at=utc_now())


def _steps(settings: Settings, database: Database) -> dict[str, Callable[[], bool]]:
    """Return the step of every loop by name: sending, and Storage Commitment both ways."""
    sender = CStoreSender.of(settings)
    with database.read() as session:
        rows = session.scalars(select(Destination).where(Destination.enabled)).all()
    steps: dict[str, Callable[[], bool]] = {}
    for row in rows:
        steps[f"deliver-{row.id}"] = Deliverer(settings, database, sender, row.id).step
        if row.name in settings.destinations_with_commitment:
            steps[f"commit-{row.id}"] = Asker(settings, database, row.id).step
    provider = settings.commitment_provider
    for peer in provider.peers if provider.enabled else ():
        steps[f"report-{peer.ae_title}"] = Reporter(settings, database, peer).step
    return steps


def run(settings: Settings, database: Database, stop: threading.Event) -> None:
    """Deliver to every enabled destination until `stop` is set."""
    steps = _steps(settings, database)
    threads = [
        threading.Thread(
            target=lambda step=step: run_loop(step, stop, settings.delivery.poll_seconds),
            name=name,
        )
        for name, step in steps.items()
    ]
    for thread in threads:
        thread.start()
    stop.wait()
    for thread in threads:
        thread.join()
