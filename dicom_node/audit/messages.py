"""Events as audit messages of PS3.15 A.5: one per event, and one per study of received objects.

The standard lets a message speak of one patient, and has messages of transfers per study, not per
object: what one AE sent of a study among the given events is one message.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from dicom_node.audit import codes
from dicom_node.audit.codes import ActionCode, Code, Message, Told
from dicom_node.audit.facts import Facts, StudyFacts, Values
from dicom_node.audit.identifiers import STUDY_ROOT_FIND, identifier_of
from dicom_node.audit.xml_message import AuditMessage, Participant, ParticipantObject
from models.audit import AuditAction

_NOBODY: Final = "unknown"
_AS_DETAIL: Final = (  # of an analysis: what it was made with
    *("model", "version", "weights_sha256", "configuration_sha256", "data_set_sha256", "device"),
    *("seconds", "reason", "revision", "service"),
)


@dataclass(frozen=True)
class Node:
    """This node, as the messages name it."""

    host: str
    ae_title: str
    site: str | None = None

    @property
    def source_id(self) -> str:
        """AuditSourceID."""
        return f"{self.ae_title}@{self.host}"

    def participant(self, role: Code | None = None, *, is_requestor: bool = False) -> Participant:
        """Return the node as a process that takes part: by the host that its logs name."""
        return Participant(self.host, is_requestor, role, self.ae_title, "dicom-node", self.host)


def messages(events: Sequence[Values], facts: Facts, node: Node) -> Iterator[AuditMessage]:
    """Yield the messages of some events, in their order; of a group at the place of its first."""
    groups: dict[object, list[Values]] = {}
    for number, event in enumerate(events):
        groups.setdefault(_group(event) or number, []).append(event)
    for members in groups.values():
        yield _Writer(members, facts, node).message()


def _group(event: Values) -> tuple[object, ...] | None:
    """Return what received objects of one message have in common."""
    if event["action"] != AuditAction.INSTANCE_STORED or event["study_instance_uid"] is None:
        return None
    host, _ = split_peer(event["peer"])
    shared = ("calling_aet", "called_aet", "study_instance_uid", "patient_id", "outcome")
    return (host, *(event[name] for name in shared))


def split_peer(peer: str | None) -> tuple[str | None, str | None]:
    """Return host and port of `host:port`, `[::1]:port` or a host alone."""
    if not peer:
        return None, None
    host, colon, port = peer.rpartition(":")
    if not colon or not port.isdigit() or (":" in host and not host.startswith("[")):
        return peer.strip("[]"), None
    return host.strip("[]"), port


class _Writer:
    """Writes the message of one event, or of a group of alike ones."""

    def __init__(self, events: Sequence[Values], facts: Facts, node: Node) -> None:
        self._events, self._facts, self._node = events, facts, node
        self._event = events[-1]  # the transfer is complete with it
        self._action: str = self._event["action"]
        self._host, _ = split_peer(self._event["peer"])
        self._details: dict[str, Any] = self._event["details"] or {}
        uid = self._event["study_instance_uid"]
        self._study: StudyFacts | None = facts.studies.get(uid) if uid else None
        self._told = self._how()

    def _how(self) -> Told:
        try:
            told = codes.TOLD.get(AuditAction(self._action), Told(Message.OWN))
        except ValueError:
            return Told(Message.OWN)
        if self._action == AuditAction.PATIENT_DATA_READ and self._event["outcome"] == "audit":
            return codes.TOLD[AuditAction.AUDIT_READ]
        needs_study = {
            *(Message.BEGIN_TRANSFERRING, Message.INSTANCES_TRANSFERRED),
            Message.INSTANCES_ACCESSED,
        }
        if told.message in needs_study and not self._event["study_instance_uid"]:
            return Told(Message.OWN, told.action)
        if self._action == AuditAction.INSTANCE_STORED:
            return replace(told, action=codes.RECEIVED.get(self._event["outcome"], "R"))
        return told

    def message(self) -> AuditMessage:
        """Return it."""
        writers: dict[Message, Callable[[], tuple[list[Participant], list[ParticipantObject]]]] = {
            Message.APPLICATION_ACTIVITY: self._application,
            Message.AUDIT_LOG_USED: self._audit_log,
            Message.BEGIN_TRANSFERRING: self._transfer,
            Message.INSTANCES_TRANSFERRED: self._transfer,
            Message.INSTANCES_ACCESSED: self._access,
            Message.QUERY: self._query,
            Message.SECURITY_ALERT: self._alert,
            Message.USER_AUTHENTICATION: self._authentication,
            Message.OWN: self._access,
        }
        participants, objects = writers[self._told.message]()
        event, outcome = self._told.message.value, self._outcome()
        if self._told.message is Message.OWN:
            event = Code(self._action, self._action.replace("_", " "), codes.OWN_SCHEME)
        action: ActionCode = self._told.action
        return AuditMessage(
            event=event,
            action=action,
            at=_time(self._event["at"]),
            outcome=outcome,
            source=self._node.source_id,
            kinds=() if self._told.kind is None else (self._told.kind,),
            outcome_text=self._event["outcome"] if outcome else None,
            participants=tuple(participants),
            objects=tuple(objects),
            site=self._node.site,
        )

    def _outcome(self) -> int:
        """Return EventOutcomeIndicator."""
        outcome, status = self._event["outcome"], self._event["status"]
        for action, number in codes.FAILED_ACTIONS.items():
            if self._action == action:
                return number
        for (action, word), number in codes.FAILED_OUTCOMES.items():
            if (self._action, outcome) == (action, word):
                return number
        answered = (AuditAction.QUERY, AuditAction.INSTANCES_TRANSFERRED)
        if self._action not in answered or not status:
            return 0
        return 4 if status >> 12 == 0xB or status == codes.CANCEL else 8  # noqa: PLR2004  warnings

    # Who took part

    def _other(self, role: Code | None = None, *, is_requestor: bool = True) -> Participant:
        """Return who is at the other end: an AE, a user, or an address."""
        actor, title = self._event["actor"], self._event["calling_aet"]
        if title is None and actor is None:
            title, is_requestor = self._event["called_aet"], False
        name = actor or title or self._host or _NOBODY
        return Participant(name, is_requestor, role, title, host=self._host)

    def _process(self, *, is_requestor: bool = False) -> Participant:
        return self._node.participant(codes.APPLICATION, is_requestor=is_requestor)

    def _accessing(self) -> list[Participant]:
        """Return the person, where there is one, and the process (1..2)."""
        event = self._event
        if any(event[name] for name in ("actor", "calling_aet", "called_aet", "peer")):
            return [self._other(), self._process()]
        return [self._process(is_requestor=True)]

    # What it was about

    def _objects(self) -> list[ParticipantObject]:
        uid = self._event["study_instance_uid"]
        study = [] if not uid else [self._study_object(uid)]
        return [*study, *self._patient_object()]

    def _study_object(self, uid: str) -> ParticipantObject:
        classes = Counter(
            self._facts.sop_classes[each["sop_instance_uid"]]
            for each in self._events
            if each["sop_instance_uid"] in self._facts.sop_classes
        )
        named = {"event": str(self._event["id"])} | {
            key: str(self._details[key]) for key in _AS_DETAIL if self._details.get(key) is not None
        }
        if self._event["model"] is not None:
            named["model"] = self._event["model"]
        accession = self._study.accession_number if self._study else None
        return ParticipantObject(
            uid,
            codes.STUDY,
            type_code=2,
            role=3,
            details=named,
            accession_number=accession if classes else None,  # A.5.2: not without a SOP Class
            sop_classes=classes,
        )

    def _patient_object(self) -> Iterator[ParticipantObject]:
        known = self._study.patient_id if self._study else None
        patient_id = self._event["patient_id"] or known
        if patient_id:
            yield ParticipantObject(patient_id, codes.PATIENT_NUMBER, type_code=1, role=1)

    # The messages

    def _application(self) -> tuple[list[Participant], list[ParticipantObject]]:
        process = replace(self._process(), name=f"dicom-node {self._event['outcome']}")
        return [process], []

    def _audit_log(self) -> tuple[list[Participant], list[ParticipantObject]]:
        uri = f"dicom-node://{self._node.host}/audit"
        name = "Security Audit Log"  # Table A.5.3.2-1
        log = ParticipantObject(uri, codes.URI, type_code=2, role=13, name=name)
        return [self._other(), self._process()], [log]

    def _access(self) -> tuple[list[Participant], list[ParticipantObject]]:
        return self._accessing(), self._objects()

    def _transfer(self) -> tuple[list[Participant], list[ParticipantObject]]:
        """Write source, destination, and whoever had it done (Table A.5.3.7-1)."""
        is_retrieve = self._action in _RETRIEVES
        mover = self._details.get("destination") if is_retrieve else None
        if mover:
            receiver = Participant(str(mover), role=codes.DESTINATION, ae_title=str(mover))
            parties = [self._node.participant(codes.SOURCE), receiver, self._other()]
        elif is_retrieve or self._event["calling_aet"] is None:
            parties = [
                self._node.participant(codes.SOURCE, is_requestor=not is_retrieve),
                self._other(codes.DESTINATION),
            ]
        else:
            parties = [self._other(codes.SOURCE), self._node.participant(codes.DESTINATION)]
        return parties, self._objects()

    def _query(self) -> tuple[list[Participant], list[ParticipantObject]]:
        """Write who asked, and the query as a data set (Table A.5.3.10-1)."""
        service = str(self._details.get("service", ""))
        identifier, syntax = identifier_of(self._event)
        queried = ParticipantObject(
            STUDY_ROOT_FIND if service == "C-FIND" else service or _NOBODY,
            codes.SOP_CLASS if service == "C-FIND" else codes.SEARCH_CRITERIA,
            type_code=2,
            role=3,
            query=identifier,
            details={"TransferSyntax": syntax},
        )
        asking = self._other(codes.SOURCE)
        return [asking, self._node.participant(codes.DESTINATION)], [queried]

    def _alert(self) -> tuple[list[Participant], list[ParticipantObject]]:
        """Write who reports, and about whom (Table A.5.3.11-1)."""
        other = self._other(is_requestor=False)
        parties = [self._process(), *([other] if other.user_id != _NOBODY else [])]
        words = f"{self._action.replace('_', ' ')}: {self._event['outcome']}"
        subject = ParticipantObject(
            self._host or self._node.host,
            codes.NODE_ID,
            type_code=2,
            role=13,
            details={"Alert Description": words, "event": str(self._event["id"])},
        )
        return parties, [subject]

    def _authentication(self) -> tuple[list[Participant], list[ParticipantObject]]:
        return [self._other(), self._process()], []


_RETRIEVES: Final = frozenset({AuditAction.BEGIN_TRANSFERRING, AuditAction.INSTANCES_TRANSFERRED})


def _time(at: datetime | str) -> str:
    """Return EventDateTime, with its zone (A.5.2.5)."""
    moment = datetime.fromisoformat(at) if isinstance(at, str) else at
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")


def severity_of(message: AuditMessage) -> int:
    """Return the syslog severity: 5 notice, 4 warning for a failure (PS3.15 A.6)."""
    return 4 if message.outcome else 5
