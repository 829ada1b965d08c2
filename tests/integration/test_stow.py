"""STOW-RS to Orthanc: every object arrives as it is and once, whatever happens in between."""

import http.client
import json
import os
import signal
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
from delivery_bench import Bench, write_configuration
from dicomweb import WebOrthanc, kill_orthanc
from pydicom import dcmread
from servers import free_port, wait_until
from sqlalchemy import select

from dicom_node.delivery import Deliverer, synchronise_destinations
from dicom_node.demo.pacs import OrthancPacs
from dicom_node.doctor import check_destination
from dicom_node.senders.base import Receiver
from dicom_node.senders.chosen import sender_for
from models.delivery import Destination
from models.session import Database
from models.settings import Settings, load_settings
from models.states import CircuitState, DeliveryState

STUDIES = 10
NOWHERE = Receiver("web", "DICOMWEB", "127.0.0.1", 1)


def _settings(folder: Path, url: str, database_url: str, **destination: object) -> Settings:
    return load_settings(
        None,
        data_dir=folder / "data",
        database_url=database_url,
        delivery={"timeout_seconds": 10, "backoff_seconds": 0.01},
        destinations=[{"name": "web", "url": url, **destination}],
    )


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """One kind is enough: what the rows do is the same for every sender."""
    return f"sqlite:///{tmp_path / 'node.db'}"


def _deliverer(bench: Bench) -> Deliverer:
    synchronise_destinations(bench.database, bench.settings)
    with bench.database.read() as session:
        destination = session.scalars(select(Destination.id)).one()
    sender = sender_for(bench.settings, "web")
    return Deliverer(bench.settings, bench.database, sender, destination)


def _url(orthanc: WebOrthanc) -> str:
    return f"http://127.0.0.1:{orthanc.http_port}/dicom-web"


def _assert_arrived(bench: Bench, orthanc: OrthancPacs) -> None:
    """Every object is there once, with the data set that was stored here."""
    files = bench.files()
    held = orthanc.objects()
    assert sorted(it.sop_instance_uid for it in held) == sorted(files)
    for it in held:
        arrived = dcmread(BytesIO(orthanc.fetch(it.key)))
        sent = dcmread(BytesIO(files[it.sop_instance_uid]))
        assert arrived == sent
        assert arrived.file_meta.TransferSyntaxUID == sent.file_meta.TransferSyntaxUID


def test_everything_arrives_once_and_as_it_is(
    database: Database, database_url: str, web_orthanc: WebOrthanc, tmp_path: Path
) -> None:
    bench = Bench(database, _settings(tmp_path, _url(web_orthanc), database_url), 2)
    deliverer = _deliverer(bench)
    bench.plan(bench.destination().id)
    assert bench.destination().ae_title == "DICOMWEB"
    assert "answers QIDO-RS" in check_destination(
        bench.settings, database, bench.settings.destinations[0]
    )
    while deliverer.step():
        pass
    assert bench.states() == {DeliveryState.SENT}
    assert {row.attempts for row in bench.all_rows()} == {1}
    _assert_arrived(bench, web_orthanc)
    _send_again(bench)  # as after a lost answer
    bench.deliver(deliverer)
    assert bench.states() == {DeliveryState.SENT}
    _assert_arrived(bench, web_orthanc)


def _send_again(bench: Bench) -> None:
    with bench.database.write() as session:
        for row in bench.all_rows():
            fresh = session.merge(row)
            fresh.state = DeliveryState.DUE
    bench.make_due()


def test_a_server_that_was_away_gets_everything_when_it_is_back(
    database: Database, database_url: str, web_orthanc: WebOrthanc, tmp_path: Path
) -> None:
    bench = Bench(database, _settings(tmp_path, _url(web_orthanc), database_url), 2)
    deliverer = _deliverer(bench)
    bench.plan(bench.destination().id)
    folder, port = web_orthanc._folder, web_orthanc.http_port
    deliverer.step()
    web_orthanc.close()
    for _ in range(5):
        bench.make_due()
        deliverer.step()
    assert bench.destination().state is CircuitState.OPEN
    assert "cannot be reached: Connection refused" in (bench.destination().problem or "")
    again = _restarted(web_orthanc, folder, port)
    try:
        bench.deliver(deliverer)
        _assert_arrived(bench, again)
    finally:
        kill_orthanc(again)
    assert bench.destination().state is CircuitState.CLOSED


def _restarted(orthanc: WebOrthanc, folder: Path, http_port: int) -> WebOrthanc:
    """Start an Orthanc over the same storage and port."""

    class Again(WebOrthanc):
        def _configure(self) -> Path:
            path = super()._configure()
            settings = json.loads(path.read_text())
            settings["HttpPort"] = self.http_port = http_port
            path.write_text(json.dumps(settings))
            return path

    program = Path(str(orthanc._process.args[0]))  # type: ignore[index]  # a list, as it was started
    return Again(program, folder)


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/nowhere", "QIDO-RS was answered 404: correct the path of its url"),
        ("/dicom-web/nowhere", "QIDO-RS was answered 404: correct the path of its url"),
    ],
)
def test_a_wrong_path_is_said_and_costs_no_attempt(
    database: Database,
    database_url: str,
    web_orthanc: WebOrthanc,
    tmp_path: Path,
    path: str,
    problem: str,
) -> None:
    url = f"http://127.0.0.1:{web_orthanc.http_port}{path}"
    bench = Bench(database, _settings(tmp_path, url, database_url))
    deliverer = _deliverer(bench)
    bench.plan(bench.destination().id)
    assert sender_for(bench.settings, "web").echo(NOWHERE) == problem
    deliverer.step()
    row = bench.all_rows()[1]
    assert (row.state, row.attempts) == (DeliveryState.DUE, 0)
    assert row.error in {
        f"STOW-RS was answered {code}: correct the path of its url" for code in (404, 405)
    }
    with pytest.raises(RuntimeError, match="correct the path of its url"):
        check_destination(bench.settings, database, bench.settings.destinations[0])


def test_credentials_come_from_a_file_or_the_environment_and_stand_in_no_row(
    database: Database,
    database_url: str,
    web_orthanc: WebOrthanc,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, port = web_orthanc._folder, web_orthanc.http_port
    kill_orthanc(web_orthanc)
    orthanc = _with_password(web_orthanc, folder, port)
    secret = "Basic bm9kZTpzZWNyZXQ="  # noqa: S105  node:secret
    headers = tmp_path / "headers"
    headers.write_text("Authorization: Basic d3Jvbmc6d3Jvbmc=\n")
    try:
        bench = Bench(
            database,
            _settings(
                tmp_path,
                _url(orthanc),
                database_url,
                headers_file=str(headers),
                headers_variable="PACS_HEADERS",
            ),
        )
        deliverer = _deliverer(bench)
        bench.plan(bench.destination().id)
        deliverer.step()
        problem = bench.destination().problem or ""
        assert "the environment has no PACS_HEADERS" in problem
        monkeypatch.setenv("PACS_HEADERS", "# nothing")
        bench.make_due()
        deliverer.step()
        problem = bench.destination().problem or ""
        assert problem == "STOW-RS was answered 401: correct the credentials (headers_file)"
        monkeypatch.setenv("PACS_HEADERS", f"Authorization: {secret}")
        bench.deliver(deliverer)
    finally:
        kill_orthanc(orthanc)
    assert bench.states() == {DeliveryState.SENT}
    assert secret.encode() not in (tmp_path / "node.db").read_bytes()


def _with_password(orthanc: WebOrthanc, folder: Path, http_port: int) -> WebOrthanc:
    class Locked(WebOrthanc):
        def _configure(self) -> Path:
            path = super()._configure()
            settings = json.loads(path.read_text())
            settings["HttpPort"] = self.http_port = http_port
            settings |= {"AuthenticationEnabled": True, "RegisteredUsers": {"node": "secret"}}
            path.write_text(json.dumps(settings))
            return path

        def get_bytes(self, path: str) -> bytes:
            connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=60)
            try:
                connection.request("GET", path, headers={"Authorization": "Basic bm9kZTpzZWNyZXQ="})
                return connection.getresponse().read()
            finally:
                connection.close()

    return Locked(Path(str(orthanc._process.args[0])), folder)  # type: ignore[index]  # a list


@pytest.mark.parametrize("over", ["stow", "cstore"])
def test_a_deliverer_killed_in_mid_batch_doubles_nothing_and_loses_nothing(
    database: Database, database_url: str, web_orthanc: WebOrthanc, tmp_path: Path, over: str
) -> None:
    """kill -9 again and again, each time after some more objects have arrived."""
    where = (
        {"url": _url(web_orthanc)}
        if over == "stow"
        else {"ae_title": "ORTHANC", "host": "127.0.0.1", "port": web_orthanc.port}
    )
    bench = Bench(database, _settings(tmp_path, _url(web_orthanc), database_url), STUDIES)
    settings = {"poll_seconds": 0.05, "batch": 2 * STUDIES, "backoff_seconds": 0.01}
    tree = {"delivery": settings, "destinations": [{"name": "web", **where}]}
    configuration = write_configuration(tmp_path, database_url, tree)
    synchronise_destinations(database, bench.settings)
    bench.plan(bench.destination().id)
    killed = 0
    for wanted in (2, 5, 9, 13):
        process = _deliver(configuration)
        try:
            _wait_for(web_orthanc, wanted, process)
            os.kill(process.pid, signal.SIGKILL)
        finally:
            process.wait(30)
        assert process.returncode == -signal.SIGKILL
        killed += DeliveryState.SENDING in bench.states()
        bench.make_due()
    assert killed  # in the middle of a batch
    process = _deliver(configuration)
    try:
        wait_until(lambda: bench.states() == {DeliveryState.SENT}, 60, "the rest")
    finally:
        process.terminate()
        process.wait(30)
    _assert_arrived(bench, web_orthanc)


def _deliver(configuration: Path) -> "subprocess.Popen[bytes]":
    program = Path(sys.executable).with_name("dicom-node")
    return subprocess.Popen([program, "deliver", "--config", configuration])


def _wait_for(orthanc: OrthancPacs, wanted: int, process: "subprocess.Popen[bytes]") -> None:
    def is_there() -> bool:
        assert process.poll() is None
        return len(orthanc.get("/instances")) >= wanted

    wait_until(is_there, 60, f"{wanted} objects", every=0.002)


def test_an_absent_server_is_named_by_check(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    settings = _settings(tmp_path, f"http://127.0.0.1:{free_port()}/dicom-web", database_url)
    with pytest.raises(RuntimeError, match=r"127\.0\.0\.1 cannot be reached: Connection refused"):
        check_destination(settings, database, settings.destinations[0])
