"""models.identity: UIDs that repeat, and our own objects known again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID

from models.identity import MANUFACTURER, NODE_MODEL_NAME, is_own_object, make_uid


@given(parts=st.lists(st.text(), min_size=1), root=st.sampled_from(["", "1.2", "1.2.826.0.1.3680"]))
def test_uids_are_legal_and_repeat(parts: list[str], root: str) -> None:
    uid = make_uid(root, *parts)
    assert UID(uid).is_valid
    assert uid == make_uid(root, *parts)
    assert uid.startswith(f"{root or '2.25'}.")


def test_the_longest_root_leaves_room() -> None:
    root = "1." + "2" * 38
    assert len(make_uid(root, "a")) <= 64
    assert make_uid(root, "a") != make_uid(root, "b")


def test_parts_do_not_run_together() -> None:
    assert make_uid("", "ab", "c") != make_uid("", "a", "bc")


@pytest.mark.parametrize(
    ("manufacturer", "model", "uid", "root", "own"),
    [
        (MANUFACTURER, NODE_MODEL_NAME, "1.2", "", True),
        (f"{MANUFACTURER} ", NODE_MODEL_NAME, "1.2", "", True),
        (MANUFACTURER, "another", "1.2", "", False),
        ("", "", "1.2.3", "1.2", True),
        ("", "", "1.23", "1.2", False),
        ("", "", "2.25.7", "", False),
    ],
)
def test_own_objects_are_known(
    manufacturer: str,
    model: str,
    uid: str,
    root: str,
    own: bool,  # noqa: FBT001  a table
) -> None:
    seg = "1.2.840.10008.5.1.4.1.1.66.4"
    assert is_own_object(manufacturer, model, seg, uid, root) is own


@pytest.mark.parametrize(
    ("manufacturer", "model", "own"), [(MANUFACTURER, NODE_MODEL_NAME, True), ("", "", False)]
)
def test_a_capture_is_known_by_its_equipment_not_by_the_root(
    manufacturer: str,
    model: str,
    own: bool,  # noqa: FBT001  a table
) -> None:
    capture = "1.2.840.10008.5.1.4.1.1.7"
    assert is_own_object(manufacturer, model, capture, "1.2.3", "1.2") is own


def test_a_radiograph_below_the_configured_root_is_not_ours() -> None:
    assert not is_own_object("", "", "1.2.840.10008.5.1.4.1.1.1", "1.2.3", "1.2")
