"""A bill of materials in CycloneDX 1.6 for a part of the node: packages, weights, needs."""

import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.utils import NormalizedName

from release.closure import Closure
from release.errors import ReleaseError
from release.licences import Licence
from release.project import WITHOUT_HASHES, Project
from release.weights import Weights

Json = dict[str, Any]

# Serial numbers derive from what is listed: the same release gives the same file.
_SERIALS: Final = uuid.UUID("5b6dd0d4-3f0c-5f6a-9f44-1c3f8b1a7f52")
_PROPERTY: Final = "dicom-node:"


@dataclass(frozen=True)
class Contents:
    """All that a bill of materials is made from."""

    part: str
    project: Project
    closure: Closure
    first_level: tuple[NormalizedName, ...]
    licences: dict[NormalizedName, Licence]
    weights: list[Weights]
    wheel_sha256: str
    commit: str
    epoch: int


def bill_of_materials(contents: Contents) -> str:
    """Return the bill as JSON text, valid by the schema of CycloneDX.

    Raises ReleaseError where the schema does not hold.
    """
    bill = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": _serial(contents),
        "version": 1,
        "metadata": _metadata(contents),
        "components": [
            *(_package(contents.licences[name]) for name in sorted(contents.closure)),
            *(_model(each) for each in contents.weights),
        ],
        "dependencies": _dependencies(contents),
        "compositions": [
            {"aggregate": "incomplete", "assemblies": [_reference(contents, WITHOUT_HASHES)]}
        ]
        if WITHOUT_HASHES in contents.closure
        else [],
    }
    text = json.dumps(bill, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if problem is not None:
        msg = f"The bill of materials of {contents.part} breaks the schema: {problem}"
        raise ReleaseError(msg)
    return text


def _metadata(contents: Contents) -> Json:
    project = contents.project
    return {
        "timestamp": datetime.fromtimestamp(contents.epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycles": [{"phase": "build"}],
        "component": {
            "type": "application",
            "bom-ref": _own_reference(project),
            "name": project.name,
            "version": project.version,
            "description": project.description,
            "licenses": [{"expression": project.licence}],
            "purl": _own_reference(project),
            "hashes": [{"alg": "SHA-256", "content": contents.wheel_sha256}],
            "properties": [
                {"name": f"{_PROPERTY}part", "value": contents.part},
                {"name": f"{_PROPERTY}commit", "value": contents.commit},
                {"name": f"{_PROPERTY}intended-use", "value": "Research use only."},
            ],
        },
    }


def _package(licence: Licence) -> Json:
    reference = _purl(licence.name, licence.version)
    component: Json = {
        "type": "library",
        "bom-ref": reference,
        "name": licence.name,
        "version": licence.version,
        "purl": reference,
        "licenses": _stated(licence.expression),
        "properties": [{"name": f"{_PROPERTY}licence-source", "value": licence.source}]
        + [{"name": f"{_PROPERTY}carries", "value": library} for library in licence.libraries],
    }
    if licence.name == WITHOUT_HASHES:
        component["description"] = (
            "CPU or CUDA build, as the host needs it. A CUDA build brings packages of NVIDIA"
            " that it pins itself and that are not listed here."
        )
    return component


def _model(weights: Weights) -> Json:
    pictures = sum(weights.picture_licences.values())
    return {
        "type": "machine-learning-model",
        "bom-ref": f"weights:{weights.file}",
        "name": weights.name,
        "version": weights.version,
        "description": weights.task,
        "licenses": [{"license": {"id": weights.licence}}],
        "hashes": [{"alg": "SHA-256", "content": weights.sha256}],
        "modelCard": {
            "modelParameters": {"modelArchitecture": weights.architecture},
            "considerations": {
                "useCases": ["Research use only. Not a medical device. Not for diagnosis."]
            },
        },
        "properties": [
            {"name": f"{_PROPERTY}file", "value": weights.file},
            {"name": f"{_PROPERTY}training-pictures", "value": str(pictures)},
            *(
                {"name": f"{_PROPERTY}training-pictures:{licence}", "value": str(count)}
                for licence, count in sorted(weights.picture_licences.items())
            ),
        ],
    }


def _dependencies(contents: Contents) -> list[Json]:
    """Return who needs whom; the weights are needed by the program that carries them."""
    own = _own_reference(contents.project)
    models = [f"weights:{each.file}" for each in contents.weights]
    first = [_reference(contents, name) for name in contents.first_level]
    return [
        {"ref": own, "dependsOn": first + models},
        *(
            {
                "ref": _reference(contents, name),
                "dependsOn": [_reference(contents, each) for each in needed],
            }
            for name, needed in contents.closure.items()
        ),
        *({"ref": each, "dependsOn": []} for each in models),
    ]


def _stated(expression: str | None) -> list[Json]:
    """Return a licence choice; an expression with a text of our naming is a name to others."""
    if expression is None:
        return []
    if expression == "LicenseRef-BSD":
        return [{"license": {"name": "BSD License (which of its texts is not stated)"}}]
    return [{"expression": expression}]


def _reference(contents: Contents, name: NormalizedName) -> str:
    return _purl(name, contents.licences[name].version)


def _own_reference(project: Project) -> str:
    return f"pkg:pypi/{project.name}@{project.version}"


def _purl(name: str, version: str) -> str:
    return f"pkg:pypi/{name}@{version}"


def _serial(contents: Contents) -> str:
    listed = [_reference(contents, name) for name in sorted(contents.closure)]
    told = "\n".join([contents.part, contents.commit, contents.wheel_sha256, *listed])
    return uuid.uuid5(_SERIALS, told).urn
