"""`dicom-node check` names the model that a setting asks for and a worker lacks."""

from typing import Any

import pytest

from dicom_node.doctor import missing_models
from models.settings import Settings, load_settings


def _settings(shadow: str | None = "next") -> Settings:
    rules = [{"calling_aet": "ICU", "model": "bedside"}]
    return load_settings(None, rules=rules, shadow={"model": shadow} if shadow else {})


def _worker(*models: str, serves: str = "all", problem: str | None = None) -> dict[str, Any]:
    return {"models": list(models), "serves": serves, "problem": problem}


@pytest.mark.parametrize(
    ("workers", "problems"),
    [
        ({"a": _worker("unet", "bedside", "next", "more")}, []),
        ({"a": _worker("unet", "bedside")}, ["a lacks next (not installed there)"]),
        ({"a": _worker("unet", "next")}, ["a lacks bedside (not installed there)"]),
        (
            {
                "a": _worker("unet", "bedside", serves="analysis"),
                "b": _worker("next", serves="shadow"),
            },
            [],
        ),
        (
            {"a": _worker("unet", "bedside", serves="analysis")},
            ["no worker serves the shadow model next"],
        ),
        ({"b": _worker("next", serves="shadow")}, ["no worker serves the analysis"]),
        (
            {"a": _worker(problem="the folder x is unusable.")},
            ["a lacks bedside, next, unet (the folder x is unusable.)"],
        ),
        ({}, []),
    ],
)
def test_what_is_missing_is_named(workers: dict[str, dict[str, Any]], problems: list[str]) -> None:
    assert missing_models(_settings(), workers) == problems


def test_without_a_shadow_only_the_models_that_are_sent_count() -> None:
    workers = {"a": _worker("unet", "bedside"), "b": _worker("unet", "bedside", serves="analysis")}
    assert missing_models(_settings(shadow=None), workers) == []
