"""Who is at the other end of an association, and events about it that belong to no other act."""

import logging
from typing import TYPE_CHECKING, Any, Final, cast

from pynetdicom.association import Association

from dicom_node.access import address_of
from dicom_node.types import Peer
from models.audit import AuditAction, record
from models.session import Database

if TYPE_CHECKING:
    from pynetdicom.pdu_primitives import A_ASSOCIATE

log = logging.getLogger(__name__)

_PATIENCE_SECONDS: Final = 2.0  # a peer waits for its answer meanwhile


def peer_of(assoc: Association) -> Peer:
    """Return who asked for the association; AE titles cut to 16 characters (PS3.5 6.2)."""
    requestor = assoc.requestor
    primitive = cast("A_ASSOCIATE", requestor.primitive)
    return Peer(
        calling_aet=str(primitive.calling_ae_title).strip()[:16],
        called_aet=str(primitive.called_ae_title).strip()[:16],
        address=f"{address_of(requestor.address)}:{requestor.port}",
    )


def audit(database: Database, action: AuditAction, outcome: str, **values: Any) -> None:  # noqa: ANN401  columns of AuditEvent
    """Write one event in a transaction of its own; that it cannot be written soon is logged."""
    try:
        with database.write(_PATIENCE_SECONDS) as session:
            record(session, action, outcome, **values)
    except Exception:
        log.exception("audit event %s could not be written", action.value)
