"""What the pages share: the node behind them, and who may see which."""

from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import Depends, Path

from dicom_node.documents import Documents
from dicom_node.web.api.parameters import UID_PATTERN
from dicom_node.web.auth import Principal, Requires, Scope
from models.account import Role
from models.session import Database
from models.settings import Settings

Reader = Annotated[Principal, Depends(Requires(Role.VIEWER, Scope.WORKLIST))]
Viewer = Annotated[Principal, Depends(Requires(Role.VIEWER, Scope.RESULTS))]
Sender = Annotated[Principal, Depends(Requires(Role.OPERATOR, Scope.DELIVERIES))]
Auditor = Annotated[Principal, Depends(Requires(Role.OPERATOR, Scope.AUDIT))]
Operator = Annotated[Principal, Depends(Requires(Role.OPERATOR, Scope.SYSTEM))]

StudyUid = Annotated[str, Path(max_length=64, pattern=UID_PATTERN)]
SEVERITIES: Final = ("severe", "moderate", "mild", "none")
ROWS: Final = 50


@dataclass(frozen=True)
class Site:
    """The node as the pages see it."""

    settings: Settings
    database: Database
    documents: Documents


def given(text: str | None) -> str | None:
    """Return what stands in a field of a form; None where it was left empty."""
    stripped = (text or "").strip()
    return stripped or None
