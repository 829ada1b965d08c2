"""One image, one trace: from its C-STORE over its analysis and its report to its deliveries."""

import json
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from builders import write_part10
from click.testing import CliRunner
from flow import phantom, running_flow
from nodes import store
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from rows import instances

from dicom_node.cli import cli
from dicom_node.demo.pacs import StoragePacs
from models import tracing
from models.monitoring_sections import MonitoringSettings

COLLECTOR = "http://127.0.0.1:1/v1/traces"  # never asked where spans stay in memory


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    tracing.start(MonitoringSettings(traces_url=COLLECTOR), "test", exporter)
    yield exporter
    tracing.stop()


def _send(port: int, folder: Path, *seeds: int, **header: object) -> None:
    paths = []
    for seed in seeds:
        ds = phantom(seed, **header)
        ds.StudyInstanceUID = "1.2.826.0.1.3680043.8.498.77"
        paths.append(write_part10(folder / f"{seed}.dcm", ds))
    assert store(port, *paths) == [0x0000] * len(paths)


def _by_name(exporter: InMemorySpanExporter, trace_id: int) -> dict[str, list[ReadableSpan]]:
    """Return the spans of one trace."""
    found: dict[str, list[ReadableSpan]] = {}
    for span in exporter.get_finished_spans():
        if span.context.trace_id == trace_id:
            found.setdefault(span.name, []).append(span)
    return found


def test_everything_that_an_image_went_through_is_one_trace(
    listen: Callable[..., Any],
    redis_server: str,
    storage_scp: StoragePacs,
    spans: InMemorySpanExporter,
    tmp_path: Path,
) -> None:
    node = listen()
    _send(node.port, tmp_path, 7, 8, PatientName="Zebedee^Quixote", PatientID="QX-83641")
    with running_flow(node.database, node.settings, redis_server, storage_scp) as flow:
        flow.run()
    instance, other = instances(node.database)
    trace_id, root_id = tracing.ids_of(instance.storage_key)
    other_id, _ = tracing.ids_of(other.storage_key)
    found = _by_name(spans, trace_id)
    assert found.keys() == {
        *("store", "record", "analyse", "decode", "gate", "inference", "measure", "objects"),
        *("report", "deliver"),
    }
    assert _by_name(spans, other_id).keys() == found.keys() - {"report"}
    for span in spans.get_finished_spans():
        assert span.context.trace_id in {trace_id, other_id}
        assert span.end_time >= span.start_time
    [report] = found["report"]  # over both, in the trace of the first
    assert [link.context.trace_id for link in report.links] == [other_id]
    assert report.attributes["images"] == 2
    [root], [analyse] = found["store"], found["analyse"]
    assert (root.context.span_id, root.parent) == (root_id, None)
    assert root.attributes["outcome"] == "stored"
    for name in ("record", "analyse", "report", "deliver"):
        assert {span.parent.span_id for span in found[name]} == {root_id}
    assert found["decode"][0].parent.span_id == analyse.context.span_id
    assert found["gate"][0].start_time == found["decode"][0].end_time
    assert (analyse.attributes["outcome"], analyse.attributes["job_id"]) == ("analysed", 1)
    sent = [span.attributes for span in found["deliver"]]
    assert {each["kind"] for each in sent} == {"seg", "sr"}
    assert {(each["outcome"], each["status"]) for each in sent} == {("sent", "0x0000")}
    text = json.dumps([json.loads(span.to_json()) for span in spans.get_finished_spans()])
    for word in ("Zebedee", "QX-83641", instance.sop_instance_uid, "1.2.826"):
        assert word not in text


def test_a_share_of_the_images_is_traced_in_every_process_the_same() -> None:
    keys = [f"ab/{number}.dcm" for number in range(400)]
    for share, least, most in ((0.0, 0, 0), (0.25, 60, 140), (1.0, 400, 400)):
        seen = []
        for role in ("listen", "worker"):
            exporter = InMemorySpanExporter()
            settings = MonitoringSettings(traces_url=COLLECTOR, traces_share=share)
            tracing.start(settings, role, exporter)
            for key in keys:
                tracing.note("store", key, 1, 2, is_root=True)
            tracing.stop()
            seen.append({span.context.trace_id for span in exporter.get_finished_spans()})
        assert seen[0] == seen[1]
        assert least <= len(seen[0]) <= most
    assert not tracing.is_on()
    assert tracing.note("store", keys[0], 1, 2) == 0  # off: nothing happens


class _Collector(BaseHTTPRequestHandler):
    """Takes what an OTLP exporter sends."""

    bodies: list[tuple[str, bytes]]

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.server.bodies.append((self.path, self.rfile.read(length)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_arguments: Any) -> None:
        pass


def test_spans_reach_a_collector_over_http() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Collector)
    server.bodies = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/v1/traces"
        tracing.start(MonitoringSettings(traces_url=url), "listen")
        tracing.note("store", "ab/key.dcm", 1, 2, is_root=True, outcome="stored")
        tracing.stop()
    finally:
        server.shutdown()
        server.server_close()
    [(path, body)] = server.bodies
    assert path == "/v1/traces"
    trace_id, span_id = tracing.ids_of("ab/key.dcm")
    assert trace_id.to_bytes(16, "big") in body
    assert span_id.to_bytes(8, "big") in body
    assert b"dicom_node.role" in body


def test_without_the_packages_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http", None)
    environment = {"DICOM_NODE_MONITORING__TRACES_URL": COLLECTOR}
    answer = CliRunner().invoke(cli, ["dispatch", "--data-dir", str(tmp_path)], env=environment)
    assert answer.exit_code == 2
    assert "pip install dicom-node[otel]" in answer.output
