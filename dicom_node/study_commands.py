"""Commands about studies that were analysed: `replay`."""

import time
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.progress import Progress

from dicom_node import comparison
from dicom_node.errors import BrokerError, OperatorError
from dicom_node.listing import Format, print_rows
from dicom_node.options import as_utc, common, listing, open_database, settings_of
from dicom_node.quarantine import Operator
from dicom_node.queue import JobQueue
from dicom_node.rehearsal import Rehearsal, begin, waiting
from dicom_node.replay import purged_results
from dicom_node.replay import replay as replay_study
from dicom_node.results import ResultFilter
from models.session import Database
from models.settings import Settings

_LOOK_SECONDS: Final = 1.0


@click.command()
@common
@listing
@click.argument("study_uid", required=False)
@click.option("--model", help="By name; default: the one that the settings name for the sender.")
@click.option("--reason", default="", help="Why, for the audit.")
@click.option("--dry-run", is_flag=True, help="Change nothing; say what the model would say.")
@click.option("--seen-by", help="With --dry-run: what this network analysed, e.g. 'unet 1.2.0'.")
@click.option("--since", type=click.DateTime(), callback=as_utc, help="The same: at or after.")
@click.option("--until", type=click.DateTime(), callback=as_utc, help="The same: before.")
@click.option("--summary", "only_summary", is_flag=True, help="The same: one row per version.")
@click.option("--no-wait", is_flag=True, help="The same: print what is there by now.")
def replay(
    config: Path | None,
    data_dir: Path | None,
    study_uid: str | None,
    model: str | None,
    reason: str,
    *,
    dry_run: bool,
    **options: Any,  # noqa: ANN401  those of a dry run
) -> None:
    """Analyse a study again; what comes out is the next revision of its report.

    With --dry-run nothing is replaced, reported or sent: images that were analysed are measured by
    the model beside, and compared with what was said of them.
    """
    settings = settings_of(config, data_dir)
    operator = Operator.of_this_process(reason)
    if dry_run:
        if model is None:
            msg = "--dry-run needs --model: whose opinion?"
            raise click.UsageError(msg)
        about = {name: options.pop(name) for name in ("seen_by", "since", "until")}
        wanted = Rehearsal(model, study_instance_uid=study_uid, **about)
        _rehearse(settings, wanted, operator, **options)
        return
    alone = sorted(name for name, value in options.items() if value)
    if study_uid is None or alone:
        msg = "name a study" if study_uid is None else f"{', '.join(alone)} go with --dry-run"
        raise click.UsageError(msg)
    if model is not None:
        _require_installed(settings, model)
    database = open_database(settings)
    number = replay_study(database, settings, study_uid, model, operator)
    click.echo(f"{number} images are analysed again")
    with database.read() as session:
        purged = purged_results(session, study_uid)
    if purged:
        said = "were removed by retention: those that come out the same stay removed"
        click.echo(f"{purged} stored results {said}", err=True)


def _rehearse(
    settings: Settings,
    wanted: Rehearsal,
    operator: Operator,
    *,
    form: str | None,
    only_summary: bool,
    no_wait: bool,
) -> None:
    database = open_database(settings)
    _require_installed(settings, wanted.model, serves="shadow")
    begun = begin(database, wanted, operator)
    told = f"{begun.analyses} analyses, {begun.begun} to be measured"
    click.echo(told + f", {begun.purged} purged" * (begun.purged > 0), err=True)
    if not no_wait:
        _wait(database, wanted)
    chosen = Format(form or Format.TABLE)
    with database.read() as session:
        rows = list(comparison.comparisons(session, ResultFilter(), *wanted.jobs()))
    if not only_summary:
        print_rows(rows, chosen, comparison.COLUMNS)
    if only_summary or chosen is Format.TABLE:
        print_rows(comparison.summary(rows), chosen, comparison.SUMMARY_COLUMNS)


def _wait(database: Database, wanted: Rehearsal) -> None:
    """Wait for the workers; who interrupts it and runs the command again goes on."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        first = waiting(database, wanted)
        task = bar.add_task("images", total=first)
        while left := waiting(database, wanted):
            bar.update(task, completed=first - left)
            time.sleep(_LOOK_SECONDS)


def _require_installed(settings: Settings, model: str, serves: str = "analysis") -> None:
    """Ask the workers: a model that none has would take the study its figure.

    Raises OperatorError when no worker answers, or one that does such work lacks it.
    """
    queue = JobQueue(settings.effective_broker)
    try:
        answers = queue.installed_models()
    except BrokerError as error:
        msg = f"the workers cannot be asked whether they have {model}: {error}"
        raise OperatorError(msg) from error
    finally:
        queue.close()
    if not answers:
        msg = f"no worker answers, so nobody knows whether {model} is installed: start one"
        raise OperatorError(msg)
    serving = {
        name: said for name, said in answers.items() if said.get("serves") in {None, "all", serves}
    }
    if not serving:
        msg = f"no worker does such work: start one with worker.serves = all or {serves}"
        raise OperatorError(msg)
    lacking = sorted(name for name, said in serving.items() if model not in said.get("models", []))
    if lacking:
        msg = f"{model} is not installed on {', '.join(lacking)}: install it, or name another"
        raise OperatorError(msg)
