"""Every earlier release's database, with what its node left, goes to the newest schema and back.

The archives are made by `tests/releases/keep.py` from the releases themselves.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from flow import running_flow
from released import RELEASES, Facts, Release, facts_of
from sqlalchemy import select

from dicom_node.cli import cli
from dicom_node.demo.pacs import StoragePacs
from dicom_node.ledger import compute
from dicom_node.receive import data_set_offset
from migrations import schema
from models.files import sha256_of
from models.imaging import Instance
from models.result import Artifact
from models.session import Database
from models.settings import Settings, load_settings
from models.states import ArtifactKind, InstanceState

# What a migration changes on purpose, by table and column.
MEANT: dict[tuple[str, str], Callable[[Any, Any], bool]] = {
    # 0011: a payload that was JSON's null is none.
    ("audit_event", "patient"): lambda old, new: old in ("null", None) and new is None,
}


class Upgraded:
    """One release's node, on disk, and what its database held before anything was done to it."""

    def __init__(self, release: Release, folder: Path, url: str) -> None:
        self.release = release
        self.data_dir = release.unpack(folder, url)
        self.settings: Settings = load_settings(
            None, data_dir=self.data_dir, database_url=url, dicom={"min_free_bytes": 0}
        )
        self.database = Database(url)
        self.before = facts_of(self.database)

    def unbalanced(self) -> list[str]:
        """Return the lines of the ledger that do not balance."""
        return [str(line) for line in compute(self.database, self.settings) if not line.balanced]

    def missing(self) -> list[str]:
        """Return what is not in the database any more as it was."""
        return list(_missing(self.before, facts_of(self.database)))

    def damaged(self) -> list[str]:
        """Return the files that do not hold what the newest rows say; pictures were not kept."""
        found = []
        with self.database.read() as session:
            for image in session.scalars(select(Instance)):
                path = self.settings.spool_dir / image.storage_key
                if sha256_of(path, data_set_offset(path)) != image.data_set_sha256:
                    found.append(image.storage_key)
            for made in session.scalars(select(Artifact)):
                path = self.settings.artifact_dir / made.storage_key
                if path.suffix != ".png" and sha256_of(path) != made.sha256:
                    found.append(made.storage_key)
        return found


def _missing(before: Facts, after: Facts) -> Iterator[str]:
    for table, rows in before.items():
        for key, row in rows.items():
            now = after.get(table, {}).get(key)
            if now is None:
                yield f"{table} {key}"
                continue
            for column, old in row.items():
                is_meant = MEANT.get((table, column), lambda *_: False)
                if column not in now or (now[column] != old and not is_meant(old, now[column])):
                    yield f"{table} {key} {column}: {old!r}, now {now.get(column)!r}"


# All on SQLite; on PostgreSQL the oldest, every third and the newest two: it takes longer there.
CASES = [(each, "sqlite") for each in RELEASES] + [
    (each, "postgresql") for each in sorted({*RELEASES[::3], *RELEASES[-2:]})
]


def _named(value: Release | str) -> str:
    return value if isinstance(value, str) else value.revision


@pytest.fixture(params=RELEASES, ids=_named)
def release(request: pytest.FixtureRequest) -> Release:
    """Each release that was kept."""
    kept: Release = request.param
    return kept


@pytest.fixture
def upgraded(release: Release, tmp_path: Path, bare_database_url: str) -> Iterator[Upgraded]:
    """One release's node on a database of each kind, as that release left it."""
    node = Upgraded(release, tmp_path / "node", bare_database_url)
    yield node
    node.database.dispose()


@pytest.mark.parametrize(("release", "bare_database_url"), CASES, indirect=True, ids=_named)
def test_every_release_goes_to_the_newest_schema_and_back(upgraded: Upgraded) -> None:
    """Every cell stays, the ledger balances, every file has the bytes that its row says."""
    database, own = upgraded.database, upgraded.release.revision
    _holds_what_a_release_can_hold(upgraded.before)
    schema.upgrade(database)
    assert upgraded.missing() == []
    assert upgraded.unbalanced() == []
    assert upgraded.damaged() == []

    previous = _previous(database)
    schema.downgrade(database, previous)
    assert schema.current_revision(database) == previous
    if own <= previous:
        assert upgraded.missing() == []
    schema.upgrade(database)
    assert upgraded.missing() == [] or own > previous
    assert upgraded.unbalanced() == []

    if own < previous:
        schema.downgrade(database, own)
        assert upgraded.missing() == []
        assert set(facts_of(database)) == set(upgraded.before)


def _previous(database: Database) -> str:
    at = schema.current_revision(database)
    known = [
        each.revision
        for each in schema.ScriptDirectory.from_config(schema._config()).walk_revisions()
    ]
    return known[known.index(at or "") + 1]


def _holds_what_a_release_can_hold(facts: Facts) -> None:
    """Fail on an archive that would prove nothing."""
    images = {(row["state"], row["reason"]) for row in facts["instance"].values()}
    assert {("analysed", None), ("queued", None), ("not_analysed", "too_small")} <= images
    assert {("quarantined", "no_patient_id"), ("quarantined", "uid_conflict")} <= images
    deliveries = {row["state"] for row in facts["delivery"].values()}
    assert {"sent", "due"} <= deliveries
    outcomes = {row["outcome"] for row in facts["audit_event"].values()}
    assert {"stored", "duplicate"} <= outcomes
    jobs = {(row["kind"], row["state"]) for row in facts["job"].values()}
    assert {("analyse", "done"), ("analyse", "pending"), ("report", "done")} <= jobs


@pytest.mark.parametrize("release", [RELEASES[0], RELEASES[-1]], ids=["oldest", "newest"])
def test_what_an_older_release_had_begun_ends_in_this_one(
    release: Release, tmp_path: Path, redis_server: str, storage_scp: StoragePacs
) -> None:
    """A study that waited, an image that no worker had taken, results that a PACS did not get."""
    node = Upgraded(release, tmp_path / "node", f"sqlite:///{tmp_path / 'node.db'}")
    schema.upgrade(node.database)
    try:
        with running_flow(node.database, node.settings, redis_server, storage_scp) as flow:
            flow.run()
            assert flow.unbalanced() == []
        with node.database.read() as session:
            waiting = (InstanceState.QUEUED, InstanceState.RECEIVED)
            assert session.scalars(select(Instance).where(Instance.state.in_(waiting))).all() == []
            reports = select(Artifact).where(Artifact.kind == ArtifactKind.SR)
            made = {each.sop_instance_uid for each in session.scalars(reports)}
        old = {row["sop_instance_uid"] for row in node.before["artifact"].values()}
        assert len(made - old) >= 2, "the study that waited, and that of the image that waited"
        sent = {each.key for each in storage_scp.objects()}
        assert len(sent) >= 4, "a SEG and an SR each"
    finally:
        node.database.dispose()


def _run(settings_url: str, *command: str) -> tuple[int, str]:
    environment = {"DICOM_NODE_DATABASE_URL": settings_url}
    answer = CliRunner(env=environment).invoke(cli, command, catch_exceptions=True)
    said = str(answer.exception) if isinstance(answer.exception, schema.SchemaError) else ""
    return answer.exit_code, answer.output + said


def test_what_an_administrator_reads_when_code_and_schema_do_not_fit(
    tmp_path: Path, bare_database_url: str
) -> None:
    data_dir = ("--data-dir", str(tmp_path / "data"))
    code, said = _run(bare_database_url, "db", "check", *data_dir)
    assert code == 1
    assert "no tables yet" in said
    assert "run `dicom-node db upgrade`" in said
    code, said = _run(bare_database_url, "db", "upgrade", *data_dir)
    assert (code, said) == (0, f"schema {schema.newest_revision()}\n")
    code, said = _run(bare_database_url, "db", "downgrade", "0009", *data_dir)
    assert code == 1, "nobody answered the question"
    code, said = _run(bare_database_url, "db", "downgrade", "0009", "--yes", *data_dir)
    assert (code, said) == (0, "schema 0009\n")
    code, said = _run(bare_database_url, "db", "downgrade", "0013", "--yes", *data_dir)
    assert code == 1
    assert "0013 is not older" in said
    code, said = _run(bare_database_url, "db", "check", *data_dir)
    assert code == 1
    assert "has schema 0009, this release wants schema" in said
    database = Database(bare_database_url)
    with database.write() as session:
        session.connection().exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    database.dispose()
    for command in ("check", "upgrade"):
        code, said = _run(bare_database_url, "db", command, *data_dir)
        assert code == 1
        assert "has schema 9999, made by a newer release" in said
        assert "install the newer release" in said


def test_an_archive_says_whose_it_is(release: Release, tmp_path: Path) -> None:
    release.unpack(tmp_path, f"sqlite:///{tmp_path / 'node.db'}")
    said = json.loads((tmp_path / "release.json").read_text())
    assert said["revision"] == release.revision
    database = Database(f"sqlite:///{tmp_path / 'node.db'}")
    assert schema.current_revision(database) == release.revision
    database.dispose()
