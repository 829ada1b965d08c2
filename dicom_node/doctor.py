"""`dicom-node check`: is every part there, and if not, what to do about it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.commitment.associations import commitment_association
from dicom_node.deliveries import destinations
from dicom_node.disk import check_disks
from dicom_node.queue import JobQueue, require_usable
from dicom_node.senders.base import Receiver
from dicom_node.senders.chosen import sender_for
from dicom_node.senders.cstore import CStoreSender
from dicom_node.spool import Spool
from dicom_node.tls import days_left
from migrations.schema import require_newest
from models.sections import DestinationSettings
from models.session import Database
from models.settings import Settings
from models.states import CircuitState

RENEWAL_DAYS: Final = 14.0  # a certificate that ends sooner is a finding


_ANSWERS: Final = {
    "dicom": "answers C-ECHO",
    "stow": "answers QIDO-RS",
    "hl7": "takes connections",
    "fhir": "answers with its CapabilityStatement",
}


@dataclass(frozen=True)
class Finding:
    """One part of the node and whether it works; `detail` says what to do when it does not."""

    name: str
    ok: bool
    detail: str


def check_database(database: Database) -> str:
    """Return a remark. Raises SchemaError for another schema, SQLAlchemyError when it is away."""
    with database.read() as session:
        session.execute(text("SELECT 1"))
    return f"{database.url.get_backend_name()}, schema {require_newest(database)}"


def check_spool(settings: Settings) -> str:
    """Return a remark. Raises SpoolFullError below the floor, OSError when not writable."""
    spool = Spool(settings.image_store, settings.dicom.min_free_bytes)
    spool.require_room()
    return f"{spool.free_bytes() / 2**30:.1f} GiB free"


def examine_storage(settings: Settings) -> list[Finding]:
    """Try a shared storage: may this host write, read and delete there."""
    if settings.storage_url is None:
        return []
    stores = {"images": settings.image_store, "artifacts": settings.artifact_store}
    return [_try(f"storage of {name}", store.probe) for name, store in stores.items()]


def check_certificate(settings: Settings) -> str:
    """Return for how long our certificate is valid. Raises StartError when it cannot be used."""
    left = days_left(settings.dicom.tls, as_server=settings.dicom.tls.port is not None)
    if left < RENEWAL_DAYS:
        msg = f"{settings.dicom.tls.certificate} ends in {left:.1f} days: renew it"
        raise RuntimeError(msg)
    return f"valid for {left:.0f} more days"


def check_broker(settings: Settings, queue: JobQueue) -> str:
    """Return what it is and what waits there. Raises StartError or BrokerError in words."""
    require_usable(settings.effective_broker)
    waiting = ", ".join(f"{queue.depth(name)} in {name}" for name in queue.names)
    return f"{settings.effective_broker}; messages waiting: {waiting}"


def _check_workers(queue: JobQueue) -> str:
    workers = queue.workers()
    if not workers:
        msg = "no worker answers: start one with `dicom-worker run`"
        raise RuntimeError(msg)
    return f"{len(workers)} answering"


def missing_models(settings: Settings, workers: dict[str, dict[str, Any]]) -> list[str]:
    """Return one sentence per model that a setting names and a worker that needs it lacks."""
    shadow = [settings.shadow.model] if settings.shadow.model else []
    wanted = {
        "all": [*settings.models, *shadow],
        "analysis": list(settings.models),
        "shadow": shadow,
    }
    served = {said.get("serves", "all") for said in workers.values()}
    problems = [
        f"{worker} lacks {', '.join(lacking)} ({said.get('problem') or 'not installed there'})"
        for worker, said in sorted(workers.items())
        if (lacking := sorted(set(wanted[said.get("serves", "all")]) - set(said.get("models", []))))
    ]
    if shadow and workers and not served & {"all", "shadow"}:
        problems.append(f"no worker serves the shadow model {shadow[0]}")
    if workers and not served & {"all", "analysis"}:
        problems.append("no worker serves the analysis")
    return problems


def _check_models(settings: Settings, queue: JobQueue) -> str:
    workers = queue.installed_models()
    if not workers:
        msg = "no worker answers, so nobody knows which models are installed"
        raise RuntimeError(msg)
    if problems := missing_models(settings, workers):
        msg = "; ".join(problems)
        raise RuntimeError(msg)
    shadow = f", shadow {settings.shadow.model}" if settings.shadow.model else ""
    return f"{', '.join(settings.models)}{shadow}: installed"


def check_destination(
    settings: Settings, database: Database, destination: DestinationSettings
) -> str:
    """Return a remark. Raises RuntimeError when the destination does not answer."""
    receiver = _receiver(destination)
    problem = sender_for(settings, destination.name).echo(receiver)
    pause = _pause_of(database, destination.name)
    if problem:
        raise RuntimeError("; ".join(filter(None, (problem, pause))))
    what = _ANSWERS[destination.protocol]
    again = f"`dicom-node retry --destination {destination.name}` ends the pause"
    return f"{what}; {pause}: {again}" if pause else what


def _pause_of(database: Database, name: str) -> str | None:
    """Return until when nothing is sent to a destination, as a part of a sentence."""
    try:
        with database.read() as session:
            rows = {row["name"]: row for row in destinations(session)}
    except SQLAlchemyError:
        return None  # a finding of its own
    row = rows.get(name)
    if row is None or row["circuit"] == CircuitState.CLOSED.value:
        return None
    return f"paused since {row['away_since']} ({row['failures']} failures) until {row['retry_at']}"


def _receiver(destination: DestinationSettings) -> Receiver:
    return Receiver(destination.name, destination.ae_title, destination.host, destination.port)


def check_commitment(sender: CStoreSender, receiver: Receiver) -> str:
    """Return a remark. Raises CommitmentPeerError when the receiver does not take the question."""
    with commitment_association(sender, receiver):
        return "offers Storage Commitment"


def examine(settings: Settings, database: Database) -> list[Finding]:
    """Try every part once and return what was found, in the order of the data flow."""
    queue = JobQueue(settings.effective_broker)
    sender = CStoreSender.of(settings)
    findings = [
        _try("database", lambda: check_database(database)),
        _try("spool", lambda: check_spool(settings)),
        _try("disks", lambda: check_disks(settings, database)),
        *examine_storage(settings),
        _try("broker", lambda: check_broker(settings, queue)),
        _try("workers", lambda: _check_workers(queue)),
        _try("models", lambda: _check_models(settings, queue)),
    ]
    if settings.dicom.tls.certificate is not None:
        findings.append(_try("certificate", lambda: check_certificate(settings)))
    for to in settings.destinations:
        name = f"destination {to.name}@{to.host}:{to.port}"
        findings.append(_try(name, partial(check_destination, settings, database, to)))
        if to.commitment:
            asked = partial(check_commitment, sender, _receiver(to))
            findings.append(_try(f"{name}, commitment", asked))
    queue.close()
    return findings


def _try(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, ok=True, detail=check())
    except Exception as error:  # noqa: BLE001  whatever is wrong is the finding
        return Finding(name, ok=False, detail=str(error) or type(error).__name__)
