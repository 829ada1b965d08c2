"""Commands about rules: which model analyses whose images, and where results go."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click
from sqlalchemy import select

from dicom_node.errors import OperatorError
from dicom_node.listing import Format, print_rows
from dicom_node.options import common, listing, open_database, settings_of
from dicom_node.planning import earlier_receivers
from dicom_node.routing import StudyFacts, receivers, route
from dicom_node.study_facts import facts_of
from models.imaging import Study
from models.settings import Settings

_COLUMNS: Final = [
    ("", "kind"),
    ("name", "name"),
    ("matches", "matches"),
    ("why", "why"),
    ("sends to", "send_to"),
]
_BANDS: Final = ("none", "mild", "moderate", "severe")


@click.group()
def rules() -> None:
    """Rules of the settings: [[rules]] choose the model, [[routes]] where results go."""


@rules.command("test")
@common
@listing
@click.argument("study_uid", required=False)
@click.option("--calling-ae", "calling_aets", multiple=True, help="Who sent images; repeatable.")
@click.option("--station", "stations", multiple=True, help="Station Name; repeatable.")
@click.option("--institution", "institutions", multiple=True, help="Institution Name; repeatable.")
@click.option("--band", type=click.Choice(_BANDS), help="Severity band of the study.")
@click.option("--percent", type=click.FloatRange(0, 100), help="Opacity; gives the band too.")
@click.option("--not-analysed", is_flag=True, help="Nothing in the study was analysed.")
def rules_test(
    config: Path | None,
    data_dir: Path | None,
    form: str | None,
    study_uid: str | None,
    **wanted: Any,  # noqa: ANN401  what is said of the study
) -> None:
    """Say which rules match a study, why, and where its results go; nothing is sent.

    Of a study that is here, and of one that the options describe, or that they change.
    """
    settings = settings_of(config, data_dir)
    if study_uid is None and wanted["percent"] is None and not any(wanted.values()):
        msg = "name a study by its Study Instance UID, or describe one: --calling-ae, --band, …"
        raise click.UsageError(msg)
    facts, before = StudyFacts(), frozenset[str]()
    if study_uid is not None:
        facts, before = _of_study(settings, study_uid)
    rows = _rows(settings, _changed(settings, facts, **wanted), before)
    print_rows(rows, Format(form or Format.TABLE), _COLUMNS)


def _of_study(settings: Settings, study_uid: str) -> tuple[StudyFacts, frozenset[str]]:
    """Return what is known of a study here, and who has results of it. Raises OperatorError."""
    with open_database(settings).read() as session:
        study = session.scalar(select(Study).where(Study.study_instance_uid == study_uid))
        if study is None:
            msg = f"no study here has the UID {study_uid}: `dicom-node results` lists them"
            raise OperatorError(msg)
        return facts_of(session, settings, study), earlier_receivers(session, study)


def _changed(  # noqa: PLR0913  one per option
    settings: Settings,
    facts: StudyFacts,
    *,
    calling_aets: tuple[str, ...],
    stations: tuple[str, ...],
    institutions: tuple[str, ...],
    band: str | None,
    percent: float | None,
    not_analysed: bool,
) -> StudyFacts:
    """Return the facts with what the options say put over them. Raises click.UsageError."""
    if not_analysed and (band is not None or percent is not None):
        msg = "a study without analysed image has no --band and no --percent"
        raise click.UsageError(msg)
    places: dict[str, Any] = {
        "calling_aets": frozenset(calling_aets),
        "stations": frozenset(stations),
        "institutions": frozenset(institutions),
    }
    changes = {key: value for key, value in places.items() if value}
    if not_analysed:
        changes |= {"state": "not_analysed", "band": None, "percent": None}
    elif band is not None or percent is not None:
        given = band if band is not None else _band(settings, percent or 0.0)
        changes |= {"state": "analysed", "band": given, "percent": percent}
    return replace(facts, **changes)


def _band(settings: Settings, percent: float) -> str:
    analysis = settings.analysis
    bounds = {
        "severe": analysis.severity_severe_percent,
        "moderate": analysis.severity_moderate_percent,
        "mild": analysis.severity_mild_percent,
    }
    return next((band for band, bound in bounds.items() if percent >= bound), "none")


def _rows(
    settings: Settings, facts: StudyFacts, before: frozenset[str]
) -> Iterator[dict[str, Any]]:
    """Yield one row per sender with its model, one per route, one per destination."""
    for calling_aet in sorted(facts.calling_aets):
        named = any(rule.calling_aet == calling_aet for rule in settings.rules)
        why = "the rule for" if named else "analysis.model, no rule names"
        model = settings.model_for(calling_aet)
        yield _row("model", model, matches=True, why=[f"{why} calling AE {calling_aet}"])
    for decision in route(settings.routes, facts).decisions:
        name, send_to = decision.route.name, decision.route.send_to
        yield _row("route", name, matches=decision.matches, why=decision.reasons, send_to=send_to)
    for name, receiving in receivers(settings, facts, before).items():
        yield _row("destination", name, matches=receiving.gets, why=receiving.reasons)


def _row(
    kind: str, name: str, *, matches: bool, why: Iterable[str], send_to: Iterable[str] = ()
) -> dict[str, Any]:
    return {
        "kind": kind,
        "name": name,
        "matches": matches,
        "why": list(why),
        "send_to": list(send_to),
    }
