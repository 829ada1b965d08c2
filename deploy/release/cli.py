"""The commands behind `make release`, `make audit` and `make licences`."""

from datetime import date
from pathlib import Path
from typing import Final

import click

from release.artefacts import build
from release.assembling import Wishes, assemble, audit, known_licences
from release.changelog import prepare
from release.errors import NotAuditedError, ReleaseError

_ROOT: Final = Path(__file__).resolve().parents[2]
_NOT_AUDITED: Final = 3


def main() -> None:
    """Run the command; what the releaser can mend is one sentence and exit status 1."""
    try:
        cli(prog_name="release", standalone_mode=False)
    except ReleaseError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(1) from error
    except click.ClickException as error:
        error.show()
        raise SystemExit(error.exit_code) from error


@click.group()
def cli() -> None:
    """Build, list, judge and sign releases. Publishes nothing."""


@cli.command("prepare")
@click.argument("version")
@click.option("--root", type=click.Path(path_type=Path), default=_ROOT)
def prepare_command(version: str, root: Path) -> None:
    """Write VERSION into pyproject.toml and CHANGELOG.md, to be read, committed and tagged."""
    changed = prepare(root, version, date.today())  # noqa: DTZ011  the releaser's day
    for path in changed:
        click.echo(f"changed {path.relative_to(root)}")
    click.echo(
        "Next: make install; dicom-node conformance > docs/conformance.md; read `git diff`;"
        f' git commit -am "Version {version}", git tag -s v{version}.'
    )


@cli.command("build")
@click.argument("version")
@click.option("--root", type=click.Path(path_type=Path), default=_ROOT)
@click.option("--out", type=click.Path(path_type=Path), default=_ROOT / "dist")
@click.option("--key", type=click.Path(path_type=Path), help="Private SSH key that signs.")
@click.option("--unsigned", is_flag=True, help="No signature; the notes say so.")
@click.option("--untested", is_flag=True, help="The tests were not run; the notes say so.")
@click.option("--unaudited", is_flag=True, help="Advisories are not asked; the notes say so.")
@click.option("--osv-url", help="Another address of the advisory service.")
def build_command(  # noqa: PLR0913, PLR0917  one parameter per option
    version: str,
    root: Path,
    out: Path,
    key: Path | None,
    unsigned: bool,  # noqa: FBT001  a flag of the command line
    untested: bool,  # noqa: FBT001  a flag of the command line
    unaudited: bool,  # noqa: FBT001  a flag of the command line
    osv_url: str | None,
) -> None:
    """Make the release VERSION of the commit at HEAD under OUT."""
    if (key is None) != unsigned:
        msg = "Give KEY=FILE, the SSH key that signs, or UNSIGNED=1; one of them."
        raise ReleaseError(msg)
    wishes = Wishes(key, tested=not untested, unaudited=unaudited, osv_url=osv_url)
    folder = assemble(root, version, out, wishes)
    for path in sorted(folder.iterdir()):
        click.echo(f"{path.stat().st_size:>12,} {path.name}")
    click.echo(f"{folder}: {(folder / 'RELEASE_NOTES.md').read_text().splitlines()[4]}")


@cli.command("wheel")
@click.option("--source", type=click.Path(path_type=Path), default=_ROOT)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--epoch", type=int, required=True, help="Seconds since 1970, of the commit.")
def wheel_command(source: Path, out: Path, epoch: int) -> None:
    """Build wheel and source archive of a tree as a release does: to compare with one."""
    for path in build(source, out, epoch):
        click.echo(path)


@cli.command("audit")
@click.option("--root", type=click.Path(path_type=Path), default=_ROOT)
@click.option("--osv-url", help="Another address of the advisory service.")
@click.option("--unreachable-passes", is_flag=True, help="Say so and exit with 0: for the gate.")
def audit_command(
    root: Path,
    osv_url: str | None,
    unreachable_passes: bool,  # noqa: FBT001  a flag of the command line
) -> None:
    """Look the pins of the lock up in the advisories: 1 for an open one, 3 for no answer."""
    try:
        findings, still_open = audit(root, osv_url, date.today())  # noqa: DTZ011  today, here
    except NotAuditedError as error:
        click.echo(f"AUDIT NOT DONE: {error}", err=True)
        if unreachable_passes:
            click.echo("AUDIT NOT DONE: no vulnerability is known or excluded.", err=True)
            return
        raise SystemExit(_NOT_AUDITED) from error
    for sentence in still_open:
        click.echo(sentence)
    if still_open:
        msg = f"{len(still_open)} known vulnerabilities: update, or judge in audit_exceptions.toml."
        raise ReleaseError(msg)
    click.echo(f"audit: no open advisory on the lock; {len(findings)} accepted with a reason")


@cli.command("licences")
@click.option("--root", type=click.Path(path_type=Path), default=_ROOT)
def licences_command(root: Path) -> None:
    """Hold the licence of every pin against licences.toml."""
    licences, against = known_licences(root)
    if against:
        raise ReleaseError("\n".join(against))
    click.echo(f"licences: {len(licences)} packages, all admitted by deploy/release/licences.toml")
