"""Composition root of the node: reads the settings once and hands every part what it needs."""

import sys
from pathlib import Path
from typing import Any, TextIO

import click
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.account_commands import account, token
from dicom_node.audit_commands import audit
from dicom_node.delivery_commands import deliveries
from dicom_node.errors import NodeError
from dicom_node.health import health
from dicom_node.listing import Format, print_rows
from dicom_node.loop import run_loop, stop_on_signals
from dicom_node.monitoring_commands import drift
from dicom_node.operator_commands import patient, quarantine
from dicom_node.options import common as _common
from dicom_node.options import listing as _listing
from dicom_node.options import open_database as _database
from dicom_node.options import serve_as
from dicom_node.options import settings_of as _settings
from dicom_node.result_commands import compare, results
from dicom_node.rules_commands import rules
from dicom_node.schema_commands import db
from dicom_node.storage_commands import backup, retention, scrub
from dicom_node.study_commands import replay
from dicom_node.ups_commands import messages
from dicom_node.worklist_commands import feedback, worklist
from migrations.schema import SchemaError
from models.importing import importing
from models.sections import DestinationSettings
from models.session import Database
from models.settings import Settings

_USAGE = 2


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dicom-node")
def cli() -> None:
    """DICOM PACS integration node for chest-radiograph AI. Research use only."""


@cli.command()
@_common
@click.option("--ae-title", help="AE title of this node (default NODE).")
@click.option("--dicom-port", type=click.IntRange(1, 65535), help="DICOM port (default 11112).")
@click.option("--web-port", type=click.IntRange(1, 65535), help="HTTP port (default 8080).")
@click.option("--pacs", multiple=True, metavar="AET@HOST:PORT|URL", help="Receiver; repeatable.")
@click.option("--workers", type=click.IntRange(1), help="Worker processes (default 1).")
def up(
    config: Path | None,
    data_dir: Path | None,
    **options: Any,  # noqa: ANN401  those of _with_options
) -> None:
    """Run the whole node on this machine; prints `ready` when it can take studies."""
    with importing():
        from dicom_node.supervisor import Supervisor

    settings = _with_options(_settings(config, data_dir), **options)
    serve_as("up", settings)
    Supervisor(settings).run(stop_on_signals())


def _with_options(
    settings: Settings,
    *,
    ae_title: str | None,
    dicom_port: int | None,
    web_port: int | None,
    pacs: tuple[str, ...],
    workers: int | None,
) -> Settings:
    """Return the settings with what the command line says put over them, validated again."""
    tree = settings.model_dump()
    changes = (
        ("dicom", "ae_title", ae_title),
        ("dicom", "port", dicom_port),
        ("web", "port", web_port),
        ("worker", "concurrency", workers),
    )
    for section, key, value in changes:
        if value is not None:
            tree[section][key] = value
    try:
        if pacs:
            tree["destinations"] = [DestinationSettings.parse(text) for text in pacs]
        return type(settings).model_validate(tree)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


@cli.command()
@_common
def listen(config: Path | None, data_dir: Path | None) -> None:
    """Receive objects by C-STORE."""
    with importing():
        from dicom_node import listeners

    settings = _settings(config, data_dir)
    serve_as("listen", settings)
    # Each process opens the database for itself: connections do not survive a fork.
    listeners.run(settings, lambda: Database(settings.effective_database_url), stop_on_signals())


@cli.command()
@_common
def dispatch(config: Path | None, data_dir: Path | None) -> None:
    """Publish jobs, settle studies, plan deliveries, take back expired leases, seal the audit."""
    with importing():
        from dicom_node.audit.forwarding import forwarding
        from dicom_node.audit.seals import sealing
        from dicom_node.dispatch import Dispatcher
        from dicom_node.queue import JobQueue, require_usable

    settings = _settings(config, data_dir)
    serve_as("dispatch", settings)
    require_usable(settings.effective_broker)
    queue, database = JobQueue(settings.effective_broker), _database(settings)
    dispatcher, stop = Dispatcher(settings, database, queue), stop_on_signals()
    with sealing(settings, database, stop), forwarding(settings, database, stop):
        run_loop(dispatcher.step, stop, settings.dispatch.poll_seconds)


@cli.command()
@_common
def deliver(config: Path | None, data_dir: Path | None) -> None:
    """Send results to their destinations."""
    with importing():
        from dicom_node import delivery

    settings = _settings(config, data_dir)
    serve_as("deliver", settings)
    database = _database(settings)
    delivery.synchronise_destinations(database, settings)
    delivery.run(settings, database, stop_on_signals())


@cli.command()
@_common
def web(config: Path | None, data_dir: Path | None) -> None:
    """Serve the pages and the API over HTTP."""
    with importing():
        from dicom_node.web import serve

    settings = _settings(config, data_dir)
    serve_as("web", settings)
    stop_on_signals()  # uvicorn raises the signal again when it has ended: by then it is no death
    serve.run(settings, _database(settings))


@cli.command()
@_common
def check(config: Path | None, data_dir: Path | None) -> None:
    """Examine database, spool, broker, workers and destinations; exit 1 on a problem."""
    from dicom_node.doctor import examine

    settings = _settings(config, data_dir)
    findings = examine(settings, _database(settings))
    console = Console()
    for finding in findings:
        mark = "[green]ok[/]  " if finding.ok else "[red]FAIL[/]"
        console.print(f"{mark} {finding.name}: ", end="")
        console.print(finding.detail, markup=False)
    sys.exit(0 if all(finding.ok for finding in findings) else 1)


@cli.command()
@_common
@_listing
@click.option(
    "--repair", "mend", is_flag=True, help="First make due again what the rows prove is due."
)
def ledger(
    config: Path | None,
    data_dir: Path | None,
    form: str | None,
    mend: bool,  # noqa: FBT001  a flag of the command line
) -> None:
    """Print the ledger; exit 1 when it does not balance.

    With --repair, jobs, reports and deliveries that were forgotten are queued again before;
    nothing is deleted, sent or made up. Counts go to standard error with --json and --csv.
    """
    from dicom_node.ledger import compute
    from dicom_node.repair import repair

    settings = _settings(config, data_dir)
    database = _database(settings)
    for each in repair(database, settings) if mend else ():
        text = f"{each.name}: {each.found} found, {each.repaired} due again"
        click.echo(text, err=form is not None)
    lines = compute(database, settings)
    rows: list[dict[str, Any]] = [
        {
            "name": line.name,
            "left": line.left,
            "right": line.right,
            "balanced": line.balanced,
            "parts": line.parts
            if form == Format.JSON
            else ", ".join(f"{name} {number}" for name, number in line.parts.items() if number),
        }
        for line in lines
    ]
    columns = [
        ("count", "name"),
        ("", "left"),
        ("must equal", "right"),
        ("of which", "parts"),
        ("balanced", "balanced"),
    ]
    print_rows(rows, Format(form or Format.TABLE), columns)
    sys.exit(0 if all(line.balanced for line in lines) else 1)


@cli.command()
@_common
@click.option(
    "--all", "everything", is_flag=True, help="Every rejected or dead delivery, every dead report."
)
@click.option("--destination", metavar="NAME", help="Every one of this destination, at once.")
@click.argument("delivery_id", type=int, required=False)
def retry(
    config: Path | None,
    data_dir: Path | None,
    delivery_id: int | None,
    destination: str | None,
    everything: bool,  # noqa: FBT001  a flag of the command line
) -> None:
    """Send again what was rejected or given up: one by its id, those of a destination, or all.

    A destination that is paused is tried at once. With --all, reports that could not be written
    are tried again too.
    """
    from dicom_node import retrying, settling
    from dicom_node.quarantine import Operator

    if [everything, delivery_id is not None, destination is not None].count(True) != 1:
        msg = "name one delivery (its id stands in `deliveries`), a --destination, or use --all"
        raise click.UsageError(msg)
    database = _database(_settings(config, data_dir))
    actor = Operator.of_this_process("").name[:64]
    number = retrying.retry(database, delivery_id, destination, actor)
    click.echo(f"{number} due again")
    if everything:
        with database.write() as session:
            reports = settling.report_again(session, actor)
        if reports:
            click.echo(f"{reports} to be reported again")
    sys.exit(0 if number or everything or destination else 1)


@cli.command()
@_common
@click.option(
    "--input", "input_dir", type=click.Path(path_type=Path, exists=True), help="Your files."
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("demo-data"), show_default=True
)
def demo(config: Path | None, data_dir: Path | None, input_dir: Path | None, out: Path) -> None:
    """Show the whole path: sample studies in, results in a PACS, a table, overlay pictures."""
    from dicom_node.demo import run_demo

    if config or data_dir:
        msg = "the demo runs on defaults in a folder of its own: use --out, not these options"
        raise click.UsageError(msg)
    sys.exit(run_demo(input_dir, out))


@cli.command()
@_common
@click.option("--out", type=click.File("w", "utf-8"), default="-", help="Default: print it.")
def conformance(config: Path | None, data_dir: Path | None, out: TextIO) -> None:
    """Print the DICOM Conformance Statement of this node, in Markdown."""
    from dicom_node.conformance.statement import render

    out.write(render(_settings(config, data_dir)))


cli.add_command(account)
cli.add_command(token)
cli.add_command(audit)
cli.add_command(deliveries)
cli.add_command(quarantine)
cli.add_command(health)
cli.add_command(drift)
cli.add_command(retention)
cli.add_command(scrub)
db.add_command(backup)
cli.add_command(db)
cli.add_command(patient)
cli.add_command(replay)
cli.add_command(results)
cli.add_command(compare)
cli.add_command(rules)
worklist.add_command(messages)
cli.add_command(worklist)
cli.add_command(feedback)


def main() -> None:
    """Run the command; an error that a user can cause ends in one sentence, not a traceback."""
    try:
        cli(prog_name="dicom-node")
    except (NodeError, SchemaError) as error:
        click.echo(f"dicom-node: {error}", err=True)
        sys.exit(1)
    except SQLAlchemyError as error:
        text = str(getattr(error, "orig", None) or error).splitlines()[0]
        click.echo(
            f"dicom-node: the database cannot be used: {text} "
            "(is DICOM_NODE_DATABASE_URL right, and was `dicom-node db upgrade` run?)",
            err=True,
        )
        sys.exit(1)
