"""Secrets from files: DICOM_NODE_DATABASE_URL_FILE and DICOM_NODE_BROKER_URL_FILE."""

import os
from pathlib import Path

import pytest

from dicom_node.supervisor import child_environment
from models.secret_files import SECRETS
from models.settings import Settings, load_settings

_URL = "postgresql+psycopg://node:s3cret@db/node"
_SECRETS = {"database_url": _URL, "broker_url": "redis://:s3cret@redis:6379/0"}


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("DICOM_NODE_"):
            monkeypatch.delenv(name)


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "database_url"
    path.write_text(f"{_URL}\n")
    monkeypatch.setenv("DICOM_NODE_DATABASE_URL_FILE", str(path))
    return path


@pytest.mark.parametrize("name", SECRETS)
def test_the_value_is_the_text_of_the_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text(f"  {_SECRETS[name]}\n")
    monkeypatch.setenv(f"DICOM_NODE_{name.upper()}_FILE", str(tmp_path / "secret"))
    assert getattr(load_settings(), name) == _SECRETS[name]


def test_every_such_setting_exists() -> None:
    assert set(SECRETS) <= set(Settings.model_fields)


@pytest.mark.usefixtures("secret")
def test_it_wins_over_the_configuration_file_and_not_over_arguments(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text('database_url = "sqlite:///other.db"\n')
    assert load_settings(config).database_url == _URL
    assert load_settings(config, database_url="sqlite://").database_url == "sqlite://"


@pytest.mark.usefixtures("secret")
def test_children_of_the_supervisor_get_the_value() -> None:
    environment = child_environment(load_settings())
    assert environment["DICOM_NODE_DATABASE_URL"] == _URL
    assert "DICOM_NODE_DATABASE_URL_FILE" not in environment


@pytest.mark.usefixtures("secret")
def test_both_at_once_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DICOM_NODE_DATABASE_URL", "sqlite://")
    with pytest.raises(ValueError, match="are both set: leave one out"):
        load_settings()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file"),
        (b"", "must have one line"),
        (b"one\ntwo", "must have one line"),
        (b"\xff\xfe", "it is no text"),
    ],
)
def test_a_file_that_is_of_no_use_is_named(
    secret: Path, content: bytes | None, problem: str
) -> None:
    secret.unlink()
    if content is not None:
        secret.write_bytes(content)
    with pytest.raises(ValueError, match=problem) as caught:
        load_settings()
    assert f"DICOM_NODE_DATABASE_URL_FILE: {secret}" in str(caught.value)
