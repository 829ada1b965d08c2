"""Sealed events reach a real receiver by syslog over TLS and TCP: none is lost, whatever breaks."""

import json
import re
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from audit_repository import AuditRepository, Behaviour
from audit_schema import Read
from audits import SealedAudit
from certificates import Authority
from servers import free_port, wait_until

from dicom_node.audit.forwarding import Forwarder, forwarding
from dicom_node.audit.gauges import audit_gauges
from dicom_node.audit.redactions import Redaction, redact
from dicom_node.audit.syslog import repository_name
from models.audit import AuditAction, record
from models.seal import AuditForwarding
from models.session import Database
from models.settings import Settings, load_settings

HEAD = re.compile(rb"<(\d+)>1 (\S+Z) (\S+) dicom-node (\d+) (\S+) - \xef\xbb\xbf(.*)", re.DOTALL)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("pki") / "ca")


def _settings(
    folder: Path, port: int, trusting: Authority | None = None, **repository: Any
) -> Settings:
    """Return settings with a repository: over TLS, if an authority says whom to trust."""
    over_tls = trusting is not None
    chosen = {"host": "localhost", "port": port, "tls": over_tls, "timeout_seconds": 2.0}
    tls = {"trusted_cas": trusting.certificate} if trusting else {}
    return load_settings(
        None,
        data_dir=folder / "data",
        dicom={"tls": tls},
        audit={"seal_seconds": 0.05, "repository": chosen | repository},
    )


def _forwarder(database: Database, settings: Settings) -> Forwarder:
    name = repository_name(settings.audit.repository)
    assert name is not None
    return Forwarder(settings, database, name, monotonic=iter(range(0, 10**6, 1000)).__next__)


def _events_in(messages: list[bytes]) -> Counter[str]:
    """Return how often each event arrived, by what the messages say of themselves."""
    found: Counter[str] = Counter()
    for message in messages:
        match = HEAD.fullmatch(message)
        assert match is not None, message
        if match[5] == b"DICOM+RFC3881":
            found[Read.of(match[6]).details()["event"]] += 1
    return found


def _seals_in(messages: list[bytes]) -> list[int]:
    found = [HEAD.fullmatch(message) for message in messages]
    return [json.loads(it[6])["number"] for it in found if it and it[5] == b"AUDIT-SEAL"]


def _audit(database: Database, settings: Settings) -> SealedAudit:
    audit = SealedAudit(database, settings)
    for study in ("1.2.3", "1.2.4"):
        audit.add(2, study=study)
        audit.add(1, study=study, action=AuditAction.INSTANCE_ANALYSED, outcome="failed")
        audit.seal()
    return audit


def test_over_tls_to_a_repository_whose_certificate_is_verified(
    emptied_database: Database, tmp_path: Path, authority: Authority
) -> None:
    stranger = Authority.make(tmp_path / "stranger")
    with AuditRepository(authority.issue("repository")) as repository:
        settings = _settings(tmp_path, repository.port, authority)
        _audit(emptied_database, settings)
        assert _forwarder(emptied_database, settings).step()
        assert _events_in(repository.messages) == {"2": 1, "3": 1, "5": 1, "6": 1}
        assert _seals_in(repository.messages) == [1, 2]
        heads = [HEAD.fullmatch(message) for message in repository.messages]
        assert [it[1] for it in heads if it] == [b"85", b"84", b"85"] * 2  # failures: warnings
    with AuditRepository(stranger.issue("repository")) as repository:
        other = _settings(tmp_path, repository.port, authority)
        assert not _forwarder(emptied_database, other).step()
        assert repository.messages == []
        with emptied_database.read() as session:
            row = session.get_one(AuditForwarding, f"localhost:{repository.port}")
            assert "certificate verify failed" in (row.error or "")


@pytest.mark.parametrize("secure", [False, True])
def test_an_outage_loses_nothing(
    emptied_database: Database, tmp_path: Path, authority: Authority, *, secure: bool
) -> None:
    """It is away; it breaks in the middle; then it is there again."""
    pair = authority.issue("repository") if secure else None
    port = free_port()
    # Without TLS a repository that does not end in time is believed, and this one is to break.
    trusted = authority if secure else None
    settings = _settings(tmp_path, port, trusted, timeout_seconds=30.0)
    audit = _audit(emptied_database, settings)
    forwarder = _forwarder(emptied_database, settings)
    assert not forwarder.step()
    with emptied_database.read() as session:
        gauges = audit_gauges(session)
    assert gauges.unsent_seals == 2
    assert gauges.repository_failing_seconds is not None
    arrived: list[bytes] = []
    with AuditRepository(pair, port, Behaviour(break_after=2)) as repository:
        audit.add(300)
        while audit.seal():
            pass
        assert not forwarder.step()
        arrived += repository.messages
    with AuditRepository(pair, port) as repository:
        while forwarder.step():
            pass
        arrived += repository.messages
    seen = _events_in(arrived)
    assert set(seen) == {"2", "3", "5", "6", "306"}
    assert max(seen.values()) <= 2
    assert sorted(set(_seals_in(arrived))) == [1, 2, 3]
    with emptied_database.read() as session:
        gauges = audit_gauges(session)
        row = session.get_one(AuditForwarding, f"localhost:{port}")
    assert (gauges.unsent_seals, gauges.repository_failing_seconds) == (0, 0.0)
    assert (row.failing_since, row.error) == (None, None)


def test_a_new_process_goes_on_where_the_former_one_was(
    emptied_database: Database, tmp_path: Path
) -> None:
    with AuditRepository() as repository:
        settings = _settings(tmp_path, repository.port)
        audit = _audit(emptied_database, settings)
        first = _forwarder(emptied_database, settings)
        assert first.step()
        audit.add(1, study="1.2.5")
        audit.seal()
        second = _forwarder(emptied_database, settings)
        assert not second.step()  # the first has the lease
        assert first.step()
        audit.add(1, study="1.2.6")
        audit.seal()
        audit.sql("UPDATE audit_forwarding SET lease_until = '2020-01-01 00:00:00.000000'")
        assert second.step()
        assert not second.step()
        assert _seals_in(repository.messages) == [1, 2, 3, 4]
        assert max(_events_in(repository.messages).values()) == 1


@pytest.mark.parametrize("behaviour", [Behaviour(stay_open=True), Behaviour(is_curt=True)])
@pytest.mark.parametrize("secure", [False, True])
def test_a_receiver_that_never_confirms_is_believed_at_the_second_time(
    emptied_database: Database,
    tmp_path: Path,
    authority: Authority,
    behaviour: Behaviour,
    *,
    secure: bool,
) -> None:
    pair = authority.issue("repository") if secure else None
    with AuditRepository(pair, behaviour=behaviour) as repository:
        trusting = authority if secure else None
        settings = _settings(tmp_path, repository.port, trusting, timeout_seconds=0.5)
        audit = _audit(emptied_database, settings)
        forwarder = _forwarder(emptied_database, settings)
        assert forwarder.step() is not secure
        assert forwarder.step() is secure
        forwarder.step()  # the other half
        assert sorted(set(_seals_in(repository.messages))) == [1, 2]
        audit.add()
        audit.seal()
        assert forwarder.step()
        assert _seals_in(repository.messages)[-1] == 3


@pytest.mark.parametrize("value", ["1*", "abc"])
def test_a_query_for_what_is_no_number_is_sent_like_any_other(
    emptied_database: Database, tmp_path: Path, value: str
) -> None:
    asked = {"service": "C-FIND", "keys": ["NumberOfStudyRelatedInstances"]}
    with AuditRepository() as repository:
        settings = _settings(tmp_path, repository.port)
        audit = SealedAudit(emptied_database, settings)
        with emptied_database.write() as session:
            patient = {"NumberOfStudyRelatedInstances": value}
            record(session, AuditAction.QUERY, "success", details=asked, patient=patient)
        audit.seal()
        assert _forwarder(emptied_database, settings).step()
        assert _seals_in(repository.messages) == [1]


def test_an_event_that_no_message_can_be_made_of_is_a_failure_that_shows(
    emptied_database: Database, tmp_path: Path
) -> None:
    """Somebody edited it. Its seal is tried again, after a pause, and the alert is told."""
    with AuditRepository() as repository:
        settings = _settings(tmp_path, repository.port)
        audit = _audit(emptied_database, settings)
        audit.sql("UPDATE audit_event SET details = '[\"P1\"]' WHERE id = 3")
        forwarder = _forwarder(emptied_database, settings)
        with pytest.raises(AttributeError):
            forwarder.step()
        with emptied_database.read() as session:
            row = session.get_one(AuditForwarding, f"localhost:{repository.port}")
            assert audit_gauges(session).repository_failing_seconds is not None
        assert row.failing_since is not None
        assert row.error == "its messages cannot be made (AttributeError)"
        audit.sql("UPDATE audit_event SET details = '{}' WHERE id = 3")
        assert forwarder.step()


def test_a_position_ahead_of_the_seals_begins_again(
    emptied_database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An older back-up was restored, or somebody wrote to the row: nothing may stay unsent."""
    with AuditRepository() as repository:
        settings = _settings(tmp_path, repository.port)
        audit = _audit(emptied_database, settings)
        forwarder = _forwarder(emptied_database, settings)
        assert forwarder.step()
        audit.sql("UPDATE audit_forwarding SET seal_number = 1000")
        with emptied_database.read() as session:
            assert audit_gauges(session).unsent_seals == 0
        audit.sealed(1)
        while not forwarder.step():
            assert caplog.text.count("everything is sent again") == 1
        assert _seals_in(repository.messages) == [1, 2, 1, 2, 3]
        assert not forwarder.step()


@pytest.mark.parametrize(("at_most", "steps"), [(6, 4), (0, 5)])
def test_a_receiver_that_becomes_too_slow_gets_less_at_once(
    emptied_database: Database, tmp_path: Path, authority: Authority, at_most: int, steps: int
) -> None:
    """Or is believed, where it confirms nothing any more: nothing is sent for ever."""
    behaviour = Behaviour()
    with AuditRepository(authority.issue("repository"), behaviour=behaviour) as repository:
        settings = _settings(tmp_path, repository.port, authority)
        audit = _audit(emptied_database, settings)
        forwarder = _forwarder(emptied_database, settings)
        assert forwarder.step()
        behaviour.confirms_at_most = at_most
        for number in range(40):
            audit.add(1, study=f"1.2.{number}")
        audit.seal()
        results = [forwarder.step() for _ in range(steps)]
        assert results == [False] * (steps - 1) + [True]
        for _ in range(30):
            forwarder.step()
        assert _seals_in(repository.messages)[-1] == 3
        assert set(_events_in(repository.messages)) >= {str(each) for each in range(7, 47)}
        with emptied_database.read() as session:
            assert audit_gauges(session).unsent_seals == 0


def test_what_was_redacted_meanwhile_is_not_sent_any_more(
    emptied_database: Database, tmp_path: Path, authority: Authority
) -> None:
    behaviour = Behaviour(confirms_at_most=1)
    with AuditRepository(authority.issue("repository"), behaviour=behaviour) as repository:
        settings = _settings(tmp_path, repository.port, authority)
        audit = SealedAudit(emptied_database, settings)
        audit.sealed(1)
        forwarder = _forwarder(emptied_database, settings)
        assert not forwarder.step()
        assert forwarder.step()  # the event; the seal is left
        redact(emptied_database, settings, Redaction("ann", "request 17", patient_id="P1"))
        repository.messages.clear()
        while forwarder.step():
            pass
        assert b"P1" not in b"".join(repository.messages)
        assert _seals_in(repository.messages) == [1]


def test_a_thread_sends_while_events_are_sealed(emptied_database: Database, tmp_path: Path) -> None:
    with AuditRepository() as repository:
        settings = _settings(tmp_path, repository.port)
        audit = SealedAudit(emptied_database, settings)
        stop = threading.Event()
        with forwarding(settings, emptied_database, stop):
            for number in range(5):
                audit.add(1, study=f"1.{number}")
                audit.sealer.step()
                time.sleep(0.06)
            audit.seal()
            wait_until(lambda: len(_events_in(repository.messages)) == 5, 10, "five events")
        assert stop.is_set()
        assert set(_events_in(repository.messages)) == {"1", "2", "3", "4", "5"}


def test_without_a_repository_nothing_is_sent(emptied_database: Database, tmp_path: Path) -> None:
    settings = load_settings(None, data_dir=tmp_path)
    before = threading.active_count()
    with forwarding(settings, emptied_database, threading.Event()):
        assert threading.active_count() == before
