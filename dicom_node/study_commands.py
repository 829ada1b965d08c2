"""Commands about one study: `replay`."""

from pathlib import Path

import click

from dicom_node.errors import BrokerError, OperatorError
from dicom_node.options import common, open_database, settings_of
from dicom_node.quarantine import Operator
from dicom_node.queue import JobQueue
from dicom_node.replay import replay as replay_study
from models.settings import Settings


@click.command()
@common
@click.argument("study_uid")
@click.option("--model", help="By name; default: the one that the settings name for the sender.")
@click.option("--reason", default="", help="Why, for the audit.")
def replay(
    config: Path | None, data_dir: Path | None, study_uid: str, model: str | None, reason: str
) -> None:
    """Analyse a study again; what comes out is the next revision of its report."""
    settings = settings_of(config, data_dir)
    if model is not None:
        _require_installed(settings, model)
    operator = Operator.of_this_process(reason)
    number = replay_study(open_database(settings), settings, study_uid, model, operator)
    click.echo(f"{number} images are analysed again")


def _require_installed(settings: Settings, model: str) -> None:
    """Ask the workers: a model that none has would take the study its figure.

    Raises OperatorError when no worker answers, or none has it.
    """
    queue = JobQueue(settings.effective_broker_url)
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
    lacking = sorted(
        name
        for name, said in answers.items()
        if said.get("serves") != "shadow" and model not in said.get("models", [])
    )
    if lacking:
        msg = f"{model} is not installed on {', '.join(lacking)}: install it, or name another"
        raise OperatorError(msg)
