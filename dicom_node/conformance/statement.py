"""Renders the DICOM Conformance Statement in the order of PS3.2 Annex A, as Markdown."""

from importlib.metadata import version
from importlib.resources import files
from string import Template

from dicom_node.conformance import (
    annex,
    commitment,
    parameters,
    query,
    tables,
    ups,
    ups_web,
    web_services,
)
from dicom_node.conformance.objects import objects
from dicom_node.listener import DRAIN_SECONDS
from models.identity import PRIVATE_SCHEME
from models.settings import Settings

_PARTS = ("statement.md", "annexes.md")


def render(settings: Settings) -> str:
    """Return the statement for a node with these settings."""
    folder = files(__package__)
    text = "\n".join(folder.joinpath(part).read_text(encoding="utf-8") for part in _PARTS)
    return Template(text).substitute(_network(settings) | _annexes())


def _network(settings: Settings) -> dict[str, str]:
    delivery = settings.delivery
    return {
        "version": version("dicom-node"),
        "sop_classes": tables.sop_classes(),
        "association_limits": parameters.association_limits(settings),
        "proposed_contexts": tables.proposed_contexts(),
        "received_statuses": tables.received_statuses(),
        "batch": str(delivery.batch),
        "backoff": f"{delivery.backoff_seconds:g}",
        "backoff_cap": f"{delivery.backoff_cap_seconds:g}",
        "attempts": str(delivery.max_attempts),
        "circuit_failures": str(delivery.circuit_failures),
        "circuit_cap": f"{delivery.circuit_cap_seconds:g}",
        "stow_statuses": web_services.statuses(),
        **_web_services(),
        "commitment_keep": f"{delivery.commitment_keep_days:g}",
        "settle": f"{settings.dispatch.settle_seconds:g}",
        "drain": f"{DRAIN_SECONDS:g}",
        "accepted_contexts": tables.accepted_contexts(),
        "storage_syntaxes": tables.storage_syntaxes(),
        "rejections": tables.rejections(),
        "given_statuses": tables.given_statuses(),
        "reasons": tables.reasons(),
        "tls_suites": parameters.tls_suites(),
        "ae_titles": parameters.ae_titles(settings),
        "configuration": parameters.configuration(settings),
        "character_sets": tables.character_sets(),
        "query_contexts": query.contexts(),
        "query_keys": query.keys(),
        "query_statuses": query.statuses(),
        "ups_contexts": ups.contexts(),
        "ups_attributes": ups.attributes(),
        "ups_statuses": ups.statuses(),
        "ups_resources": ups_web.resources(),
        "ups_status_codes": ups_web.status_codes(),
        "ups_keep": f"{settings.worklist.ups.keep_days:g}",
        "commitment_contexts": commitment.contexts(),
        "commitment_statuses": commitment.statuses(),
        "commitment_failures": commitment.failures(),
        "commitment_delay": f"{delivery.commitment_delay_seconds:g}",
        "commitment_hold": f"{delivery.commitment_hold_seconds:g}",
        "commitment_timeout": f"{delivery.commitment_timeout_seconds:g}",
    }


def _web_services() -> dict[str, str]:
    return {
        "web_resources": web_services.resources(),
        "web_statuses": web_services.web_statuses(),
        "web_returned": web_services.returned(),
        "web_frames": web_services.frame_types(),
        "web_failures": web_services.failures(),
    }


def _annexes() -> dict[str, str]:
    made = objects()
    return {
        "scheme": PRIVATE_SCHEME,
        "made_syntax": tables.name_of(tables.MADE_SYNTAX),
        "common": annex.attributes(made.common),
        "segmentation": annex.attributes(made.segmentation),
        "report": annex.attributes(made.report),
        "capture": annex.attributes(made.capture),
        "presentation": annex.attributes(made.presentation),
        "document": annex.attributes(made.document),
        "note": annex.attributes(made.note),
        "note_tree": annex.content(made.note_tree),
        "tree": annex.content(made.tree),
        "group": annex.content(made.group),
        "groups": annex.groups(),
        "used": annex.used(),
        "standard_codes": annex.standard_codes(),
        "private_codes": annex.private_codes(),
        "private_reasons": annex.private_reasons(),
    }
