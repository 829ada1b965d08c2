"""worker.training.formats: what was drawn is what is read, and what is not said is refused."""

import json
from pathlib import Path
from typing import Any

import contourpy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from worker.training.cases import Case, load_manifest
from worker.training.evaluate import Overlap
from worker.training.formats import LabelFormat, read_labels
from worker.training.formats.coco import _decode, _RunLengths
from worker.training.formats.regions import Region, fill, region_of
from worker.types import Mask

SHAPE = (40, 30)
IMAGE = Path("images") / "a.png"
NAMES = ("Left lung", "right-lung", "OPACITY")
Masks = tuple[Mask, Mask, Mask]


def lines_of(mask: Mask) -> list[list[list[float]]]:
    """The outlines of a mask between the centres of its pixels, holes among them."""
    padded = np.pad(mask.astype(float), 1)
    traced = contourpy.contour_generator(z=padded).lines(0.5)
    return [(np.asarray(line) - 0.5).tolist() for line in traced]


def written(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def labelme(masks: Masks) -> dict[str, Any]:
    rows, columns = masks[0].shape
    shapes = [
        {"label": name, "shape_type": "polygon", "points": line, "flags": {}, "group_id": None}
        for name, mask in zip(NAMES, masks, strict=True)
        for line in lines_of(mask)
    ]
    return {
        "version": "5.4.1",
        "flags": {},
        "shapes": shapes,
        "imagePath": "a.png",
        "imageData": None,
        "imageHeight": rows,
        "imageWidth": columns,
    }


def coco(segmentations: list[tuple[int, object]], shape: tuple[int, int] = SHAPE) -> dict[str, Any]:
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "height": shape[0], "width": shape[1]},
            {"id": 8, "file_name": "b.png", "height": 5, "width": 5},
        ],
        "categories": [{"id": n, "name": name} for n, name in enumerate(NAMES)],
        "annotations": [
            {"id": n, "image_id": 7, "category_id": category, "segmentation": segmentation}
            for n, (category, segmentation) in enumerate(segmentations)
        ],
    }


def polygons(masks: Masks) -> list[tuple[int, object]]:
    return [
        (number, [[value for point in line for value in point] for line in lines_of(mask)])
        for number, mask in enumerate(masks)
        if mask.any()
    ]


def runs(mask: Mask) -> dict[str, Any]:
    """Uncompressed run lengths down the columns, the first of zeros."""
    flat = np.concatenate([[False], mask.ravel(order="F"), [not mask[-1, -1]]])
    ends = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], ends])).tolist()
    return {"size": list(mask.shape), "counts": counts}


def darwin(masks: Masks, version: int = 2, names: tuple[str, ...] = NAMES) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = [{"id": "t", "name": "COVID-19", "tag": {}}]
    for name, mask in zip(names, masks, strict=True):
        paths = [[{"x": x, "y": y} for x, y in line] for line in lines_of(mask)]
        if paths and version == 1:
            drawn: dict[str, Any] = {"path": paths[0], "additional_paths": paths[1:]}
            annotations.append({"name": name, "polygon": drawn})
        elif paths:
            annotations.append({"id": "a", "name": name, "polygon": {"paths": paths}})
    rows, columns = masks[0].shape
    size = {"width": columns, "height": rows}
    head = {"image": size} if version == 1 else {"version": "2.0", "item": {"slots": [size]}}
    return head | {"annotations": annotations}


def small_masks() -> Masks:
    y, x = np.ogrid[: SHAPE[0], : SHAPE[1]]
    left, right = ((x - centre) ** 2 * 4 + (y - 20) ** 2 < 200 for centre in (23, 6))
    return left, right, left & (y > 22)


def assert_equal(read: Masks, drawn: Masks) -> None:
    for name, one, other in zip(Region, read, drawn, strict=True):
        assert one.dtype == np.bool_, name
        assert np.array_equal(one, other), name


@pytest.fixture(scope="session")
def real_cases(data_root: Path) -> list[Case]:
    cases = [c for c in load_manifest(data_root) if c.has_opacity and c.split == "test"]
    assert len(cases) == 16
    return cases


@given(arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))))
@settings(deadline=None)
def test_any_outline_is_filled_as_drawn_with_its_holes(mask: NDArray[np.bool_]) -> None:
    assert np.array_equal(fill(lines_of(mask), mask.shape), mask)


@given(arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))))
@settings(deadline=None)
def test_any_run_lengths_are_read_as_written(mask: NDArray[np.bool_]) -> None:
    assert np.array_equal(_decode(_RunLengths(**runs(mask)), mask.shape), mask)


def test_a_pixel_belongs_to_the_polygon_that_holds_its_centre() -> None:
    square = [(1.0, 1.0), (3.0, 1.0), (3.0, 2.0), (1.0, 2.0)]
    assert np.argwhere(fill([square], (4, 4))).tolist() == [[1, 1], [1, 2]]
    assert fill([[(-9, -9), (99, -9), (99, 99), (-9, 99)]], (4, 4)).all()
    assert not fill([[(1.6, 0), (2.4, 0), (2.4, 4), (1.6, 4)]], (4, 4)).any()


@pytest.mark.parametrize(
    "name", ["left_lung", "Left lung", "LEFT-LUNG", " left  lung", "Lung left"]
)
def test_names_are_read_as_people_write_them(name: str) -> None:
    assert region_of(name) is Region.LEFT


def test_labels_of_real_cases_survive_every_format(real_cases: list[Case], tmp_path: Path) -> None:
    for case in real_cases:
        masks = case.masks()
        files = [
            (LabelFormat.LABELME, labelme(masks)),
            (LabelFormat.COCO, coco(polygons(masks), masks[0].shape)),
            (LabelFormat.DARWIN, darwin(masks, 1)),
            (LabelFormat.DARWIN, darwin(masks, 2)),
            (LabelFormat.DARWIN, darwin(masks, 2, ("Lung", "Lung", "Opacity"))),
        ]
        for number, (kind, content) in enumerate(files):
            path = written(tmp_path / f"{number}.json", content)
            read = read_labels(kind, path, masks[0].shape, IMAGE)
            for one, other in zip(read, masks, strict=True):
                assert Overlap.of(one, other).dice > 0.99, (case.name, kind)


def test_darwin_keeps_holes_and_coco_run_lengths_do(tmp_path: Path) -> None:
    left, right, opacity = small_masks()
    opacity[26:29, 20:23] = False
    masks = (left, right, opacity)
    assert ndimage.binary_fill_holes(opacity).sum() == opacity.sum() + 9
    for version in (1, 2):
        path = written(tmp_path / f"{version}.json", darwin(masks, version))
        assert_equal(read_labels(LabelFormat.DARWIN, path, SHAPE, IMAGE), masks)
    content = coco([(number, runs(mask)) for number, mask in enumerate(masks)])
    path = written(tmp_path / "coco.json", content)
    assert_equal(read_labels(LabelFormat.COCO, path, SHAPE, IMAGE), masks)


def test_labelme_draws_rectangles_and_circles_and_adds_up(tmp_path: Path) -> None:
    shapes = [
        {"label": "opacity", "shape_type": "rectangle", "points": [[10, 8], [4, 2]]},
        {"label": "opacity", "shape_type": "circle", "points": [[15, 30], [15, 25]]},
        {"label": "opacity", "points": [[20, 20], [24, 20], [24, 21], [20, 21]]},
    ]
    content = {"imageHeight": 40, "imageWidth": 30, "shapes": shapes}
    path = written(tmp_path / "a.json", content)
    left, right, opacity = read_labels(LabelFormat.LABELME, path, SHAPE, IMAGE)
    assert not (left | right).any()
    y, x = np.ogrid[:40, :30]
    circle = (x + 0.5 - 15) ** 2 + (y + 0.5 - 30) ** 2 <= 25
    expected = np.array(circle)
    expected[2:8, 4:10] = True
    expected[20, 20:24] = True
    assert np.array_equal(opacity, expected)


def test_compressed_run_lengths_of_the_coco_api(tmp_path: Path) -> None:
    """Texts written by pycocotools 2.0.11."""
    y, x = np.ogrid[:40, :30]
    step = (y >= 5) & (y < 5 + x) & (x < 25)
    disc = (x - 14) ** 2 + (y - 20) ** 2 <= 100
    texts = (
        "]11W11O1O1O1O1O1O1O1O1O1O1O1O1O1O1O1O1O1O1O1O1O1O1R6",
        "d51S18J4M2N2O0O2O00000O20N1000001N101N2N3L6Hh5",
        "0`U1",
    )
    drawn = [(number, {"size": SHAPE, "counts": text}) for number, text in enumerate(texts)]
    path = written(tmp_path / "a.json", coco(drawn))
    masks = read_labels(LabelFormat.COCO, path, SHAPE, IMAGE)
    assert_equal(masks, (step, disc, np.ones(SHAPE, dtype=bool)))
    y, x = np.ogrid[:700, :600]
    comb = (abs(x - 300) < 4) & (y > 100) & (y < 650 - 20 * x % 37)
    long = _RunLengths(size=(700, 600), counts="QT[6a`0[5a0_O\\Od0a0_O\\Od0a0_O\\O_XZ6")
    assert np.array_equal(_decode(long, (700, 600)), comb)


def test_coco_finds_an_image_by_as_many_folders_as_it_states(tmp_path: Path) -> None:
    masks = small_masks()
    content = coco(polygons(masks))
    nothing = {"id": 9, "file_name": "a.png", "height": SHAPE[0], "width": SHAPE[1]}
    content["images"][0]["file_name"] = "images\\a.png"
    content["images"].append(nothing)
    path = written(tmp_path / "a.json", content)
    assert_equal(read_labels(LabelFormat.COCO, path, SHAPE, IMAGE), masks)
    elsewhere = read_labels(LabelFormat.COCO, path, SHAPE, Path("others") / "a.png")
    assert not any(mask.any() for mask in elsewhere)


def test_coco_is_read_again_when_it_changes(tmp_path: Path) -> None:
    masks = small_masks()
    path = written(tmp_path / "a.json", coco([]))
    assert not read_labels(LabelFormat.COCO, path, SHAPE, IMAGE)[0].any()
    written(path, coco(polygons(masks)))
    assert_equal(read_labels(LabelFormat.COCO, path, SHAPE, IMAGE), masks)


def test_darwin_gives_a_plain_lung_its_side_by_its_place(tmp_path: Path) -> None:
    left, right, _ = small_masks()
    both = (left | right, np.zeros(SHAPE, bool), np.zeros(SHAPE, bool))
    path = written(tmp_path / "a.json", darwin(both, 1, ("Lung", "", "")))
    assert_equal(read_labels(LabelFormat.DARWIN, path, SHAPE, IMAGE), (left, right, both[2]))


def test_darwin_reads_the_complex_polygons_of_early_files(tmp_path: Path) -> None:
    masks = small_masks()
    content = darwin(masks, 2)
    for each in content["annotations"][1:]:
        each["complex_polygon"] = {"path": each.pop("polygon")["paths"]}
    path = written(tmp_path / "a.json", content)
    assert_equal(read_labels(LabelFormat.DARWIN, path, SHAPE, IMAGE), masks)


def without(content: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name != key}


def one_shape(**shape: Any) -> dict[str, Any]:
    drawn = {"label": "opacity", "points": [[1, 1], [5, 1], [5, 5]]} | shape
    return {"imageHeight": 40, "imageWidth": 30, "shapes": [drawn]}


def one_annotation(**annotation: Any) -> dict[str, Any]:
    size = {"width": 30, "height": 40}
    return {"item": {"slots": [size]}, "annotations": [{"name": "Lung"} | annotation]}


SMALL = small_masks()
TRIANGLE = [1.0, 1.0, 5.0, 1.0, 5.0, 5.0]
MISTAKES: list[tuple[LabelFormat, object, str]] = [
    (LabelFormat.NONE, {}, "format none cannot be read"),
    (LabelFormat.LABELME, {}, "imageHeight: Field required"),
    (
        LabelFormat.LABELME,
        labelme((np.ones((30, 40), bool),) * 3),
        "30 x 40 pixels, the image has 40",
    ),
    (LabelFormat.LABELME, one_shape(label="heart"), "'heart' is drawn, which is none of left_lung"),
    (LabelFormat.LABELME, one_shape(shape_type="line"), "a line of 3 points, which is no area"),
    (LabelFormat.LABELME, one_shape(points=[[1, 1]]), "fewer than three points"),
    (LabelFormat.LABELME, one_shape(points=[[1e300, 1], [2, 2], [3, 3]]), "far from any image"),
    (
        LabelFormat.LABELME,
        one_shape(points=[["x", 1]]),
        r"shapes\.0\.points\.0\.0: Input should be",
    ),
    (LabelFormat.COCO, without(coco([]), "categories"), "categories: Field required"),
    (LabelFormat.COCO, coco([], (30, 40)), "30 x 40 pixels"),
    (LabelFormat.COCO, coco([(9, [TRIANGLE])]), "the category 9, which is not defined"),
    (LabelFormat.COCO, coco([(0, [])]), "annotation 0 has no segmentation"),
    (LabelFormat.COCO, coco([(0, [TRIANGLE[:-1]])]), "odd number of coordinates"),
    (LabelFormat.COCO, coco([(0, {"size": [40, 30], "counts": [3]})]), "do not add up"),
    (LabelFormat.COCO, coco([(0, {"size": [40, 30], "counts": [1201, -1]})]), "do not add up"),
    (LabelFormat.COCO, coco([(0, {"size": [40, 30], "counts": "0`"})]), "are cut off"),
    (LabelFormat.COCO, coco([(0, {"size": [40, 30], "counts": "\u00e9"})]), "hold the character"),
    (LabelFormat.COCO, coco([(0, {"size": [30, 40], "counts": [1200]})]), "30 x 40 pixels"),
    (
        LabelFormat.COCO,
        coco([]) | {"images": coco([])["images"][1:]},
        "no image with the file name",
    ),
    (LabelFormat.COCO, coco([]) | {"images": coco([])["images"][:1] * 2}, "more than one image"),
    (LabelFormat.DARWIN, {"annotations": []}, "this is no Darwin JSON"),
    (LabelFormat.DARWIN, darwin((np.ones((30, 40), bool),) * 3), "30 x 40 pixels"),
    (LabelFormat.DARWIN, darwin(SMALL, 1, ("Heart", "Lung", "Lung")), "'Heart' is drawn"),
    (LabelFormat.DARWIN, one_annotation(), "'Lung' is not drawn as a polygon"),
    (LabelFormat.DARWIN, one_annotation(polygon={"paths": []}), "not drawn as a polygon"),
    (LabelFormat.DARWIN, one_annotation(polygon={"paths": [[{"x": 1}]]}), "Field required"),
    (LabelFormat.DARWIN, one_annotation() | {"item": {"slots": []}}, r"item\.slots: List should"),
]


@pytest.mark.parametrize(("kind", "content", "sentence"), MISTAKES, ids=lambda v: str(v)[:40])
def test_a_mistake_is_one_sentence(
    kind: LabelFormat, content: object, sentence: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "a.json", content)
    with pytest.raises(ValueError, match=sentence) as caught:
        read_labels(kind, path, SHAPE, IMAGE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [LabelFormat.LABELME, LabelFormat.COCO, LabelFormat.DARWIN])
@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\x00\xff", "NaN", '"text"'])
def test_what_is_no_json_of_the_format_is_refused(
    kind: LabelFormat, text: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"Invalid JSON|should be an object"):
        read_labels(kind, path, SHAPE, IMAGE)


BITS = np.zeros(SHAPE, np.uint8)
BITMASKS: list[tuple[Image.Image, str]] = [
    (Image.fromarray(BITS[:30]), "30 x 30 pixels, the image has 40 x 30"),
    (Image.fromarray(BITS + np.uint8(255)), "holds the value 255"),
    (Image.fromarray(BITS).convert("RGB"), "this one has mode RGB"),
    (Image.fromarray(BITS.astype(np.uint16)), "this one has mode I;16"),
]


@pytest.mark.parametrize(("picture", "sentence"), BITMASKS, ids=lambda v: str(v)[:30])
def test_what_is_no_bit_mask_is_refused(
    picture: Image.Image, sentence: str, tmp_path: Path
) -> None:
    picture.save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=sentence):
        read_labels(LabelFormat.BITMASK, tmp_path / "a.png", SHAPE, IMAGE)


def test_a_cut_bit_mask_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 16, SHAPE, np.uint8)).save(path)
    whole = path.read_bytes()
    for size in (0, 20, len(whole) // 2):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="no readable PNG"):
            read_labels(LabelFormat.BITMASK, path, SHAPE, IMAGE)
