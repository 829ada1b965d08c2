"""`dicom-node health ROLE`: does a role work on this host, or in this container? For probes.

`python -m dicom_node.health ROLE` is the same for half the processor time or less: a probe comes
every few seconds, so nothing is imported here that its question does not need.
"""

import http.client
import json
import socket
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click

from models.running import running
from models.settings import Settings, load_settings

_SECONDS: Final = 5.0
_ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  compared, not bound


def listener_problem(settings: Settings) -> str | None:
    """Say what is wrong with the DICOM port: a process must accept, and close with us.

    Nothing is sent, so nothing of it stands in the audit. An address list that leaves out this
    host would have each probe recorded as refused: then that the process is there must do.
    """
    from dicom_node.access import AllowList

    dicom = settings.dicom
    host = _ANYWHERE.get(dicom.host, dicom.host)
    port = dicom.port if dicom.plain else dicom.tls.port or 0
    try:
        # Who connects to an address of its own host comes from that address.
        source = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0]
        if not AllowList.of(dicom).admits(str(source)):
            return None
        with socket.create_connection((host, port), _SECONDS) as connection:
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1)
    except OSError as error:
        return f"port {port} does not answer: {error}"
    return None


def web_problem(settings: Settings) -> str | None:
    """Say why the node cannot take a study, as its own health page sees it."""
    status, text = _ask_web(settings)
    if status == http.HTTPStatus.OK:
        return None
    try:
        parts = json.loads(text)["parts"]
    except (ValueError, TypeError, KeyError):
        return text if status is None else f"HTTP {status.value}"
    return "; ".join(f"{name}: {said}" for name, said in parts.items())


def _ask_web(settings: Settings) -> tuple[http.HTTPStatus | None, str]:
    """Return the answer of the health page, or None and why there is none."""
    web = settings.web
    host = _ANYWHERE.get(web.host, web.host)
    connection = http.client.HTTPConnection(host, web.port, timeout=_SECONDS)
    if web.certificate is not None:
        # Whether it answers is asked, not who it is: the certificate names another host.
        itself = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        itself.check_hostname, itself.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, web.port, timeout=_SECONDS, context=itself)
    try:
        connection.request("GET", "/api/v1/health")
        answer = connection.getresponse()
        return http.HTTPStatus(answer.status), answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return None, f"port {web.port} does not answer: {error}"
    finally:
        connection.close()


def _web_is_away(settings: Settings) -> str | None:
    status, text = _ask_web(settings)
    return text if status is None else None


def worker_problem(settings: Settings) -> str | None:
    """Say why the worker of this host takes no job: it must answer, with its models loaded."""
    from dicom_node.errors import BrokerError
    from dicom_node.queue import JobQueue

    host = socket.gethostname()
    queue = JobQueue(settings.effective_broker)
    try:
        answers = queue.installed_models(_SECONDS, host=host)
    except BrokerError as error:
        return str(error)
    finally:
        queue.close()
    said = next(iter(answers.values()), None)
    if said is None:
        return f"the worker of {host} does not answer at the broker"
    return None if said.get("loaded", True) else "its models are being loaded"


def database_problem(settings: Settings) -> str | None:
    """Say why a role has no rows to work on.

    A newer schema is none: while a release is rolled out, the last one goes on beside it.
    """
    from migrations import schema
    from models.session import Database

    database = Database(settings.effective_database_url)
    try:
        schema.require_newest(database)
    except schema.NewerSchemaError:
        return None
    except schema.SchemaError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001  any failure is the answer; its text may hold a URL
        return f"the database cannot be used: {type(error).__name__}"
    finally:
        database.dispose()
    return None


def _nothing(_settings: Settings) -> str | None:
    return None


_Probe = Callable[[Settings], str | None]
# What each role is asked: by `--alive`, and what must be true besides for it to be of use.
PROBES: Final[dict[str, tuple[_Probe, _Probe]]] = {
    "listen": (listener_problem, database_problem),
    "dispatch": (_nothing, database_problem),
    "deliver": (_nothing, database_problem),
    "web": (_web_is_away, web_problem),
    "worker": (_nothing, worker_problem),
}


def problem_of(role: str, settings: Settings, *, alive: bool) -> str | None:
    """Return what is wrong with a role of this host; `alive`: what a restart would mend, only."""
    if role not in {each.role for each in running(settings.data_dir)}:
        return f"no process of this role runs here on {settings.data_dir}"
    of_itself, of_what_it_needs = PROBES[role]
    return of_itself(settings) or (None if alive else of_what_it_needs(settings))


@click.command()
@click.option("--config", type=click.Path(path_type=Path), envvar="DICOM_NODE_CONFIG")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder of the node's data.")
@click.option("--alive", is_flag=True, help="Only what a restart of the role would mend.")
@click.argument("roles", nargs=-1, type=click.Choice(list(PROBES)))
def health(
    config: Path | None,
    data_dir: Path | None,
    alive: bool,  # noqa: FBT001  a flag of the command line
    roles: tuple[str, ...],
) -> None:
    """Say whether roles of this host work; exit 1 when one does not. Default: all that run here.

    Quick enough for the probes of a container. `dicom-node check` examines the whole node.
    """
    try:
        settings = load_settings(config, data_dir=data_dir)
    except (ValueError, OSError) as error:
        raise click.UsageError(str(error)) from error
    here = {each.role for each in running(settings.data_dir)}
    wanted = roles or tuple(role for role in PROBES if role in here)
    if not wanted:
        click.echo(f"no role of a node runs here on {settings.data_dir}", err=True)
        sys.exit(1)
    problems = {role: problem_of(role, settings, alive=alive) for role in wanted}
    for role, problem in problems.items():
        click.echo(f"{role}: {problem or 'ok'}", err=problem is not None)
    sys.exit(1 if any(problems.values()) else 0)


if __name__ == "__main__":
    health()
