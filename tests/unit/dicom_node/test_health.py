"""`dicom-node health`: what it finds wrong. What it finds right: tests/deploy, with real roles."""

import http.server
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import servers
from click.testing import CliRunner, Result
from rows import open_database

from dicom_node import health
from dicom_node.cli import cli
from models.running import register


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith("DICOM_NODE_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(health, "_SECONDS", 0.3)
    monkeypatch.setenv("DICOM_NODE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("DICOM_NODE_DATABASE_URL", f"sqlite:///{tmp_path / 'node.db'}")


@pytest.fixture
def port() -> Iterator[int]:
    """A port on which the kernel takes connections and nobody accepts one: a hung process."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def _asked(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["health", *arguments])


@pytest.mark.parametrize("role", [[], *([it] for it in health.PROBES)])
def test_a_role_that_does_not_run_here(role: list[str]) -> None:
    result = _asked(*role)
    assert result.exit_code == 1
    assert "runs here on" in result.stderr


def test_without_names_it_asks_what_runs_here(tmp_path: Path) -> None:
    register(tmp_path, "dispatch")
    with open_database(f"sqlite:///{tmp_path / 'node.db'}"):
        result = _asked()
    assert (result.exit_code, result.stdout) == (0, "dispatch: ok\n")


@pytest.mark.parametrize("role", ["listen", "dispatch", "deliver"])
def test_a_database_without_tables_is_no_work_and_no_reason_to_restart(
    role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(tmp_path, role)
    monkeypatch.setenv("DICOM_NODE_DICOM__ALLOWED_ADDRESSES", '["10.0.0.0/8"]')  # not asked itself
    result = _asked(role)
    assert _asked("--alive", role).exit_code == 0
    assert result.exit_code == 1
    assert "run `dicom-node db upgrade`" in result.stderr


def test_a_list_without_this_host_is_not_tried(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each probe would stand in the audit as a refused connection."""
    register(tmp_path, "listen")
    monkeypatch.setenv("DICOM_NODE_DICOM__PORT", str(port))
    assert _asked("--alive", "listen").exit_code == 1
    monkeypatch.setenv("DICOM_NODE_DICOM__ALLOWED_ADDRESSES", '["10.0.0.0/8"]')
    assert _asked("--alive", "listen").exit_code == 0
    monkeypatch.setenv("DICOM_NODE_DICOM__ALLOWED_ADDRESSES", '["127.0.0.0/8"]')
    assert _asked("--alive", "listen").exit_code == 1


@pytest.mark.parametrize("role", ["listen", "web"])
def test_a_process_that_hangs_is_not_alive(
    role: str, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(tmp_path, role)
    monkeypatch.setenv("DICOM_NODE_DICOM__PORT", str(port))
    monkeypatch.setenv("DICOM_NODE_WEB__PORT", str(port))
    result = _asked("--alive", role)
    assert result.exit_code == 1
    assert f"{role}: port {port} does not answer: timed out" in result.stderr


class _Unavailable(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"status": "unavailable", "parts": {"spool": "SpoolFullError"}})
        self.send_response(503)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


def test_a_web_side_that_cannot_take_a_study_is_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(tmp_path, "web")
    with http.server.HTTPServer(("127.0.0.1", 0), _Unavailable) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        monkeypatch.setenv("DICOM_NODE_WEB__PORT", str(server.server_port))
        try:
            asked, alive = _asked("web"), _asked("--alive", "web")
        finally:
            server.shutdown()
            thread.join()
    assert (asked.exit_code, asked.stderr) == (1, "web: spool: SpoolFullError\n")
    assert alive.exit_code == 0


def test_a_worker_without_broker_is_no_reason_to_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(tmp_path, "worker")
    monkeypatch.setenv("DICOM_NODE_BROKER_URL", f"redis://127.0.0.1:{servers.free_port()}/0")
    result = _asked("worker")
    assert result.exit_code == 1
    assert "worker: the broker does not answer" in result.stderr
    assert _asked("--alive", "worker").exit_code == 0


def test_a_worker_that_nobody_hears_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_server: str
) -> None:
    register(tmp_path, "worker")
    monkeypatch.setenv("DICOM_NODE_BROKER_URL", redis_server)
    result = _asked("worker")
    assert result.exit_code == 1
    assert f"the worker of {socket.gethostname()} does not answer" in result.stderr
