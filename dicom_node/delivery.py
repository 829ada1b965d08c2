"""The loop that sends results: claims due rows, sends, records, backs off.

One thread per destination, so that a slow or hanging PACS keeps no other one waiting.
"""

import logging
import os
import secrets
import socket
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta

from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.orm import Session, aliased

from dicom_node import circuit, traces
from dicom_node.backoff import backoff, is_past, longest_lease, longest_pause
from dicom_node.commitment.asking import Asker
from dicom_node.commitment.forgetting import Forgetter
from dicom_node.commitment.reporting import Reporter
from dicom_node.loop import run_loop, wait_for
from dicom_node.message_order import end_if_replaced, is_in_order
from dicom_node.planning import ENDED, plan_substitute
from dicom_node.rejection import end_if_withdrawn
from dicom_node.senders.base import Contact, Parcel, Receiver, Sender, SendResult, Verdict
from dicom_node.senders.chosen import sender_for
from dicom_node.watch import Watch
from dicom_node.worklist.ups.courier import Courier
from dicom_node.worklist.ups.upkeep import Upkeep, synchronise_managers
from models.audit import AuditAction, record
from models.base import advance, utc_now
from models.delivery import Delivery, Destination
from models.result import Artifact, ReportedAnalysis, study_of
from models.sections import DeliverySettings
from models.session import Database
from models.settings import Settings
from models.states import ArtifactKind, CircuitState, DeliveryState

log = logging.getLogger(__name__)

_ERROR_LENGTH = 400


class Deliverer:
    """Delivers to one destination; `step` does one batch."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        sender: Sender,
        destination_id: int,
        stop: threading.Event | None = None,
    ) -> None:
        self._settings: DeliverySettings = settings.delivery
        self._store = settings.artifact_store
        self._with_fallback = settings.destinations_by_captures("fallback")
        self._with_commitment = settings.destinations_with_commitment
        self._database = database
        self._sender = sender
        self._destination_id = destination_id
        self._watch = Watch(settings.delivery, database, destination_id)
        self._stop = stop or threading.Event()
        # Of this object alone: containers may share host name, process and thread ids.
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(8)}"

    def step(self) -> bool:
        """Send one batch of due artifacts; return whether there was any.

        Nothing of a destination that could not be reached is claimed before its pause is over, and
        then one object alone, the one that was tried least.
        """
        with self._database.read() as session:
            destination = session.get_one(Destination, self._destination_id)
            allowed = circuit.allowance(destination, self._settings)
            is_probe = destination.state is not CircuitState.CLOSED
            due = self._due_ids(session, allowed, is_probe=is_probe) if allowed else []
            left_behind = session.scalars(select(Delivery.id).where(self._is_left_behind())).all()
        for delivery_id in left_behind:
            self._take_back(delivery_id)
        if not due:
            return bool(left_behind)
        receiver, parcels = self._claim(due)
        if parcels:  # else another deliverer was faster
            self._send(receiver, parcels)
        return True

    def _send(self, receiver: Receiver, parcels: Sequence[Parcel]) -> None:
        """Send what was claimed and record every result, whatever happens.

        Told to stop, it ends after the object that is on its way.
        """
        open_parcels = {parcel.delivery_id for parcel in parcels}
        results: list[SendResult] = []
        unoffered: list[SendResult] = []
        try:
            for result in traces.offered(
                self._sender.send(receiver, parcels), receiver, self._database
            ):
                open_parcels.discard(result.delivery_id)
                results.append(result)
                if result.contact is not Contact.UNREACHED:
                    self._record(receiver, result)
                if self._stop.is_set():
                    unoffered = [SendResult(key, Verdict.RETRY) for key in sorted(open_parcels)]
                    open_parcels.clear()
                    break
        finally:
            for delivery_id in sorted(open_parcels):
                error = "the sender failed before this object; the log has the traceback"
                self._record(receiver, SendResult(delivery_id, Verdict.RETRY, error=error))
            unreached = [it for it in results if it.contact is Contact.UNREACHED]
            self._put_back([*unreached, *unoffered])
            self._watch.note(receiver, results)

    def _due_ids(self, session: Session, limit: int, *, is_probe: bool) -> list[int]:
        """Return due deliveries, segmentations first, a report only after its segmentations.

        A probe is what was tried least: an object that breaks the receiver keeps no other back.
        """
        order = [Delivery.next_attempt_at, Delivery.id]
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
                is_past(Delivery.next_attempt_at, longest_pause(self._settings)),
                (Artifact.kind != ArtifactKind.SR) | ~open_segmentation.exists(),
                is_in_order(),
            )
            .order_by(*([Delivery.attempts] if is_probe else []), *order)
            .limit(limit)
        )
        return list(session.scalars(query))

    def _is_left_behind(self) -> ColumnElement[bool]:
        """Return the condition that nobody sends a claimed row any more.

        Its sender is dead, or it is ours and our last step broke: between two steps we send none.
        """
        is_over = is_past(Delivery.lease_until, longest_lease(self._settings, self._settings.batch))
        return and_(
            Delivery.destination_id == self._destination_id,
            Delivery.state == DeliveryState.SENDING,
            or_(is_over, Delivery.lease_owner == self._owner),
        )

    def _take_back(self, delivery_id: int) -> None:
        """Make due again what was left behind; an object that did arrive may arrive again."""
        query = select(Delivery).where(Delivery.id == delivery_id, self._is_left_behind())
        with self._database.write() as session:
            delivery = session.scalar(query.with_for_update())
            if delivery is not None:  # else another deliverer was faster, and may send it by now
                advance(session, delivery, DeliveryState.DUE, lease_owner=None, lease_until=None)

    def _claim(self, ids: list[int]) -> tuple[Receiver, list[Parcel]]:
        """Lease the rows for the time that a batch may take at worst."""
        until = utc_now() + timedelta(seconds=longest_lease(self._settings, len(ids)))
        parcels: list[Parcel] = []
        with self._database.write() as session:
            allowed = circuit.enter(session, self._destination_id, self._settings)
            destination = session.get_one(Destination, self._destination_id)
            receiver = Receiver(
                destination.name, destination.ae_title, destination.host, destination.port
            )
            for delivery_id in ids[:allowed]:
                delivery = session.get_one(Delivery, delivery_id)
                if end_if_withdrawn(session, delivery) or end_if_replaced(session, delivery):
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
            if allowed and not parcels:
                circuit.release(session, self._destination_id)
        return receiver, parcels

    def _parcel(self, delivery: Delivery) -> Parcel:
        artifact = delivery.artifact
        return Parcel(
            delivery_id=delivery.id,
            path=self._store.path(artifact.storage_key),
            sop_class_uid=artifact.sop_class_uid or "",
            sop_instance_uid=artifact.sop_instance_uid or "",
        )

    def _put_back(self, results: Sequence[SendResult]) -> None:
        """Make due again what was not offered: the attempt was none, and stays uncounted."""
        if not results:
            return
        with self._database.write() as session:
            for result in results:
                delivery = self._locked(session, result)
                if not self._is_ours(delivery):
                    continue
                advance(
                    session,
                    delivery,
                    DeliveryState.DUE,
                    attempts=delivery.attempts - 1,
                    lease_owner=None,
                    lease_until=None,
                    error=_in_column(result.error),
                    status=None,
                )

    @staticmethod
    def _locked(session: Session, result: SendResult) -> Delivery:
        return session.get_one(Delivery, result.delivery_id, with_for_update=True)

    def _is_ours(self, delivery: Delivery) -> bool:
        """Say whether we still have the lease; else it expired and somebody else has it now."""
        return delivery.state is DeliveryState.SENDING and delivery.lease_owner == self._owner

    def _record(self, receiver: Receiver, result: SendResult) -> None:
        with self._database.write() as session:
            delivery = self._locked(session, result)
            if not self._is_ours(delivery):
                return
            to_commit = receiver.name in self._with_commitment
            self._advance(session, delivery, result, to_commit=to_commit)
            if result.class_refused and receiver.name in self._with_fallback:
                plan_substitute(session, delivery)
            artifact = delivery.artifact
            study = study_of(session, artifact)
            record(
                session,
                AuditAction.ARTIFACT_SENT,
                result.verdict.value,
                called_aet=receiver.ae_title,
                peer=f"{receiver.host}:{receiver.port}",
                study_instance_uid=study.study_instance_uid if study else None,
                sop_instance_uid=artifact.sop_instance_uid,
                status=result.status,
                details={"delivery": delivery.id, "attempt": delivery.attempts},
                patient={"patient_id": study.patient_id} if study else None,
            )
        if result.verdict is not Verdict.SENT:
            # Silence is the destination's: the watch tells of it once, not per object.
            level = logging.INFO if result.contact is Contact.OFFERED else logging.WARNING
            log.log(level, "delivery %d: %s: %s", delivery.id, result.verdict.value, result.error)

    def _advance(
        self, session: Session, delivery: Delivery, result: SendResult, *, to_commit: bool
    ) -> None:
        common: dict[str, object] = {
            "lease_owner": None,
            "lease_until": None,
            "error": _in_column(result.error),
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


def _in_column(error: str | None) -> str | None:
    """Return an error as far as its column takes it: PostgreSQL refuses more."""
    return error[:_ERROR_LENGTH] if error else error


def synchronise_destinations(database: Database, settings: Settings) -> None:
    """Make the destination rows say what the settings say; what is gone there is disabled here."""
    with database.write() as session:
        known = {row.name: row for row in session.scalars(select(Destination))}
        for wanted in settings.destinations:
            row = known.pop(wanted.name, None) or Destination(name=wanted.name)
            if (row.host, row.port) != (wanted.host, wanted.port):
                circuit.end_pause(row)  # what is somewhere else now may be there
            row.ae_title, row.host, row.port = wanted.ae_title, wanted.host, wanted.port
            row.enabled = True
            session.add(row)
        for row in known.values():
            row.enabled = False
            _end_deliveries(session, row)


def _end_deliveries(session: Session, destination: Destination) -> None:
    """End what is open to a destination that was removed: nobody would ever send it.

    Also what a sender that was killed has left as `sending`: nobody would take that back.
    """
    query = select(Delivery).where(
        Delivery.destination_id == destination.id,
        Delivery.state.in_((DeliveryState.DUE, DeliveryState.SENDING)),
    )
    for delivery in session.scalars(query):
        advance(session, delivery, DeliveryState.DEAD, error="the destination was removed")


def _steps(
    settings: Settings, database: Database, stop: threading.Event
) -> dict[str, Callable[[], bool]]:
    """Return the step of every loop by name: sending, and Storage Commitment both ways."""
    with database.read() as session:
        rows = session.scalars(select(Destination).where(Destination.enabled)).all()
    steps: dict[str, Callable[[], bool]] = {}
    for row in rows:
        sender = sender_for(settings, row.name)
        steps[f"deliver-{row.id}"] = Deliverer(settings, database, sender, row.id, stop).step
        if row.name in settings.destinations_with_commitment:
            steps[f"commit-{row.id}"] = Asker(settings, database, row.id).step
    if settings.delivery.commitment_keep_days:
        steps["forget-commitments"] = Forgetter(settings.delivery, database).step
    ups = settings.worklist.ups
    if ups.enabled:
        steps["ups-upkeep"] = Upkeep(settings, database).step
        for name, peers in (("event", ups.receivers), ("push", ups.managers)):
            for peer in peers:
                courier = Courier(settings, database, peer, is_manager=name == "push")
                steps[f"ups-{name}-{peer.ae_title}"] = courier.step
    provider = settings.commitment_provider
    for peer in provider.peers if provider.enabled else ():
        steps[f"report-{peer.ae_title}"] = Reporter(settings, database, peer).step
    return steps


def run(settings: Settings, database: Database, stop: threading.Event) -> None:
    """Deliver to every enabled destination until `stop` is set."""
    synchronise_managers(database, settings)
    steps = _steps(settings, database, stop)
    threads = [
        threading.Thread(
            target=lambda step=step: run_loop(step, stop, settings.delivery.poll_seconds),
            name=name,
        )
        for name, step in steps.items()
    ]
    for thread in threads:
        thread.start()
    wait_for(stop)
    for thread in threads:
        thread.join()
