"""One run of `audit verify`: what it found, told as it goes, and an event about it at the end."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.audit.anchor import anchor_path
from dicom_node.audit.findings import Finding
from dicom_node.audit.keys import key_path, load_keys
from dicom_node.audit.verify import Verification
from models.audit import AuditAction, record
from models.seal import AuditMark
from models.session import Database
from models.settings import Settings

SOUND = "sound"
FINDINGS = "findings"


@dataclass
class Proof:
    """The audit of a node on trial."""

    database: Database
    settings: Settings
    anchor: Path | None = None  # None: that of the settings
    events: int = 0
    seals: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    is_recorded: bool = False

    def sealed_events(self) -> int:
        """Return how many events there are to prove."""
        with self.database.read() as session:
            return session.scalar(select(func.count()).select_from(AuditMark)) or 0

    def findings(self, by: str, progress: Callable[[int], None]) -> Iterator[Finding]:
        """Yield what is wrong; when all was yielded, the run stands in the audit itself.

        Raises AuditKeyError.
        """
        keys = load_keys(key_path(self.settings))
        anchor = self.anchor or anchor_path(self.settings)
        with self.database.read() as session:
            verification = Verification(session, keys, anchor, progress)
            for finding in verification.findings():
                self.kinds[finding.kind.value] += 1
                yield finding
        self.events, self.seals = verification.events, verification.seals
        self._record(by)

    @property
    def number(self) -> int:
        """How many findings there were."""
        return self.kinds.total()

    def _record(self, by: str) -> None:
        """Write the event; a database that takes none is no reason to withhold the findings."""
        details = {
            "findings": self.number,
            "kinds": dict(self.kinds),
            "events": self.events,
            "seals": self.seals,
        }
        try:
            with self.database.write() as session:
                outcome = FINDINGS if self.number else SOUND
                record(session, AuditAction.AUDIT_VERIFIED, outcome, actor=by, details=details)
        except SQLAlchemyError:
            return
        self.is_recorded = True
