"""Densities of a chest seen from the front and from the side, layer upon layer.

Coordinates as in `worker.training.phantom`; densities are in units of the trunk's own.
"""

from itertools import pairwise

import numpy as np
from scipy import ndimage

from worker.training.anatomy import Canvas, Chest, Field, Point, curve

_RIBS = 10


def frontal(
    canvas: Canvas, chest: Chest, left: Field, right: Field, random: np.random.Generator
) -> Field:
    """Return the density of a frontal view whose lung fields are `left` and `right` (0..1)."""
    lungs = np.maximum(left, right)
    air = _lung_air(canvas, chest, lungs)
    density = _trunk(canvas, chest, random)
    density -= air
    heart, vessels = _heart(canvas, chest, random), _mediastinum(canvas, chest)
    density += np.maximum(0.40 * heart, 0.27 * vessels) + 0.05 * np.minimum(heart, vessels)
    density += _spine(canvas, chest, random)
    density += _rib_cage(canvas, chest, random)
    density += _shoulders(canvas, chest, random)
    density += _vessels(canvas, chest, lungs, random)
    density += _abdomen(canvas, chest, random)
    density += 0.010 * canvas.texture(random, 0.012) * lungs
    density += 0.02 * canvas.texture(random, 0.20)
    return _marker(canvas, density, random)


def _lung_air(canvas: Canvas, chest: Chest, lungs: Field) -> Field:
    """Air is deep in the middle of a lung and thin at its edge."""
    step = max(1, canvas.shape[0] // 256)
    coarse = ndimage.distance_transform_edt(lungs[::step, ::step] > 0.5)  # noqa: PLR2004  covered
    depth = 1.0 - np.exp(-coarse * step / canvas.pixels(0.035))
    zoom = (canvas.shape[0] / depth.shape[0], canvas.shape[1] / depth.shape[1])
    smooth = ndimage.zoom(depth.astype(np.float32), zoom, order=1, grid_mode=True, mode="nearest")
    rising = 1.06 - 0.22 * canvas.y
    air: Field = (chest.lung_depth * (0.30 + 0.70 * smooth) * rising * lungs).astype(np.float32)
    return canvas.soften(air, 0.0015)


def _trunk(canvas: Canvas, chest: Chest, random: np.random.Generator) -> Field:
    """Neck, shoulders, chest wall with breasts or pectorals; air outside."""
    flank = chest.lateral + float(random.uniform(0.06, 0.13))
    top = chest.apex - 0.10
    side = [
        (0.085, -0.1),
        (0.09, top),
        (0.17, top + 0.045),
        (0.38, top + 0.08),
        (0.58, top + 0.15),
        (0.66, top + 0.36),
        (flank + 0.10, top + 0.47),
        (flank + 0.025, 0.62),
        (flank + 0.005, 0.80),
        (flank + 0.015, 1.1),
    ]
    half = curve(side[:6], 40) + curve(side[5:], 40)[1:]
    outline = half + [(-x, y) for x, y in reversed(half)]
    body = canvas.polygon([(chest.centre + x, y) for x, y in outline])
    across = (canvas.x - chest.centre) / (flank + 0.05)
    thick = np.sqrt(np.clip(1.15 - across**2, 0.05, None)) * (0.86 + 0.10 * canvas.y)
    density: Field = (canvas.soften(body, 0.004) * thick).astype(np.float32)
    low = float(random.uniform(0.0, 0.10))
    for sign in (-1, 1):
        x, y = chest.centre + sign * 0.62 * chest.lateral, chest.height(0.82)
        bulge = 1.0 - ((canvas.x - x) / 0.17) ** 2 - ((canvas.y - y) / 0.17) ** 2
        density += low * np.sqrt(np.clip(bulge, 0.0, None)) * body
    return density


def _heart(canvas: Canvas, chest: Chest, random: np.random.Generator) -> Field:
    """Draw a tilted egg left of the midline; 0..1 with the soft edge of a beating organ."""
    size = chest.heart
    x = chest.centre + 0.045 * size + chest.tilt * 0.2
    y = chest.dome - 0.105
    angle = np.deg2rad(float(random.uniform(28, 42)))
    u = (canvas.x - x) * np.cos(angle) + (canvas.y - y) * np.sin(angle)
    v = -(canvas.x - x) * np.sin(angle) + (canvas.y - y) * np.cos(angle)
    egg = 1.0 - (u / (0.165 * size)) ** 2 - (v / (0.120 * size * (1.0 + 0.8 * u))) ** 2
    sac = np.clip(egg * 3.0, 0.0, 1.0) * 0.65 + np.sqrt(np.clip(egg, 0.0, None)) * 0.35
    return canvas.soften(sac.astype(np.float32), 0.003)


def _mediastinum(canvas: Canvas, chest: Chest) -> Field:
    """Great vessels with the aortic knob, minus the windpipe; about 0..1."""
    h, m = chest.height, chest.medial
    right = [(-0.05, 0.0), (-m, h(0.1)), (-m - 0.008, h(0.3)), (-m - 0.014, h(0.5))]
    right += [(-m - 0.030, h(0.75)), (-m - 0.020, h(1.05)), (-0.04, 1.05)]
    left = [(0.05, 1.05), (m + 0.02, h(1.05)), (m + 0.03, h(0.6)), (m + 0.012, h(0.42))]
    left += [(m + 0.016, h(0.34)), (m + 0.028, h(0.26)), (m + 0.014, h(0.17)), (m, h(0.08))]
    left += [(m - 0.004, h(-0.05)), (0.05, -0.02)]
    outline = [(chest.centre + x, y) for x, y in curve(right) + curve(left)]
    column = canvas.soften(canvas.polygon(outline), 0.003)
    pipe: list[Point] = [(0.0, -0.05), (0.002, h(0.15)), (-0.004, h(0.36))]
    branches = [
        (curve([(chest.centre + x, y) for x, y in pipe]), 0.034),
        ([(chest.centre - 0.004, h(0.35)), (chest.centre - 0.055, h(0.46))], 0.022),
        ([(chest.centre - 0.004, h(0.35)), (chest.centre + 0.065, h(0.48))], 0.018),
    ]
    windpipe = canvas.soften(canvas.strokes(branches), 0.004)
    return (column - 0.55 * windpipe).astype(np.float32)


def _spine(canvas: Canvas, chest: Chest, random: np.random.Generator) -> Field:
    """Draw a column of vertebral bodies with dark discs between them and pedicles in them."""
    centre = chest.centre + chest.tilt * 0.4 * (canvas.y - 0.5)
    across = np.clip(1.0 - np.abs((canvas.x - centre) / 0.040) ** 6, 0.0, None)
    height = float(random.uniform(0.046, 0.054))
    phase = (canvas.y / height + float(random.random())) % 1.0
    disc = np.exp(-(((phase - 0.5) / 0.09) ** 2))
    body = across * (1.0 - 0.45 * disc)
    places = np.arange(0.0, 1.1, height)
    dots = [
        ([(chest.centre + s * 0.026, y), (chest.centre + s * 0.026, y + 0.012)], 0.010)
        for y in places
        for s in (-1, 1)
    ]
    pedicles = canvas.strokes(dots)
    column = 0.11 * canvas.soften(body.astype(np.float32), 0.003)
    return column + 0.035 * canvas.soften(pedicles, 0.003)


def _rib(chest: Chest, sign: int, y: float, drop: float) -> tuple[list[Point], list[Point]]:
    """Return the back part of one rib, from the spine to the wall, and its front part."""
    turn = y + drop
    wall = chest.wall(turn) + 0.012
    back: list[Point] = [(0.030, y), (0.085, y - 0.014), (0.45 * wall + 0.02, y - 0.002)]
    back += [(0.80 * wall, y + 0.42 * drop), (wall, turn)]
    front: list[Point] = [(wall, turn), (0.92 * wall, turn + 0.055), (0.66 * wall, turn + 0.11)]
    front += [(0.40 * wall + 0.02, turn + 0.135)]
    return (
        curve([(chest.centre + sign * a, b) for a, b in back]),
        curve([(chest.centre + sign * a, b) for a, b in front]),
    )


def _rib_cage(canvas: Canvas, chest: Chest, random: np.random.Generator) -> Field:
    """Ribs as flat bands with brighter rims: back parts sharp, front parts wider and fainter."""
    gap = 0.064 * chest.scale * float(random.uniform(0.95, 1.08))
    back, front = [], []
    for number in range(_RIBS):
        y = chest.apex - 0.025 + gap * number + float(random.normal(0, 0.002))
        drop = min(0.03 + 0.016 * number, 0.125)
        for sign in (-1, 1):
            first, second = _rib(chest, sign, y + float(random.normal(0, 0.002)), drop)
            back.append(first)
            if number < _RIBS - 3:
                front.append(second)
    wide = float(random.uniform(0.018, 0.024))
    rim = canvas.strokes([(line, wide) for line in back])
    core = canvas.strokes([(line, 0.62 * wide) for line in back])
    faint = canvas.strokes([(line, 1.25 * wide) for line in front])
    inner = canvas.strokes([(line, 0.8 * wide) for line in front])
    bones = 0.95 * rim - 0.35 * core + 0.55 * faint - 0.18 * inner
    fading = np.clip(1.15 - 0.45 * np.clip((canvas.y - chest.dome) / 0.15, 0, 1.6), 0.3, 1.0)
    cage = chest.rib_density * fading * canvas.soften(bones, 0.0022)
    return np.asarray(cage, dtype=np.float32)


def _shoulders(canvas: Canvas, chest: Chest, random: np.random.Generator) -> Field:
    """Collar bones, shoulder blades, heads of the upper arms."""
    lift = float(random.uniform(-0.03, 0.03))
    low = chest.apex + 0.045
    bones, rims = np.zeros(canvas.shape, dtype=np.float32), []
    for sign in (-1, 1):
        own = lift + float(random.normal(0, 0.006))
        collar: list[Point] = [(0.035, low + 0.025), (0.11, low + 0.012), (0.21, low - 0.022 + own)]
        collar += [(0.31, low - 0.035 + own), (0.40, low - 0.02 + own)]
        line = curve([(chest.centre + sign * a, b) for a, b in collar])
        bones += 0.9 * canvas.strokes([(line, 0.026)]) - 0.3 * canvas.strokes([(line, 0.015)])
        out = 0.84 * chest.lateral + float(random.uniform(0.04, 0.12))
        blade: list[Point] = [(out + 0.10, low), (out + 0.03, low + 0.06), (out, low + 0.16)]
        blade += [(out + 0.03, low + 0.27), (out + 0.07, low + 0.18), (out + 0.12, low + 0.06)]
        plate = [(chest.centre + sign * a, b) for a, b in curve([*blade, blade[0]])]
        bones += 0.35 * canvas.polygon(plate)
        rims.append((plate, 0.006))
        head = [(0.47, low + 0.02), (0.54, low + 0.22), (0.58, low + 0.45)]
        arm = curve([(chest.centre + sign * a, b) for a, b in head])
        bones += 0.8 * canvas.strokes([(arm, 0.075)]) - 0.2 * canvas.strokes([(arm, 0.045)])
    bones += 0.30 * canvas.strokes(rims)
    return (1.35 * chest.rib_density * canvas.soften(bones, 0.003)).astype(np.float32)


def _vessels(canvas: Canvas, chest: Chest, lungs: Field, random: np.random.Generator) -> Field:
    """Trees that leave each hilum, thinner with every fork, and the hila themselves."""
    lines: list[tuple[list[Point], float]] = []
    hila = np.zeros(canvas.shape, dtype=np.float32)
    for sign in (-1, 1):
        x = chest.centre + sign * (chest.medial + 0.028)
        y = chest.height(0.44 if sign > 0 else 0.48)
        spot = ((canvas.x - x) / 0.022) ** 2 + ((canvas.y - y) / 0.042) ** 2
        hila += np.exp(-spot).astype(np.float32)
        for angle in np.linspace(-72, 78, 11):
            start = np.deg2rad(float(angle) + float(random.normal(0, 5)))
            _grow(lines, (x, y), (sign, start), 0.0085, random)
    tree = canvas.strokes(lines)
    cover = canvas.soften(lungs, 0.006)
    soft = 0.7 * canvas.soften(tree, 0.0016) + 0.6 * canvas.soften(tree, 0.005)
    vessels = chest.vessel_density * (soft + 0.9 * hila) * cover
    return np.asarray(vessels, dtype=np.float32)


def _grow(
    lines: list[tuple[list[Point], float]],
    start: Point,
    heading: tuple[int, float],
    width: float,
    random: np.random.Generator,
) -> None:
    """Append one vessel and its forks; `heading` is the side and the angle below horizontal."""
    sign, angle = heading
    x, y = start
    points = [(x, y)]
    for _ in range(int(random.integers(4, 8))):
        angle += float(random.normal(0, 0.16))
        x += sign * 0.013 * float(np.cos(angle))
        y += 0.013 * float(np.sin(angle))
        points.append((x, y))
    lines.append((points, width))
    if width > 0.0017:  # noqa: PLR2004  thinner ones cannot be seen
        fork = float(random.uniform(0.25, 0.6))
        _grow(lines, (x, y), (sign, angle + fork), 0.64 * width, random)
        _grow(lines, (x, y), (sign, angle - fork), 0.70 * width, random)


def _abdomen(canvas: Canvas, chest: Chest, random: np.random.Generator) -> Field:
    """Liver and spleen below the domes, gas under the left one."""
    below = 1.0 / (1.0 + np.exp(-(canvas.y - chest.dome - 0.06) / 0.02))
    trunk = np.clip(1.2 - (np.abs(canvas.x - chest.centre) / (chest.lateral + 0.03)) ** 8, 0, 1)
    organs = 0.22 * below * trunk * (1.0 - 0.35 * (canvas.x > chest.centre))
    gas = np.zeros(canvas.shape, dtype=np.float32)
    for _ in range(int(random.integers(1, 4))):
        x = chest.centre + float(random.uniform(0.08, 0.20))
        y = chest.dome + float(random.uniform(0.09, 0.17))
        wide, tall = random.uniform(0.03, 0.07), random.uniform(0.018, 0.04)
        gas = np.maximum(gas, 1.0 - ((canvas.x - x) / wide) ** 2 - ((canvas.y - y) / tall) ** 2)
    bubbles = np.sqrt(np.clip(gas, 0.0, 1.0)) * float(random.uniform(0.08, 0.28))
    return canvas.soften((organs - bubbles).astype(np.float32), 0.004)


def _marker(canvas: Canvas, density: Field, random: np.random.Generator) -> Field:
    """Put a lead letter L beside the patient's left shoulder, on most pictures."""
    if random.random() < 0.3:  # noqa: PLR2004  share without a marker
        return density
    x = float(canvas.x[0, -1]) - float(random.uniform(0.05, 0.09))
    y = float(random.uniform(0.05, 0.09))
    letter = canvas.strokes([([(x, y), (x, y + 0.035), (x + 0.018, y + 0.035)], 0.006)])
    marked: Field = np.maximum(density, letter * float(density.max()))
    return marked


def lateral(canvas: Canvas, chest: Chest, random: np.random.Generator) -> Field:
    """Return the density of a left lateral view: spine to the image's right, breast bone left."""
    h = chest.height
    body: list[Point] = [(-0.10, -0.1), (-0.14, 0.05), (-0.27, 0.22), (-0.33, 0.45), (-0.33, 1.1)]
    back: list[Point] = [(0.31, 1.1), (0.34, 0.75), (0.37, 0.45), (0.33, 0.2), (0.14, 0.04)]
    outline = curve(body) + curve([*back, (0.11, -0.1)])
    trunk = canvas.soften(canvas.polygon(outline), 0.006)
    front = [(0.02, h(0.0)), (-0.13, h(0.12)), (-0.23, h(0.4)), (-0.27, h(0.75)), (-0.27, h(0.97))]
    floor = [(-0.27, h(0.97)), (-0.14, h(0.93)), (0.02, h(0.98)), (0.16, h(1.1)), (0.25, h(1.28))]
    rear = [(0.25, h(1.28)), (0.28, h(0.8)), (0.27, h(0.4)), (0.17, h(0.08)), (0.02, h(0.0))]
    lung = canvas.polygon(curve(front) + curve(floor)[1:] + curve(rear)[1:])
    density = (trunk * (0.95 + 0.15 * canvas.y)).astype(np.float32)
    density -= _lung_air(canvas, chest, lung) * 0.95
    heart = 1.0 - ((canvas.x + 0.11) / 0.13) ** 2 - ((canvas.y - h(0.78)) / 0.145) ** 2
    density += 0.30 * canvas.soften(np.sqrt(np.clip(heart, 0, None)).astype(np.float32), 0.004)
    density += _side_bones(canvas, chest, random)
    arch = curve([(-0.10, h(0.42)), (-0.02, h(0.22)), (0.09, h(0.26)), (0.17, h(0.5))])
    density += 0.10 * canvas.soften(canvas.strokes([(arch, 0.045)]), 0.008)
    pipe = canvas.strokes([([(0.02, -0.02), (0.05, h(0.42))], 0.03)])
    density -= 0.10 * canvas.soften(pipe, 0.004)
    density += 0.015 * canvas.texture(random, 0.02) + 0.02 * canvas.texture(random, 0.2)
    return density.astype(np.float32)


def _side_bones(canvas: Canvas, chest: Chest, random: np.random.Generator) -> Field:
    """Vertebrae along the back, ribs that fall forward, the breast bone."""
    h = chest.height
    spine = curve([(0.16, 0.0), (0.26, 0.25), (0.28, 0.5), (0.24, 0.78), (0.20, 1.05)], 26)
    blocks = [
        ([a, ((a[0] * 0.3 + b[0] * 0.7), (a[1] * 0.3 + b[1] * 0.7))], 0.062)
        for a, b in pairwise(spine)
    ]
    bones = 0.18 * canvas.strokes(blocks)
    ribs = []
    for number in range(11):
        y = chest.apex + 0.055 * number + float(random.normal(0, 0.004))
        fall = 0.10 + 0.018 * number
        points = [(0.29, y), (0.12, y + 0.35 * fall), (-0.08, y + 0.85 * fall), (-0.22, y + fall)]
        ribs.append((curve(points), 0.016))
    bones += chest.rib_density * 0.7 * canvas.strokes(ribs)
    plate = curve([(-0.17, h(0.12)), (-0.25, h(0.35)), (-0.29, h(0.6))])
    bones += 0.12 * canvas.strokes([(plate, 0.022)])
    return canvas.soften(bones, 0.0025)
