"""What an event is in the words of PS3.15 A.5.3: one table, from our actions to their messages.

An action without a message of its own there is told in the general format (A.5.2) under a code of
ours. PS3.15 A.5.3 allows that: its definitions are the basis for similar events.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal

from models.audit import AuditAction
from models.states import StoreOutcome

DCM: Final = "DCM"
OWN_SCHEME: Final = "99DICOMNODE"
RFC_3881: Final = "RFC-3881"
CANCEL: Final = 0xFE00  # PS3.4 C.4.1.1.4
ActionCode = Literal["C", "R", "U", "D", "E"]


@dataclass(frozen=True)
class Code:
    """A coded value: csd-code, codeSystemName, originalText (PS3.15 A.5.1)."""

    value: str
    meaning: str
    scheme: str = DCM


class Message(Enum):
    """The messages of PS3.15 A.5.3 that the node sends (CID 400)."""

    APPLICATION_ACTIVITY = Code("110100", "Application Activity")  # A.5.3.1
    AUDIT_LOG_USED = Code("110101", "Audit Log Used")  # A.5.3.2
    BEGIN_TRANSFERRING = Code("110102", "Begin Transferring DICOM Instances")  # A.5.3.3
    INSTANCES_ACCESSED = Code("110103", "DICOM Instances Accessed")  # A.5.3.6
    INSTANCES_TRANSFERRED = Code("110104", "DICOM Instances Transferred")  # A.5.3.7
    QUERY = Code("110112", "Query")  # A.5.3.10
    SECURITY_ALERT = Code("110113", "Security Alert")  # A.5.3.11
    USER_AUTHENTICATION = Code("110114", "User Authentication")  # A.5.3.12
    OWN = Code("", "")  # A.5.2, under the name of the action


@dataclass(frozen=True)
class Told:
    """How an action is told: which message, of what kind, and what was done (EventActionCode)."""

    message: Message
    action: ActionCode = "E"
    kind: Code | None = None  # EventTypeCode (CID 401)


APPLICATION: Final = Code("110150", "Application")
DESTINATION: Final = Code("110152", "Destination Role ID")
SOURCE: Final = Code("110153", "Source Role ID")
STUDY: Final = Code("110180", "Study Instance UID")
SOP_CLASS: Final = Code("110181", "SOP Class UID")
NODE_ID: Final = Code("110182", "Node ID")
SEARCH_CRITERIA: Final = Code("10", "Search Criteria", RFC_3881)
PATIENT_NUMBER: Final = Code("2", "Patient Number", RFC_3881)
URI: Final = Code("12", "URI", RFC_3881)

_START = Code("110120", "Application Start")
_STOP = Code("110121", "Application Stop")
_LOGIN = Code("110122", "Login")
_LOGOUT = Code("110123", "Logout")
_NODE_AUTHENTICATION = Code("110126", "Node Authentication")
_SECURITY_CONFIGURATION = Code("110129", "Security Configuration")
_SOFTWARE_CONFIGURATION = Code("110131", "Software Configuration")
_RESTRICTED_FUNCTION = Code("110132", "Use of Restricted Function")
_USER_ATTRIBUTES = Code("110137", "User security Attributes Changed")
_AUDIT_ALARM = Code("audit_alarm", "Audit trail does not agree with its anchor", OWN_SCHEME)

_ACCESSED, _ALERT = Message.INSTANCES_ACCESSED, Message.SECURITY_ALERT
_A = AuditAction
TOLD: Final[dict[AuditAction, Told]] = {
    _A.APPLICATION_STARTED: Told(Message.APPLICATION_ACTIVITY, kind=_START),
    _A.APPLICATION_STOPPED: Told(Message.APPLICATION_ACTIVITY, kind=_STOP),
    _A.CONFIGURATION_CHANGED: Told(_ALERT, kind=_SOFTWARE_CONFIGURATION),
    _A.ASSOCIATION_ACCEPTED: Told(_ALERT, kind=_NODE_AUTHENTICATION),  # a success: informative
    _A.CONNECTION_REFUSED: Told(_ALERT, kind=_NODE_AUTHENTICATION),
    _A.ASSOCIATION_REJECTED: Told(_ALERT, kind=_NODE_AUTHENTICATION),
    _A.ACCESS_DENIED: Told(_ALERT, kind=_RESTRICTED_FUNCTION),
    _A.ACCOUNT_CHANGED: Told(_ALERT, kind=_USER_ATTRIBUTES),
    _A.TOKEN_CREATED: Told(_ALERT, kind=_USER_ATTRIBUTES),
    _A.TOKEN_REVOKED: Told(_ALERT, kind=_USER_ATTRIBUTES),
    _A.AUDIT_REDACTED: Told(_ALERT, kind=_RESTRICTED_FUNCTION),
    _A.AUDIT_KEY_CHANGED: Told(_ALERT, kind=_SECURITY_CONFIGURATION),
    _A.AUDIT_ALARM: Told(_ALERT, kind=_AUDIT_ALARM),
    _A.LOGIN: Told(Message.USER_AUTHENTICATION, kind=_LOGIN),
    _A.LOGIN_FAILED: Told(Message.USER_AUTHENTICATION, kind=_LOGIN),
    _A.LOGOUT: Told(Message.USER_AUTHENTICATION, kind=_LOGOUT),
    _A.AUDIT_READ: Told(Message.AUDIT_LOG_USED, "R"),
    _A.AUDIT_EXPORTED: Told(Message.AUDIT_LOG_USED, "R"),
    _A.AUDIT_VERIFIED: Told(Message.AUDIT_LOG_USED, "R"),
    _A.QUERY: Told(Message.QUERY),
    _A.BEGIN_TRANSFERRING: Told(Message.BEGIN_TRANSFERRING),
    _A.INSTANCES_TRANSFERRED: Told(Message.INSTANCES_TRANSFERRED, "R"),
    _A.INSTANCE_STORED: Told(Message.INSTANCES_TRANSFERRED, "C"),  # or by its outcome: RECEIVED
    _A.INSTANCE_RECOVERED: Told(Message.INSTANCES_TRANSFERRED, "C"),
    _A.INSTANCE_REFUSED: Told(Message.INSTANCES_TRANSFERRED, "R"),
    _A.ARTIFACT_SENT: Told(Message.INSTANCES_TRANSFERRED, "R"),  # whether it was there is unknown
    _A.PATIENT_DATA_READ: Told(_ACCESSED, "R"),
    _A.INSTANCE_ANALYSED: Told(_ACCESSED, "R"),
    _A.SHADOW_ANALYSED: Told(_ACCESSED, "R"),
    _A.REPORT_STORED: Told(_ACCESSED, "C"),
    _A.REJECTION_NOTE_STORED: Told(_ACCESSED, "C"),
    _A.REJECTION_NOTE: Told(_ACCESSED, "U"),
    _A.INSTANCE_WITHDRAWN: Told(_ACCESSED, "U"),
    _A.INSTANCE_COMPARED: Told(_ACCESSED, "U"),
    _A.INSTANCE_RESTORED: Told(_ACCESSED, "U"),
    _A.QUARANTINE_ENDED: Told(_ACCESSED, "U"),
    _A.STUDY_REPLAYED: Told(_ACCESSED, "U"),
    _A.PATIENT_MERGED: Told(_ACCESSED, "U"),
    _A.INSTANCE_PURGED: Told(_ACCESSED, "D"),
    _A.ARTIFACT_PURGED: Told(_ACCESSED, "D"),
    _A.STUDY_CLAIMED: Told(_ACCESSED, "R"),
    _A.STUDY_RELEASED: Told(_ACCESSED, "R"),
    _A.STUDY_READ: Told(_ACCESSED, "R"),
    _A.READING_REOPENED: Told(_ACCESSED, "U"),
    _A.FEEDBACK_GIVEN: Told(_ACCESSED, "R"),
}
# What the receiver had already, by what it was told (Table A.5.3.7-1).
RECEIVED: Final[dict[str, ActionCode]] = {
    StoreOutcome.STORED.value: "C",
    StoreOutcome.DUPLICATE.value: "R",
    StoreOutcome.OWN_RESULT.value: "R",
    StoreOutcome.UPDATE.value: "U",
    StoreOutcome.CONFLICT.value: "C",
}
# EventOutcomeIndicator: 4 minor, 8 serious, 12 major failure; what is in neither table is 0.
FAILED_ACTIONS: Final[dict[AuditAction, int]] = {
    _A.CONNECTION_REFUSED: 4,
    _A.ASSOCIATION_REJECTED: 4,
    _A.LOGIN_FAILED: 4,
    _A.ACCESS_DENIED: 4,
    _A.INSTANCE_REFUSED: 8,
    _A.ARTIFACT_LEFT_OUT: 8,
    _A.AUDIT_ALARM: 12,
}
FAILED_OUTCOMES: Final[dict[tuple[AuditAction, str], int]] = {
    (_A.ARTIFACT_SENT, "retry"): 4,
    (_A.ARTIFACT_SENT, "rejected"): 8,
    (_A.INSTANCE_ANALYSED, "failed"): 8,
    (_A.SHADOW_ANALYSED, "failed"): 8,
    (_A.INSTANCES_TRANSFERRED, "broken_off"): 4,
    (_A.ARTIFACT_COMMITTED, "failed"): 8,
    (_A.COMMITMENT_REQUESTED, "refused"): 4,
    (_A.DESTINATION_CIRCUIT, "open"): 4,
    (_A.AUDIT_VERIFIED, "findings"): 12,
}
