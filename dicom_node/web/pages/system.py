"""`/system`: is everything flowing, what waits, who can be reached, how full the disks are."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Request, status
from fastapi.responses import HTMLResponse

from dicom_node.deliveries import DeliveryCounts, delivery_counts
from dicom_node.deliveries import destinations as destination_rows
from dicom_node.disk import Forecast, forecasts
from dicom_node.doctor import check_destination, missing_models
from dicom_node.drift.judging import Drift, drifts
from dicom_node.errors import BrokerError
from dicom_node.ledger import Line, compute
from dicom_node.overview import Overview, last_contacts, overview
from dicom_node.queue import JobQueue
from dicom_node.web.api.remembered import Remembered
from dicom_node.web.auth import Principal
from dicom_node.web.changes import newest_event
from dicom_node.web.metrics.paced import Paced
from dicom_node.web.pages.site import Operator, Site
from dicom_node.web.plots import Bars, bars
from dicom_node.web.rendering import page
from models.base import utc_now

_COUNT_SECONDS = 10.0
_DRIFT_SECONDS = 600.0
# What is older is not shown: it may be of the last visit, days ago.
_OLDEST_COUNT_SECONDS = 60.0
_OLDEST_DRIFT_SECONDS = 3600.0
Name = Annotated[str, Path(max_length=64)]


@dataclass(frozen=True)
class Counted:
    """What reads whole tables or folders, in the background, and when that was begun."""

    at: datetime
    deliveries: DeliveryCounts
    contacts: dict[str, datetime]
    lines: list[Line]
    disks: list[Forecast]

    @property
    def is_balanced(self) -> bool:
        """Whether every line of the ledger agrees."""
        return all(line.balanced for line in self.lines)


@dataclass(frozen=True)
class Workers:
    """Who answers the broker, with what each of them can do. `problem`: why nobody does."""

    names: dict[str, dict[str, Any]]
    problems: list[str]


class System:
    """What the page remembers between requests."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.counted: Paced[Counted] = Paced(
            "counts of the page", self._count, _COUNT_SECONDS, longest_age=_OLDEST_COUNT_SECONDS
        )
        self.drift: Paced[list[Drift]] = Paced(
            "drift of the page", self._drift, _DRIFT_SECONDS, longest_age=_OLDEST_DRIFT_SECONDS
        )
        self.workers = Remembered(self._ask)

    def _count(self) -> Counted:
        site, at = self._site, utc_now()
        lines = compute(site.database, site.settings, site.documents)
        with site.database.read() as session:
            return Counted(
                at,
                delivery_counts(session),
                last_contacts(session),
                lines,
                forecasts(session, site.settings),
            )

    def _ask(self) -> Workers:
        queue = JobQueue(self._site.settings.effective_broker)
        try:
            names = queue.installed_models()
        except BrokerError as error:
            return Workers({}, [str(error)])
        finally:
            queue.close()
        if not names:
            return Workers({}, ["no worker answers: start one with `dicom-worker run`"])
        return Workers(names, missing_models(self._site.settings, names))

    def _drift(self) -> list[Drift]:
        with self._site.database.read() as session:
            return drifts(session, self._site.settings.monitoring)


def routes(site: Site) -> APIRouter:
    """Return the routes."""
    router = APIRouter(include_in_schema=False)
    system = System(site)

    @router.get("/system")
    def show(request: Request, who: Operator) -> HTMLResponse:
        """Show how the node does; the workers are asked by the page afterwards."""
        return _page(site, system, request, who)

    @router.get("/system/workers")
    def workers(request: Request, who: Operator) -> HTMLResponse:
        """Show the workers that answer, which takes the broker some seconds."""
        asked = system.workers.value()
        context = {"workers": asked.value, "at": asked.at}
        return page(request, "workers.html", context, principal=who)

    @router.post("/system/destinations/{name}/echo")
    def echo(request: Request, who: Operator, name: Name) -> HTMLResponse:
        """Ask one destination now whether it answers."""
        to = next((each for each in site.settings.destinations if each.name == name), None)
        if to is None:
            raise HTTPException(status.HTTP_404_NOT_FOUND, "no destination has this name")
        try:
            said = f"{name} {check_destination(site.settings, site.database, to)}."
        except RuntimeError as error:
            return _page(site, system, request, who, problem=f"{name}: {error}.")
        return _page(site, system, request, who, said=said)

    return router


def _page(
    site: Site,
    system: System,
    request: Request,
    who: Principal,
    *,
    problem: str | None = None,
    said: str | None = None,
) -> HTMLResponse:
    reading, drift = system.counted.value(), system.drift.value()
    counted = reading.value if reading else None
    with site.database.read() as session:
        since = newest_event(session)
        now = overview(session)
        receivers = destination_rows(session, counted.deliveries if counted else {})
    context = {
        "since": since,
        "now": now,
        "counted": counted,
        "destinations": receivers,
        "configured": {each.name: each for each in site.settings.destinations},
        "plot": _plot(now),
        "drift": [each for each in drift.value if each.is_known] if drift else None,
        "problem": problem,
        "said": said,
    }
    return page(request, "system.html", context, principal=who)


def _plot(now: Overview) -> Bars:
    return bars([(f"{hour.begins:%H}", (hour.received, hour.analysed)) for hour in now.hours])
