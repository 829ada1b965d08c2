"""Every metric and what it says, and how a family of samples is made of rows.

A new gauge: one line in HELP, one `gauge(...)` in `live` (read at each scrape) or in `minute` (read
once a minute), one line in docs/monitoring.md.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

PREFIX: Final = "dicom_node_"
Key = tuple[str, ...]

# Name without prefix: what it says. docs/monitoring.md has a line for each.
HELP: Final = {
    # the database, at each scrape
    "build_info": "1, with the version of the software",
    "database_up": "1 when the database answers",
    "schema_ok": "1 when the database has the schema of this release",
    "oldest_pending_job_seconds": "Age of the oldest job that is due and not leased",
    "oldest_published_job_seconds": "Time for which the oldest message has waited in the queue",
    "oldest_due_delivery_seconds": "Age of the oldest delivery that did not end, by destination",
    "expired_leases": "Jobs whose worker let its lease expire, not yet taken back",
    "queue_length": "Jobs that wait for a worker, by kind",
    "destination_up": "0 when a destination is paused because it cannot be reached",
    "audit_unsealed_events": "Audit events without a seal yet",
    "audit_oldest_unsealed_seconds": "Age of the oldest audit event without a seal",
    "audit_verified_seconds": "Seconds since the last audit verify",
    "audit_verify_findings": "What the last audit verify found; 0: sound",
    "audit_unsent_seals": "Seals whose events the audit repository does not have",
    "audit_repository_failing_seconds": "Seconds since the audit repository took messages, if not",
    "no_study_seconds": "Seconds since the last image of a source; source all: of any",
    "no_study_limit_seconds": "monitoring.no_study_minutes of a source, in seconds",
    # counted from rows, at each scrape
    "received_total": "Objects received, by source",
    "received_bytes_total": "Bytes of the data sets received, by source",
    "events_total": "Audit events by action and outcome",
    "sends_total": "Objects offered to a destination, by outcome and status of the answer",
    "opacity_percent": "Total opacity of the analysed images, by model and version",
    "analysis_seconds": "Seconds from the file to the figures, by model and version",
    "analysis_stage_seconds": "Seconds of one stage of the analyses",
    # disks, at each scrape
    "spool_up": "1 when the folder of the spool can be read",
    "spool_free_bytes": "Free bytes on the disk of the spool",
    "spool_floor_bytes": "Free bytes below which nothing is received",
    "disk_free_bytes": "Free bytes on the disk of a folder",
    "disk_size_bytes": "Size of the disk of a folder",
    # once a minute
    "instances": "Received objects by state",
    "unanalysed": "Received objects by the reason why they have no result, or none any more",
    "jobs": "Jobs by kind and state",
    "deliveries": "Deliveries by destination and state",
    "studies": "Studies by state",
    "workitem_messages": "Messages about workitems (UPS) by receiver and state",
    "database_bytes": "Size of the database",
    "broker_up": "1 when the broker answers",
    "broker_messages": "Messages that wait in the broker, by queue",
    "processes": "Processes of the node on this host, by role and program",
    "process_memory_bytes": "Resident memory of those processes together",
    "process_open_files": "Open files and connections of those processes together",
    "process_open_files_share": "Open files of the fullest of those processes, 1: its limit",
    # the ledger, once a minute, seldom where it takes long
    "ledger_balanced": "1 when both sides of this line of the ledger agree",
    "ledger_difference": "Left side minus right side of this line of the ledger",
    "ledger_age_seconds": "Seconds since the ledger was computed",
    "ledger_seconds": "How long it took to compute",
    "orphan_files": "Spool files without a row that no C-STORE is about to record",
    "missing_files": "Rows whose spool file is gone",
    # drift, every ten minutes
    "drift_psi": "Population stability index of a source against its reference",
    "drift_psi_limit": "What it must exceed to be an alarm, for so many images",
    "drift_ks": "Kolmogorov-Smirnov distance of the opacity of a source to its reference",
    "drift_ks_limit": "What it must exceed to be an alarm, for so many images",
    "drift_images": "Images compared, by source and side",
    "drift_new_reasons": "Reasons that are common in a source now and not in its reference",
    "drift_alarm": "1 when a source has changed: its opacity, or the reasons of its images",
}


def gauge(name: str, values: Iterable[tuple[Key, float]], labels: Key = ()) -> GaugeMetricFamily:
    """Return a gauge with one sample per key."""
    family = GaugeMetricFamily(PREFIX + name, HELP[name], labels=labels)
    for key, value in values:
        family.add_metric(key, float(value))
    return family


def counter(
    name: str, values: Iterable[tuple[Key, float]], labels: Key = ()
) -> CounterMetricFamily:
    """Return a counter with one sample per key; its name ends in `_total`."""
    family = CounterMetricFamily(PREFIX + name.removesuffix("_total"), HELP[name], labels=labels)
    for key, value in values:
        family.add_metric(key, float(value))
    return family


def histogram(
    name: str,
    values: Iterable[tuple[Key, Mapping[int, float], float]],
    edges: tuple[float, ...],
    labels: Key = (),
) -> HistogramMetricFamily:
    """Return a histogram: for each key how many fell into which bin, and their sum.

    Bin i holds what is at most `edges[i]` and above the edge before; the last one what is above
    all.
    """
    family = HistogramMetricFamily(PREFIX + name, HELP[name], labels=labels)
    bounds = [*(f"{edge:g}" for edge in edges), "+Inf"]
    for key, bins, total in values:
        below, buckets = 0.0, []
        for place, bound in enumerate(bounds):
            below += bins.get(place, 0.0)
            buckets.append((bound, below))
        family.add_metric(key, buckets, sum_value=total)
    return family
