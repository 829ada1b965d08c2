"""The settings of the web side: what goes together, and what is safe."""

from typing import Any

import pytest
from pydantic import ValidationError

from models.people_sections import OidcSettings, WebSettings
from models.settings import load_settings

OIDC: dict[str, Any] = {
    "issuer": "https://idp.example",
    "client_id": "node",
    "roles": {"staff": "viewer"},
}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"certificate": "a.pem"}, "go together"),
        ({"private_key": "a.key"}, "go together"),
        (
            {"certificate": "a.pem", "private_key": "a.key", "behind_proxy": True},
            "exclude each other",
        ),
        ({"url": "node.example"}, "must be like https"),
        ({"url": "https://node.example/pages"}, "without a path"),
        ({"url": "https://a:b@node.example"}, "must be like"),
        ({"url": "https://node.example:x"}, "must be like"),
        ({"oidc": OIDC}, "web.oidc needs web.url"),
        ({"proxies": ["proxy.example"]}, "is no network"),
        ({"idle_minutes": 0}, "greater than 0"),
    ],
)
def test_what_does_not_go_together_is_said(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        WebSettings.model_validate(values)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"issuer": "http://idp.example"}, "must be https"),
        ({"issuer": "idp.example"}, "must be https"),
        ({"client_id": None}, "needs client_id"),
        ({"roles": {}}, "nobody could log in"),
        ({"scopes": ["profile"]}, "the scope openid"),
        ({"roles": {"staff": "emperor"}}, "'viewer', 'operator' or 'admin'"),
        ({"client_secret_file": "a", "client_secret_variable": "B"}, "leave one out"),
        ({"client_secret_variable": "DICOM_NODE_SECRET"}, "must not begin with DICOM_NODE_"),
    ],
)
def test_an_identity_provider_that_could_let_nobody_in_is_refused(
    values: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValidationError, match=sentence):
        OidcSettings.model_validate({**OIDC, **values})


@pytest.mark.parametrize("issuer", ["http://127.0.0.1:9", "http://localhost", "http://[::1]:9"])
def test_a_provider_on_this_host_may_do_without_tls(issuer: str) -> None:
    assert OidcSettings.model_validate({**OIDC, "issuer": issuer}).issuer == issuer


@pytest.mark.parametrize(
    ("values", "address"),
    [
        ({}, "http://127.0.0.1:8080"),
        ({"host": "0.0.0.0", "port": 80}, "http://127.0.0.1:80"),  # noqa: S104  not bound
        ({"host": "::"}, "http://[::1]:8080"),
        ({"certificate": "a", "private_key": "b"}, "https://127.0.0.1:8080"),
        ({"url": "https://node.example/"}, "https://node.example"),
    ],
)
def test_links_begin_with_how_browsers_reach_it(values: dict[str, Any], address: str) -> None:
    assert WebSettings.model_validate(values).base_url == address


def test_roles_and_proxies_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DICOM_NODE_WEB__URL", "https://node.example")
    monkeypatch.setenv("DICOM_NODE_WEB__PROXIES", '["10.0.0.0/8"]')
    monkeypatch.setenv("DICOM_NODE_WEB__OIDC__ISSUER", "https://idp.example")
    monkeypatch.setenv("DICOM_NODE_WEB__OIDC__CLIENT_ID", "node")
    monkeypatch.setenv("DICOM_NODE_WEB__OIDC__ROLES", '{"radiology": "viewer"}')
    web = load_settings().web
    assert web.oidc.roles == {"radiology": "viewer"}
    assert [str(each) for each in web.proxies] == ["10.0.0.0/8"]
