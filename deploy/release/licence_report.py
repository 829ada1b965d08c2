"""The licences of everything that a release needs, as a page to read."""

from collections.abc import Iterable
from typing import Final

from packaging.utils import NormalizedName

from release.licences import Licence, Policy
from release.weights import Weights

_HEAD: Final = """# Licences of dicom-node {version}

Made from the metadata of the packages that requirements.lock pins. `node` and `worker`: on such
hosts; the others are for developers only. The wheel contains none of them. The policy with all
judgements is deploy/release/licences.toml. It is the project's reading, no legal advice.

## In the wheel

| What | Licence |
|---|---|
| code, pages, style sheets, scripts, icon | Apache-2.0 |
"""


def licence_report(
    version: str,
    licences: Iterable[Licence],
    parts: dict[str, Iterable[NormalizedName]],
    weights: Iterable[Weights],
    policy: Policy,
) -> str:
    """Return the report in Markdown."""
    known = sorted(licences, key=lambda each: each.name)
    lines = [_HEAD.format(version=version)]
    lines += [
        f"| {each.file} ({each.name} {each.version}) | {each.licence} |\n" for each in weights
    ]
    lines.append(
        "\n## Packages\n\n| Package | Version | Licence | Said by | On |\n|---|---|---|---|---|\n"
    )
    on = {part: set(names) for part, names in parts.items()}
    for each in known:
        hosts = ", ".join(part for part, names in on.items() if each.name in names) or "developers"
        lines.append(
            f"| {each.name} | {each.version} | {each.expression} | {each.source} | {hosts} |\n"
        )
    lines.append("\n## Judged one by one\n\n")
    lines += [
        f"- **{name}**, {each.licence}: {each.reason}\n"
        for name, each in sorted(policy.judged.items())
    ]
    lines.append("\n## Libraries and texts inside packages\n\n")
    lines += [f"- **{name}**: {reason}\n" for name, reason in sorted(policy.inside.items())]
    return "".join(lines)
