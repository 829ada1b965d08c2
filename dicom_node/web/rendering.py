"""Templates to HTML: every page of the node is made here, and every value in it is escaped.

A template extends `base.html` and fills its blocks `title` and `main`; `head` is for scripts of one
page. Forms carry `{{ csrf_token }}` in a hidden field `csrf_token`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from fastapi import Request, status
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from dicom_node.web.auth import Principal
from dicom_node.web.wording import FILTERS
from models.account import Role

FOLDER: Final = Path(__file__).parent
NOTICE: Final = "Research use only. Not a medical device. Not for diagnosis or treatment decisions."
THEMES: Final = ("auto", "light", "dark")
THEME_COOKIE: Final = "theme"
_ROLES: Final = tuple(Role)


@dataclass(frozen=True)
class Entry:
    """One page of the navigation and the least role that may see it."""

    path: str
    label: str
    role: Role


NAVIGATION: Final = (
    Entry("/", "Worklist", Role.VIEWER),
    Entry("/deliveries", "Deliveries", Role.OPERATOR),
    Entry("/quarantine", "Quarantine", Role.OPERATOR),
    Entry("/audit", "Audit", Role.OPERATOR),
    Entry("/system", "System", Role.OPERATOR),
    Entry("/models", "Models", Role.VIEWER),
    Entry("/accounts", "Accounts", Role.ADMIN),
)


@cache
def environment() -> Environment:
    """Return the templates. What they do not know is an error, never an empty place."""
    made = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(FILTERS)
    made.globals.update(notice=NOTICE, software_version=version("dicom-node"))
    return made


def page(
    request: Request,
    template: str,
    context: Mapping[str, Any],
    *,
    principal: Principal | None = None,
    status_code: int = status.HTTP_200_OK,
) -> HTMLResponse:
    """Return a page for whoever is logged in; without `principal` it has no navigation.

    Such pages hold what identifies patients, so nothing between here and the browser keeps them.
    """
    theme = request.cookies.get(THEME_COOKIE, THEMES[0])
    text = (
        environment()
        .get_template(template)
        .render(
            principal=principal,
            navigation=entries_for(principal),
            here=request.url.path,
            theme=theme if theme in THEMES else THEMES[0],
            csrf_token=getattr(request.state, "csrf_token", ""),
            **context,
        )
    )
    return HTMLResponse(text, status_code, headers={"Cache-Control": "no-store"})


def entries_for(principal: Principal | None) -> tuple[Entry, ...]:
    """Return the pages that somebody may see."""
    if principal is None:
        return ()
    return tuple(entry for entry in NAVIGATION if may(principal, entry.role))


def may(principal: Principal, role: Role) -> bool:
    """Say whether somebody has at least this role."""
    return _ROLES.index(principal.role) >= _ROLES.index(role)
