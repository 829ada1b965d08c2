"""The tables of limits and settings: what this node has, beside what it comes with."""

from functools import reduce
from typing import Final, cast

from dicom_node.conformance.tables import table
from dicom_node.listener import build_ae
from dicom_node.senders.cstore import CStoreSender
from dicom_node.tls import CIPHERS
from models.people_sections import PrioritySettings
from models.settings import Settings

# Every setting that changes what the node does on the DICOM network or writes into objects.
SETTINGS: Final[dict[str, str]] = {
    "dicom.ae_title": "AE title of the storage SCP",
    "dicom.host": "address that it listens on",
    "dicom.port": "TCP port that it listens on",
    "dicom.plain": "whether that port is open; off: associations over TLS alone",
    "dicom.tls": "TLS of the storage SCP, see 8.1",
    "dicom.allowed_addresses": "networks that may connect; none: any",
    "dicom.proxy_protocol_from": "balancers whose PROXY header says who connects",
    "dicom.peers": "titles that may call from certain networks only",
    "dicom.require_called_aet": "reject associations that call another title",
    "dicom.allowed_calling_aets": "titles that may associate; none: any",
    "dicom.store_calling_aets": "titles that may store; none: all of those that may associate",
    "dicom.listeners": "processes that receive; empty: one per core, at most 4",
    "dicom.max_associations": "associations at once, in all processes together",
    "dicom.max_pdu": "largest PDU received, by SCP and SCU, bytes; 0: unlimited",
    "dicom.network_timeout_seconds": "silence after which an association is aborted",
    "dicom.min_free_bytes": "free space below which nothing is taken",
    "dicom.allow_missing_patient_id": "take images without Patient ID instead of setting them "
    "aside",
    "dispatch.settle_seconds": "quiet time of a study before its report is made",
    "delivery.calling_aet": "AE title of the storage SCU; none: that of the SCP",
    "delivery.timeout_seconds": "longest wait for a receiver",
    "delivery.batch": "objects per association",
    "delivery.backoff_seconds": "pause after the first failure; doubles with each further one",
    "delivery.backoff_cap_seconds": "longest such pause",
    "delivery.max_attempts": "attempts before a delivery is given up",
    "delivery.circuit_failures": "failures to reach a receiver before it is paused",
    "delivery.circuit_cap_seconds": "longest such pause",
    "delivery.commitment_delay_seconds": "pause between sending and asking for commitment",
    "delivery.commitment_hold_seconds": "how long the association waits for an answer on it",
    "delivery.commitment_timeout_seconds": "without an answer, asked again after this",
    "delivery.commitment_keep_days": "days after which a question is forgotten; 0: never",
    "commitment_provider.enabled": "give Storage Commitment to senders",
    "commitment_provider.calling_aets": "titles that may ask; none: every peer",
    "commitment_provider.peers": "where the answers go, by AE title",
    "query_retrieve.enabled": "answer C-FIND, C-MOVE and C-GET",
    "query_retrieve.calling_aets": "titles that may query and retrieve",
    "query_retrieve.move_destinations": "where C-MOVE may send to, beside the receivers",
    "query_retrieve.max_results": "matches of a query, objects of a retrieve",
    "query_retrieve.max_files": "files that one query may open",
    "worklist.priorities": "Scheduled Procedure Step Priority by the band of the figure",
    "worklist.ups.enabled": "Unified Procedure Steps: answer C-FIND, N-GET, N-SET and N-ACTION",
    "worklist.ups.calling_aets": "titles that may do so",
    "worklist.ups.receivers": "AEs that may subscribe to events, by AE title",
    "worklist.ups.web": "UPS-RS too",
    "worklist.ups.web_subscribers": "AE titles that may subscribe and hear over a WebSocket",
    "worklist.ups.managers": "AEs that get every new workitem by N-CREATE",
    "worklist.ups.worklist_label": "Worklist Label",
    "worklist.ups.keep_days": "days after which an ended workitem may be deleted",
    "worklist.ups.max_results": "matches of a query",
    "web.dicomweb": "offer QIDO-RS, WADO-RS and STOW-RS",
    "web.dicomweb_origins": "origins of viewers that browsers let read them",
    "web.stow_calling_aet": "calling AE title of what comes by STOW-RS; none: the account's name",
    "web.stow_max_bytes": "largest object that is taken by STOW-RS, bytes",
    "analysis.secondary_capture": "analyse Secondary Capture of Modality CR or DX",
    "analysis.zone_score": "add the group of lung zones to the report",
    "analysis.experimental_classifier": "model whose statement is added to the report",
    "objects.uid_root": "root of the UIDs that the node makes; none: `2.25.`",
    "objects.seg_series_number": "Series Number of the SEG",
    "objects.sr_series_number": "Series Number of the SR",
    "objects.sc_series_number": "Series Number of the Secondary Capture",
    "objects.pr_series_number": "Series Number of the presentation state",
    "objects.pdf_series_number": "Series Number of the PDF",
    "objects.ko_series_number": "Series Number of the rejection note",
    "objects.seg_series_description": "Series Description of the SEG",
    "objects.sr_series_description": "Series Description of the SR",
    "objects.sc_series_description": "Series Description of the Secondary Capture",
    "objects.pr_series_description": "Series Description of the presentation state",
    "objects.pdf_series_description": "Series Description of the PDF",
    "objects.ko_series_description": "Series Description of the rejection note",
}


def _shown(value: object) -> str:
    if value in (None, "", ()):
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, PrioritySettings):
        return ", ".join(f"{band}: {priority}" for band, priority in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def configuration(settings: Settings) -> str:
    """Return the settings with defaults; those of this installation where any differs."""
    rows = []
    for key, meaning in SETTINGS.items():
        *sections, name = key.split(".")
        here = reduce(getattr, sections, cast("object", settings))
        default = getattr(type(here)(), name)
        rows.append((f"`{key}`", meaning, _shown(default), _shown(getattr(here, name))))
    if all(default == here for *_, default, here in rows):
        return table(("Setting", "Meaning", "Default"), (row[:-1] for row in rows))
    return table(("Setting", "Meaning", "Default", "Here"), rows)


def ae_titles(settings: Settings) -> str:
    """Local AE titles and ports (PS3.2 A.4.4.1.1)."""
    dicom = settings.dicom
    calling = settings.delivery.calling_aet or dicom.ae_title
    rows = [("storage SCP", dicom.ae_title, str(dicom.port))] if dicom.plain else []
    if dicom.tls.port is not None:
        rows.append(("storage SCP over TLS", dicom.ae_title, str(dicom.tls.port)))
    rows.append(("storage SCU", calling, "any free"))
    return table(("Application entity", "AE title", "TCP port"), rows)


def association_limits(settings: Settings) -> str:
    """Limits of associations, read from the application entities themselves (PS3.8)."""
    scp = build_ae(settings)
    scu = CStoreSender.of(settings).build_ae()
    rows = [
        ("Associations at once", str(scp.maximum_associations), "one per receiver"),
        ("Largest PDU received, bytes", str(scp.maximum_pdu_size), str(scu.maximum_pdu_size)),
        ("ACSE time-out, seconds", _shown(scp.acse_timeout), _shown(scu.acse_timeout)),
        (
            "DIMSE time-out, seconds",
            f"{_shown(scp.dimse_timeout)}, in C-GET alone",
            _shown(scu.dimse_timeout),
        ),
        ("Network time-out, seconds", _shown(scp.network_timeout), _shown(scu.network_timeout)),
        ("Connection time-out, seconds", "does not apply", _shown(scu.connection_timeout)),
        ("Operations outstanding", "1, no asynchronous operations", "1"),
        ("Application context", "`1.2.840.10008.3.1.1.1`", "`1.2.840.10008.3.1.1.1`"),
        (
            "Implementation Class UID",
            f"`{scp.implementation_class_uid}`",
            f"`{scu.implementation_class_uid}`",
        ),
        (
            "Implementation Version Name",
            f"`{scp.implementation_version_name}`",
            f"`{scu.implementation_version_name}`",
        ),
    ]
    return table(("", "As acceptor", "As requestor"), rows)


def tls_suites() -> str:
    """Cipher suites of TLS 1.2, by their IANA names (RFC 9325 4.2.1)."""
    return ", ".join(f"`{name}`" for name in CIPHERS.values())
