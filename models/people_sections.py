"""The sections of the settings tree about people: web page, worklist, audit (`models.settings`)."""

from models.fields import Port, Section


class WebSettings(Section):
    """The web page and the API."""

    host: str = "127.0.0.1"
    port: Port = 8080


class AuditSettings(Section):
    """Sealing and sending of audit events."""


class WorklistSettings(Section):
    """The reading worklist."""
