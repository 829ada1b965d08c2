"""Feedback becomes a data set that `dicom-worker train` reads."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import (
    analysed_image,
    chest_dataset,
    chest_image,
    lung_masks,
    object_context,
    write_part10,
)
from readings import add_account, add_study
from rows import outcomes
from sqlalchemy import select, update

from dicom_node.errors import OperatorError
from dicom_node.worklist.feedback import Opinion, give_feedback
from dicom_node.worklist.manifest import Exported, export_feedback
from models.audit import AuditAction
from models.base import utc_now
from models.imaging import Instance, Series, Study
from models.result import Analysis, Artifact
from models.session import Database
from models.settings import Settings, load_settings
from models.states import InstanceState, Verdict
from worker.equipment import to_bytes
from worker.segmentation import build_segmentation
from worker.training.cases import read_manifest

ACCEPT = Opinion(Verdict.ACCEPT)
CORRECT = Opinion(Verdict.CORRECT, 12.5, "=the heart")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(None, data_dir=tmp_path / "data")


def _add(database: Database, settings: Settings, opacity: float, **columns: Any) -> str:
    """Add a study of one image, whose file and SEG are really there."""
    uid = add_study(database, 30.0, **columns)
    ds = chest_dataset(seed=uid[-6:])
    image = chest_image(ds=ds)
    masks = lung_masks(opacity=opacity)
    if not opacity:
        masks = replace(masks, opacity=masks.left & False)
    analysed = analysed_image(image, masks)
    with database.write() as session:
        study = session.scalars(select(Study).where(Study.study_instance_uid == uid)).one()
        instance = session.scalars(
            select(Instance)
            .join(Series)
            .where(Series.study_id == study.id)
            .order_by(Instance.id.desc())
        ).first()
        assert instance is not None
        analysis = session.scalars(
            select(Analysis).where(Analysis.instance_id == instance.id)
        ).one()
        artifact = session.scalars(
            select(Artifact).where(Artifact.analysis_id == analysis.id)
        ).one()
        analysis.opacity_pixels_total = int(analysed.masks.opacity.sum())
        write_part10(settings.spool_dir / instance.storage_key, ds)
        path = settings.artifact_dir / artifact.storage_key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(to_bytes(build_segmentation(analysed, object_context())))
    return uid


def _give(database: Database, uid: str, opinion: Opinion, account: str = "anna") -> None:
    with database.write() as session:
        give_feedback(session, uid, account, opinion)


def _export(database: Database, settings: Settings, out: Path, **more: Any) -> Exported:
    return export_feedback(database, settings, out, "chief", **more)


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_what_is_accepted_is_labelled_and_the_rest_is_to_be_drawn_anew(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    for name in ("anna", "bert"):
        add_account(database, name)
    good, clear, wrong, disputed = (
        _add(database, settings, opacity) for opacity in (0.25, 0.0, 0.5, 0.4)
    )
    add_study(database, 20.0)  # nobody said anything
    for uid in (good, clear, disputed):
        _give(database, uid, ACCEPT)
    _give(database, wrong, CORRECT)
    _give(database, disputed, Opinion(Verdict.REJECT), "bert")
    out = tmp_path / "out"
    assert _export(database, settings, out) == Exported(2, 2, 0)
    labelled, normal, *others = read_manifest(out / "manifest.csv")
    assert (labelled.split, labelled.has_lung, labelled.has_opacity) == ("train", True, True)
    assert labelled.pixels().shape == (256, 240)
    left, _, opacity = labelled.masks()
    assert (opacity == lung_masks(opacity=0.25).opacity).all()
    assert left.any()
    assert (labelled.normal, normal.normal) == (False, True)
    assert not normal.masks()[2].any()
    assert [(case.split, case.labels, case.has_opacity) for case in others] == [
        ("unlabelled", None, False)
    ] * 2
    assert len({case.patient for case in (labelled, normal, *others)}) == 1  # all are of P1
    first, *second = _table(out / "relabel.csv")
    assert (first["verdict"], first["percent"], first["corrected_percent"]) == (
        *("correct", "30.0", "12.5"),
    )
    assert (first["account"], first["comment"], first["model"]) == ("anna", "'=the heart", "unet")
    assert (out / first["seg"]).is_file()
    assert [(each["verdict"], each["account"]) for each in second] == [
        ("accept", "anna"),
        ("reject", "bert"),
    ]
    assert "Nothing is de-identified" in (out / "README.txt").read_text()
    assert outcomes(database, AuditAction.FEEDBACK_EXPORTED) == ["exported"]


def test_what_is_gone_or_counts_no_more_is_left_out(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    add_account(database)
    purged, withdrawn, kept = (_add(database, settings, 0.25) for _ in range(3))
    for uid in (purged, withdrawn, kept):
        _give(database, uid, ACCEPT)
    with database.write() as session:
        for uid, values in (
            (purged, {"purged_at": utc_now()}),
            (withdrawn, {"state": InstanceState.WITHDRAWN}),
        ):
            images = select(Instance.id).join(Series).join(Study)
            images = images.where(Study.study_instance_uid == uid)
            session.execute(update(Instance).where(Instance.id.in_(images)).values(values))
    assert _export(database, settings, tmp_path / "out") == Exported(1, 0, 1)
    assert len(read_manifest(tmp_path / "out" / "manifest.csv")) == 1
    none = _export(database, settings, tmp_path / "later", since=utc_now())
    assert none == Exported(0, 0, 0)


def test_a_folder_with_something_in_it_is_left_as_it_is(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OperatorError, match="is not empty"):
        _export(database, settings, tmp_path)
    with pytest.raises(OperatorError, match="cannot be written"):
        _export(database, settings, tmp_path / "file")
    assert outcomes(database, AuditAction.FEEDBACK_EXPORTED) == []
