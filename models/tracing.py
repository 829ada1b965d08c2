"""Traces for OpenTelemetry: what one image went through, from its C-STORE to its deliveries.

Off unless `monitoring.traces_url` is set; then the packages of the extra `otel` must be installed.
A trace belongs to a received file: its id is a hash of the storage key, which every process knows
from the rows, so nothing has to be carried along. Spans are noted when they are over. They have
ids of rows and codes, never patient data, never a UID.
"""

import hashlib
import logging
import os
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from models.monitoring_sections import MonitoringSettings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
    from opentelemetry.trace import SpanContext

log = logging.getLogger(__name__)

_MASK: Final = (1 << 64) - 1
_BATCH_MILLISECONDS: Final = 1000
_TIMEOUT_SECONDS: Final = 3.0  # for a batch, all its tries together; also when the process ends
Attribute = str | int | float | bool


class TracingError(RuntimeError):
    """Traces are wanted and the packages for them are not there."""


class _Ids:
    """Gives spans their ids: those that are wanted, else random ones."""

    def __init__(self) -> None:
        self.trace_id = 0
        self.span_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id or random.getrandbits(64)

    def is_trace_id_random(self) -> bool:
        return False


class _Outlet:
    """An exporter that says once that the collector is away, and once that it is back."""

    def __init__(self, exporter: "SpanExporter") -> None:
        self._exporter = exporter
        self._is_away = False

    def export(self, spans: "Sequence[ReadableSpan]") -> "SpanExportResult":
        result = self._exporter.export(spans)
        is_away = result.value != 0  # SpanExportResult.SUCCESS
        if is_away and not self._is_away:
            log.warning("traces cannot be sent: they are dropped until the collector answers")
        elif self._is_away and not is_away:
            log.info("traces are sent again")
        self._is_away = is_away
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


@dataclass
class _Traces:
    """What one process sends. The provider is made after a fork, never before: it has a thread."""

    settings: MonitoringSettings
    role: str
    exporter: "SpanExporter | None"
    ids: _Ids = field(default_factory=_Ids)
    lock: threading.Lock = field(default_factory=threading.Lock)
    pid: int = 0
    provider: "TracerProvider | None" = None

    def ready(self) -> "TracerProvider":
        """Return the provider of this process."""
        if self.provider is None or self.pid != os.getpid():
            self.provider, self.pid = self._make(), os.getpid()
        return self.provider

    def _make(self) -> "TracerProvider":
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415  optional packages
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415  the same
        from opentelemetry.sdk.trace.export import (  # noqa: PLC0415  the same
            BatchSpanProcessor,
            SimpleSpanProcessor,
        )

        resource = Resource.create({"service.name": "dicom-node", "dicom_node.role": self.role})
        provider = TracerProvider(resource=resource, id_generator=self.ids)  # type: ignore[arg-type]  # duck
        if self.exporter is not None:
            provider.add_span_processor(SimpleSpanProcessor(self.exporter))
            return provider
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415  the same
            OTLPSpanExporter,
        )

        exporter = OTLPSpanExporter(endpoint=self.settings.traces_url, timeout=_TIMEOUT_SECONDS)
        batches = BatchSpanProcessor(
            _Outlet(exporter),  # type: ignore[arg-type]  # duck
            schedule_delay_millis=_BATCH_MILLISECONDS,
        )
        provider.add_span_processor(batches)
        return provider


_current: list[_Traces] = []  # one, or none: traces are off


def start(settings: MonitoringSettings, role: str, exporter: "SpanExporter | None" = None) -> None:
    """Send the spans of this process, and of those that it forks, if the settings say so.

    Raises TracingError when the packages for it are not installed.
    """
    stop()
    if settings.traces_url is None:
        return
    try:
        import opentelemetry.exporter.otlp.proto.http  # noqa: PLC0415  is it there?
        import opentelemetry.sdk.trace  # noqa: F401, PLC0415  the same
    except ImportError as error:
        msg = "monitoring.traces_url needs OpenTelemetry: `pip install dicom-node[otel]`"
        raise TracingError(msg) from error
    _current.append(_Traces(settings, role, exporter))


def stop() -> None:
    """Send what is left, and nothing more."""
    while _current:
        traces = _current.pop()
        if traces.provider is not None and traces.pid == os.getpid():
            traces.provider.shutdown()


def is_on() -> bool:
    """Whether spans are sent: what is needed for them alone can be left out otherwise."""
    return bool(_current)


def now() -> int:
    """Return the time of spans: nanoseconds since 1970."""
    return time.time_ns()


def ids_of(storage_key: str) -> tuple[int, int]:
    """Return the ids of a file's trace and of the span that all others of it are below."""
    digest = hashlib.sha256(f"dicom-node trace {storage_key}".encode()).digest()
    return int.from_bytes(digest[:16], "big") or 1, int.from_bytes(digest[16:24], "big") or 1


def note(
    name: str,
    storage_key: str,
    began: int,
    ended: int,
    *,
    parent: int | None = None,
    is_root: bool = False,
    links: Sequence[str] = (),
    **attributes: Attribute | None,
) -> int:
    """Send one span of the trace of a file, and return its id.

    Below the span `parent`, else below that of the C-STORE, which is noted with `is_root`. `links`
    are the storage keys of other files that it is about. An attribute that is None is left out.
    """
    trace_id, root_id = ids_of(storage_key)
    if not _current or (trace_id & _MASK) >= _current[0].settings.traces_share * (_MASK + 1):
        return 0
    from opentelemetry import trace  # noqa: PLC0415  optional packages

    traces = _current[0]
    above = _context(trace_id, parent or root_id)
    context = None if is_root else trace.set_span_in_context(trace.NonRecordingSpan(above))
    with traces.lock:
        traces.ids.trace_id, traces.ids.span_id = trace_id, root_id if is_root else 0
        span = (
            traces.ready()
            .get_tracer("dicom_node")
            .start_span(
                name,
                context=context,
                start_time=began,
                links=[trace.Link(_context(*ids_of(key))) for key in links],
                attributes={key: value for key, value in attributes.items() if value is not None},
            )
        )
    span.end(end_time=ended)
    return span.get_span_context().span_id


def _context(trace_id: int, span_id: int) -> "SpanContext":
    from opentelemetry.trace import SpanContext, TraceFlags  # noqa: PLC0415  optional packages

    sampled = TraceFlags(TraceFlags.SAMPLED)
    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=sampled)
