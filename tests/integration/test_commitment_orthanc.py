"""Storage Commitment with Orthanc, which gives it and asks for it."""

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import chest_dataset
from commitments import CommitmentBench, orders, wait_for
from rows import open_database
from senders import store

from dicom_node.commitment.reporting import Reporter
from dicom_node.demo.pacs import OrthancPacs
from dicom_node.listener import Listener
from dicom_node.planning import delivered_studies
from models.commitment import CommitmentRequest
from models.settings import load_settings
from models.states import CommitmentState, EventReportState

CR = "1.2.840.10008.5.1.4.1.1.1"


def _rest(orthanc: OrthancPacs, method: str, path: str, body: object = None) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", orthanc.http_port, timeout=30)
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        answer = connection.getresponse()
        text = answer.read()
    finally:
        connection.close()
    assert answer.status == http.HTTPStatus.OK, (path, answer.status, text)
    return json.loads(text) if text.strip().startswith((b"{", b"[")) else None


def _introduce(orthanc: OrthancPacs, port: int) -> None:
    """Tell Orthanc where the node listens."""
    where = {"AET": "NODE", "Host": "127.0.0.1", "Port": port}
    _rest(orthanc, "PUT", "/modalities/node", where)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[CommitmentBench]:
    url = f"sqlite:///{tmp_path / 'node.db'}"
    with open_database(url) as database:
        yield CommitmentBench(database, tmp_path / "data", url, commitment_hold_seconds=15)


def test_orthanc_commits_and_tells_what_it_lost(
    bench: CommitmentBench, orthanc: OrthancPacs
) -> None:
    listener = Listener(bench.settings, bench.database)
    try:
        _introduce(orthanc, listener.port)
        bench.send_to(orthanc.port)
        lost = bench.uid(bench.seg_id)
        (key,) = [it.key for it in orthanc.objects() if it.sop_instance_uid == lost]
        _rest(orthanc, "DELETE", f"/instances/{key}")
        bench.asker().step()
        wait_for(lambda: "sent" not in bench.states(), "the answer of Orthanc")
        assert bench.states() == ["due", "committed"]
        assert bench.row(bench.seg_id).error == "not committed: 0x0112, no such object instance"
        bench.deliver()
        bench.asker().step()
        wait_for(lambda: "sent" not in bench.states(), "the second answer")
    finally:
        listener.stop()
    assert bench.states() == ["committed", "committed"]
    assert {it.sop_instance_uid for it in orthanc.objects()} == {lost, bench.uid(bench.sr_id)}
    requests: list[CommitmentRequest] = bench.requests()
    assert [each.state for each in requests] == [CommitmentState.ANSWERED] * 2
    with bench.database.read() as session:
        assert len(delivered_studies(session, bench.settings)) == 1


def test_orthanc_asks_and_takes_the_answer(tmp_path: Path, orthanc: OrthancPacs) -> None:
    url = f"sqlite:///{tmp_path / 'node.db'}"
    peer = {"ae_title": orthanc.ae_title, "host": "127.0.0.1", "port": orthanc.port}
    settings = load_settings(
        None,
        data_dir=tmp_path / "data",
        database_url=url,
        dicom={"host": "127.0.0.1", "port": 0, "min_free_bytes": 0},
        commitment_provider={"enabled": True, "peers": [peer]},
    )
    with open_database(url) as database:
        listener = Listener(settings, database)
        try:
            _introduce(orthanc, listener.port)
            ds = chest_dataset()
            assert store(listener.port, ds) == 0x0000
            for uid, expected in ((ds.SOPInstanceUID, "Success"), ("1.2.3.4", "Failure")):
                question = {"DicomInstances": [{"SOPClassUID": CR, "SOPInstanceUID": uid}]}
                asked = _rest(orthanc, "POST", "/modalities/node/storage-commitment", question)
                reporter = Reporter(settings, database, settings.commitment_provider.peers[0])
                assert reporter.step()
                answer = _rest(orthanc, "GET", asked["Path"])
                assert (answer["Status"], answer["RemoteAET"]) == (expected, "NODE")
        finally:
            listener.stop()
        assert [each.state for each in orders(database)] == [EventReportState.ACCEPTED] * 2
