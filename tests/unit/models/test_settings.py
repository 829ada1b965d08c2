"""Settings that decide which model looks at which image, and what a result's hash depends on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from models.analysis_sections import AnalysisSettings, ShadowSettings
from models.sections import DestinationSettings
from models.settings import load_settings

RULES = [
    {"calling_aet": "ICU", "model": "bedside"},
    {"calling_aet": "ROOM1", "model": "unet"},
    {"calling_aet": "ICU", "model": "never"},
]
UIDS = [f"1.2.840.{number}" for number in range(4000)]


@pytest.mark.parametrize(
    ("calling_aet", "model"), [("ICU", "bedside"), ("ROOM1", "unet"), ("ELSEWHERE", "usual")]
)
def test_the_first_rule_of_a_sender_chooses_the_model(calling_aet: str, model: str) -> None:
    settings = load_settings(None, analysis={"model": "usual"}, rules=RULES)
    assert settings.model_for(calling_aet) == model
    assert settings.models == ("usual", "bedside", "unet", "never")


@pytest.mark.parametrize("name", ["", "../unet", "a b", "x" * 65])
def test_a_model_name_that_is_no_folder_name_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        load_settings(None, rules=[{"calling_aet": "ICU", "model": name}])
    with pytest.raises(ValidationError):
        load_settings(None, shadow={"model": name})


def test_a_shadow_of_the_only_model_is_refused() -> None:
    with pytest.raises(ValidationError, match="analyses everything already"):
        load_settings(None, shadow={"model": "unet"})
    assert load_settings(None, shadow={"model": "unet"}, rules=RULES).shadow.model == "unet"


@given(share=st.floats(0, 1), more=st.floats(0, 1))
def test_a_larger_share_takes_what_a_smaller_one_took(share: float, more: float) -> None:
    small, large = (ShadowSettings(model="m", share=it) for it in sorted((share, more)))
    taken = {uid for uid in UIDS[:200] if small.takes(uid, "A")}
    assert taken <= {uid for uid in UIDS[:200] if large.takes(uid, "A")}


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_a_share_is_about_that_part_of_the_images_and_always_the_same(share: float) -> None:
    settings = ShadowSettings(model="m", share=share)
    taken = [settings.takes(uid, "A") for uid in UIDS]
    assert sum(taken) / len(UIDS) == pytest.approx(share, abs=0.03)
    assert taken == [settings.takes(uid, "B") for uid in UIDS]


def test_a_shadow_may_be_of_some_senders_only() -> None:
    settings = ShadowSettings(model="m", calling_aets=("ICU",))
    assert settings.takes("1.2.3", "ICU")
    assert not settings.takes("1.2.3", "ROOM1")


@pytest.mark.parametrize("bounds", [(0, 25, 50), (25, 25, 50), (1, 50, 25), (1, 25, 101)])
def test_zone_bounds_must_ascend(bounds: tuple[float, float, float]) -> None:
    with pytest.raises(ValidationError, match="must ascend"):
        AnalysisSettings(zone_bounds_percent=bounds)


def test_zones_change_the_hash_of_a_result_only_where_they_are_graded() -> None:
    plain = AnalysisSettings().configuration_hash()
    assert AnalysisSettings(zone_bounds_percent=(2, 3, 4)).configuration_hash() == plain
    zoned = AnalysisSettings(zone_score=True)
    assert zoned.configuration_hash() != plain
    other = zoned.model_copy(update={"zone_bounds_percent": (2.0, 3.0, 4.0)})
    assert other.configuration_hash() != zoned.configuration_hash()


def test_a_receiver_with_a_long_host_name_has_a_name_that_the_column_takes() -> None:
    """PostgreSQL refuses what is longer, and the node would not start."""
    host = "internal-dicom-load-balancer-of-the-radiology.eu-central-1.example"
    first, second = (DestinationSettings.parse(f"PACS@{host}:{port}") for port in (104, 105))
    assert len(first.name) == len(second.name) == 64
    assert first.name != second.name
    assert first.host == host
    assert DestinationSettings.parse("PACS@pacs.example:104").name == "PACS@pacs.example:104"


@pytest.mark.parametrize("values", [{"name": ""}, {"name": "n" * 65}, {"host": "h" * 256}])
def test_a_receiver_that_does_not_fit_into_its_row_is_refused(values: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match=r"should have at"):
        DestinationSettings.model_validate(
            {"name": "pacs", "ae_title": "PACS", "host": "pacs", "port": 104} | values
        )
