"""Which results go where, by `[[routes]]` of the settings: pure, and every answer has its reason.

Not `[[rules]]`, which choose the model. Without routes every result goes to every destination.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from models.message_sections import RouteSettings
from models.settings import Settings

EARLIER: Final = "(has an earlier result of the study)"
NO_ROUTES: Final = "(there are no routes: every destination gets every result)"
UNROUTED: Final = "(no route that matches names it)"
SILENT: Final = "(nothing was analysed, and its not_analysed is never)"


@dataclass(frozen=True)
class StudyFacts:
    """What routes may ask of a study. `band` and `percent` are of its figure, None without one."""

    calling_aets: frozenset[str] = frozenset()
    stations: frozenset[str] = frozenset()
    institutions: frozenset[str] = frozenset()
    band: str | None = None
    percent: float | None = None
    state: Literal["analysed", "not_analysed"] = "analysed"


@dataclass(frozen=True)
class Condition:
    """One condition of a route on a study, and in words what it wants and what there is."""

    name: str
    wanted: str
    found: str
    holds: bool

    def __str__(self) -> str:
        verb = "is" if self.holds else "is not"
        return f"{self.name} {self.found} {verb} {self.wanted}"


@dataclass(frozen=True)
class Decision:
    """What one route says. `is_asked` is False behind a matching one with `last`."""

    route: RouteSettings
    conditions: tuple[Condition, ...]
    is_asked: bool

    @property
    def matches(self) -> bool:
        """Whether the route counts: it is asked, and all its conditions hold."""
        return self.is_asked and all(each.holds for each in self.conditions)

    @property
    def reasons(self) -> list[str]:
        """Why it matches or not, in sentences without a full stop."""
        if not self.is_asked:
            return ["an earlier route that matches is the last"]
        if not self.conditions:
            return ["it has no condition"]
        failed = [each for each in self.conditions if not each.holds]
        return [str(each) for each in failed or self.conditions]


@dataclass(frozen=True)
class Routing:
    """Every route with its decision, and by destination the names of the routes to it."""

    decisions: tuple[Decision, ...]
    destinations: Mapping[str, tuple[str, ...]]


def route(routes: Sequence[RouteSettings], facts: StudyFacts) -> Routing:
    """Return what the routes say of a study. Those that match add up."""
    decisions: list[Decision] = []
    destinations: dict[str, tuple[str, ...]] = {}
    is_asked = True
    for each in routes:
        decision = Decision(each, _conditions(each, facts), is_asked)
        decisions.append(decision)
        if decision.matches:
            for name in each.send_to:
                destinations[name] = (*destinations.get(name, ()), each.name)
            is_asked = not each.last
    return Routing(tuple(decisions), destinations)


@dataclass(frozen=True)
class Receiving:
    """Whether a destination gets the results of a study, and why, or why not."""

    gets: bool
    reasons: tuple[str, ...]


def receivers(
    settings: Settings, facts: StudyFacts, before: Collection[str]
) -> dict[str, Receiving]:
    """Return what each destination gets. `before` names those with an earlier result of the study.

    These hear of its corrections, whatever the routes say of the new figure.
    """
    routed = route(settings.routes, facts).destinations
    found = {}
    for each in settings.destinations:
        reasons = (*routed.get(each.name, ()), *([EARLIER] if each.name in before else []))
        if not settings.routes:
            reasons = reasons or (NO_ROUTES,)
        is_silent = facts.state == "not_analysed" and each.takes_messages
        if is_silent and each.not_analysed == "never" and each.name not in before:
            found[each.name] = Receiving(gets=False, reasons=(SILENT,))
        else:
            found[each.name] = Receiving(bool(reasons), reasons or (UNROUTED,))
    return found


def _conditions(wanted: RouteSettings, facts: StudyFacts) -> tuple[Condition, ...]:
    """Return the conditions of a route that it has, in the order of the settings."""
    found = [
        _any_of("calling AE", wanted.calling_aets, facts.calling_aets),
        _any_of("station", wanted.stations, facts.stations),
        _any_of("institution", wanted.institutions, facts.institutions),
        _any_of("band", wanted.bands, {facts.band} - {None}),
        _at_least(wanted.min_percent, facts.percent),
        _any_of("state", wanted.states, {facts.state}),
    ]
    return tuple(each for each in found if each is not None)


def _any_of(name: str, patterns: Sequence[str], values: Collection[str | None]) -> Condition | None:
    if not patterns:
        return None
    texts = sorted(each for each in values if each)
    holds = any(is_like(text, pattern) for text in texts for pattern in patterns)
    return Condition(name, " or ".join(patterns), " and ".join(texts) or "(none)", holds)


def _at_least(wanted: float | None, percent: float | None) -> Condition | None:
    if wanted is None:
        return None
    found = "(none)" if percent is None else f"{percent:g} %"
    holds = percent is not None and percent >= wanted
    return Condition("percentage", f"{wanted:g} % or more", found, holds)


def is_like(text: str, pattern: str) -> bool:
    """Say whether a text is what a pattern says: * for any text, ? for any one character."""
    pieces = {"*": ".*", "?": "."}
    expression = "".join(pieces.get(sign) or re.escape(sign) for sign in pattern.casefold())
    return re.fullmatch(expression, text.casefold(), re.DOTALL) is not None
