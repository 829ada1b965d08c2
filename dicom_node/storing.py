"""A received data set becomes an object of the node: its file durable, its rows committed.

The one way in, by whatever service an object comes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from dicom_node import traces
from dicom_node.header import identity_of
from dicom_node.intake import drop_if_extra
from dicom_node.receive import ReceivedFile, Reception
from dicom_node.recorder import Recorder
from dicom_node.spool import Spool, key_of
from dicom_node.types import Identity, Peer, SpooledInstance, StoreRequest
from models import tracing
from models.session import Database
from models.states import StoreOutcome


@dataclass(frozen=True)
class Stored:
    """What an object turned out to be."""

    outcome: StoreOutcome
    identity: Identity


@dataclass(frozen=True)
class Storing:
    """Where the objects that one process receives go."""

    database: Database
    spool: Spool
    reception: Reception
    recorder: Recorder

    def store(
        self,
        received: ReceivedFile,
        request: StoreRequest,
        peer: Peer,
        admit: Callable[[Identity], None] | None = None,
    ) -> Stored:
        """Store one object; when this returns, file and rows survive a power cut.

        `admit` is asked with its identity before anything of it is kept, and raises to refuse it.
        Raises StoreError, OSError, sqlalchemy.exc.SQLAlchemyError: then there are no rows.
        """
        began = tracing.now()
        self.spool.require_room()
        is_alone = len(self.reception) == 1  # else others use the time
        if is_alone:
            self.spool.begin_sync(received)
        identity = identity_of(received, request)
        if admit is not None:
            admit(identity)
        key = key_of(received)
        keep = partial(self.spool.keep, received, key)
        if not is_alone:
            keep()
        spooled = SpooledInstance(
            storage_key=key,
            path=self.spool.store.place(key),
            identity=identity,
            transfer_syntax_uid=request.transfer_syntax_uid,
            data_set_sha256=received.data_set_sha256,
            size_bytes=received.size,
            peer=peer,
        )
        # If the commit fails after it took effect (connection lost at the answer), a row may point
        # to this file: it stays, and the orphan sweep settles it either way.
        recording = tracing.now()
        outcome = self.recorder.record(spooled, keep)
        drop_if_extra(self.database, self.spool, key, outcome)
        traces.stored(key, began, recording, received.size, outcome)
        return Stored(outcome, identity)
