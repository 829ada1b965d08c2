"""`broker_url` and the section `broker`: what is taken, and what is said of what is not."""

import ssl
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority

from models.broker import Broker, BrokerFileError, BrokerSettings
from models.settings import load_settings

_SENTINELS = "sentinel://:pa55@s1:26379/0;sentinel://:pa55@s2/0"


def _parse(url: str, **broker: Any) -> Broker:
    return Broker.parse(url, BrokerSettings.model_validate(broker))


@pytest.mark.parametrize(
    ("url", "broker", "name"),
    [
        ("redis://redis", {}, "Redis at redis:6379"),
        ("redis://user:pa55@redis:6380/3", {}, "Redis at redis:6380"),
        ("rediss://[fd00::1]:6380/0", {"trusted_cas": "ca.pem"}, "Redis at fd00::1:6380 over TLS"),
        ("redis+socket:///run/redis.sock", {}, "Redis at /run/redis.sock"),
        ("amqp://node:pa55@rabbit/node", {}, "RabbitMQ at rabbit:5672"),
        ("amqps://node:pa55@rabbit/%2F", {}, "RabbitMQ at rabbit:5671 over TLS"),
        (_SENTINELS, {"master_name": "n"}, "Redis n by Sentinel s1:26379, s2:26379"),
        (
            _SENTINELS,
            {"master_name": "n", "tls": True, "trusted_cas": "ca.pem"},
            "Redis n by Sentinel s1:26379, s2:26379 over TLS",
        ),
    ],
)
def test_a_broker_has_a_name_without_its_password(
    url: str, broker: dict[str, Any], name: str
) -> None:
    assert str(_parse(url, **broker)) == name


@pytest.mark.parametrize(
    ("url", "broker", "problem"),
    [
        ("http://redis:6379", {}, "begins with no scheme that a broker has"),
        ("redis:6379", {}, "names no host"),
        ("redis://redis:port/0", {}, "broker_url is no URL"),
        ("redis:///0", {}, "names no host"),
        ("amqp:///node", {}, "names no host"),
        ("redis+socket://", {}, "names no socket"),
        ("redis://redis/zero", {}, "a database of Redis is a number"),
        ("redis://a/0;redis://b/0", {}, "names several servers"),
        ("amqps://a;amqp://b", {}, "names several servers"),
        ("sentinel://s1;redis://s2", {"master_name": "n"}, "names several servers"),
        ("sentinel://s1", {}, "set broker.master_name"),
        ("redis://redis", {"master_name": "n"}, "broker.master_name is for sentinel:// alone"),
        ("amqp://r", {"sentinel_password": "x"}, "broker.sentinel_password is for sentinel://"),
        ("redis://redis", {"tls": True}, "write broker_url with rediss://"),
        ("amqp://rabbit", {"tls": True}, "write broker_url with amqps://"),
        ("redis://redis", {"trusted_cas": "ca.pem"}, "are for TLS"),
        ("sentinel://s1", {"master_name": "n", "trusted_cas": "ca.pem"}, "are for TLS"),
        ("amqps://rabbit?ssl_cert_reqs=none", {}, "must end with its path"),
        ("rediss://r?ssl_ca_certs=a", {"trusted_cas": "b"}, "speaks of TLS after its ?"),
        ("rediss://redis", {"certificate": "a"}, "go together: set both"),
    ],
)
def test_a_mistake_is_one_sentence_that_says_what_to_write(
    url: str, broker: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem.replace("?", r"\?")):
        _parse(url, **broker)


@pytest.mark.parametrize(
    "url", ["redis://:pa55@redis/zero", "http://:pa55@redis", "redis://:pa55@"]
)
def test_no_sentence_holds_the_password(url: str) -> None:
    with pytest.raises(ValueError, match="broker_url") as caught:
        _parse(url)
    assert "pa55" not in str(caught.value)


def test_the_tree_refuses_it_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"set broker\.master_name"):
        load_settings(None, data_dir=tmp_path, broker_url="sentinel://s1")
    with pytest.raises(ValueError, match="says how to reach broker_url"):
        load_settings(None, data_dir=tmp_path, broker={"tls": True})
    embedded = load_settings(None, data_dir=tmp_path / "a;b").effective_broker
    assert embedded.url == f"redis+socket://{tmp_path}/a;b/redis/redis.sock"


@pytest.mark.parametrize("scheme", ["rediss", "amqps"])
def test_tls_without_any_file_is_verified_as_the_system_trusts(scheme: str) -> None:
    options = _parse(f"{scheme}://broker").celery_options({})["broker_use_ssl"]
    assert options.get("cert_reqs") == ssl.CERT_REQUIRED or options["ssl_cert_reqs"] == "required"
    assert "broker_use_ssl" not in _parse("redis://broker").celery_options({})


def test_a_url_that_speaks_of_tls_itself_has_its_way() -> None:
    broker = _parse("rediss://broker?ssl_cert_reqs=required&ssl_ca_certs=ca.pem")
    assert "broker_use_ssl" not in broker.celery_options({})


def test_sentinels_get_their_own_password_and_the_same_time_outs() -> None:
    who = {"sentinel_username": "u", "sentinel_password": "s"}
    broker = _parse(_SENTINELS, master_name="n", **who)
    options = broker.celery_options({"socket_timeout": 3.0, "health_check_interval": 9})
    transport = options["broker_transport_options"]
    assert (transport["master_name"], transport["health_check_interval"]) == ("n", 9)
    sentinels = transport["sentinel_kwargs"]
    assert sentinels["retry"].get_retries() == 0
    assert {k: v for k, v in sentinels.items() if k != "retry"} == {
        "socket_timeout": 3.0,
        "username": "u",
        "password": "s",
    }


def test_files_are_read_at_the_start(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path / "ca")
    one, other = authority.issue("one"), authority.issue("other")
    files = {"certificate": one.certificate, "private_key": one.private_key}
    _parse("rediss://r", trusted_cas=authority.certificate, **files).require_files()
    with pytest.raises(BrokerFileError, match=r"broker\.trusted_cas .* is no PEM file to read"):
        _parse("amqps://r", trusted_cas=one.private_key).require_files()
    with pytest.raises(BrokerFileError, match="No such file"):
        _parse("amqps://r", trusted_cas=tmp_path / "none.pem").require_files()
    with pytest.raises(BrokerFileError, match="KEY_VALUES_MISMATCH"):
        _parse("amqps://r", **(files | {"private_key": other.private_key})).require_files()
