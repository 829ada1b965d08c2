"""Which service answers a request on an association, where pynetdicom's choice is not ours.

pynetdicom 3.0 chooses by the SOP Class that a command names and knows one handler per operation.
`install` puts our services of Query/Retrieve and Unified Procedure Step in the place of its own.
Its idle timer knows only what a peer sends: a peer that waited for a slow C-MOVE longer than the
network time-out would be aborted right after the final response. So the timer starts anew when a
request has been served.

It replaces `uid_to_service_class` in pynetdicom's association module; test_listener.py and
test_frozen_peers.py in tests/integration notice when a new pynetdicom no longer uses it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import pynetdicom.association
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import (
    C_FIND,
    C_GET,
    C_MOVE,
    N_ACTION,
    N_CREATE,
    N_DELETE,
    N_EVENT_REPORT,
    N_GET,
    N_SET,
)
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import uid_to_service_class

from dicom_node import values

# Any: which messages come is for the service to say, whose SOP Class was negotiated.
Serve = Callable[[Association, Any, PresentationContext], None]

SERVED: Final = (
    *(C_FIND, C_GET, C_MOVE),
    *(N_ACTION, N_CREATE, N_DELETE, N_EVENT_REPORT, N_GET, N_SET),
)


def install(services: Mapping[str, Serve]) -> None:
    """Have `services`, by abstract syntax, answer the messages in SERVED in this process.

    pydicom's checks of values are off from now on.
    """
    values.take_as_they_are()
    vars(pynetdicom.association)["uid_to_service_class"] = partial(_service_of, services)


@dataclass(frozen=True)
class _Service:
    """What serves a request on an association: one of ours, else as the SOP Class says."""

    services: Mapping[str, Serve]
    uid: str
    assoc: Association

    def SCP(self, request: object, context: PresentationContext) -> None:  # noqa: N802  pynetdicom's
        """Serve one request."""
        try:
            serve = self.services.get(str(context.abstract_syntax))
            if serve is not None and isinstance(request, SERVED):
                serve(self.assoc, request, context)
            else:
                uid_to_service_class(self.uid)(self.assoc).SCP(request, context)
        finally:
            self.assoc.dul._idle_timer.restart()  # noqa: SLF001  no public name


def _service_of(services: Mapping[str, Serve], uid: str) -> Callable[[Association], _Service]:
    return partial(_Service, services, uid)
