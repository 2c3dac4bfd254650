"""Draw the sample pictures in kling_async/testing/samples: python tests/testing/draw_samples.py.

Needs Pillow. Everything is drawn three times as large and reduced, which smooths the edges.
"""

from __future__ import annotations

import math
import random
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageChops, ImageDraw, ImageFilter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FOLDER = Path(__file__).parents[2] / "kling_async" / "testing" / "samples"
SCALE = 3

Point = tuple[float, float]
Color = str | tuple[int, int, int] | tuple[int, int, int, int]


class Sheet:
    """A picture being drawn, in the coordinates of its final size."""

    def __init__(self, width: int, height: int, seed: int) -> None:
        self.width, self.height = width, height
        self.size = (width * SCALE, height * SCALE)
        self.image = Image.new("RGB", self.size)
        self.dice = random.Random(seed)

    def gradient(self, top: float, bottom: float, stops: Sequence[tuple[float, str]]) -> None:
        """Fill a band with colours that change downwards."""
        y0, y1 = round(top * SCALE), round(bottom * SCALE)
        column = Image.new("RGB", (1, y1 - y0))
        for y in range(y1 - y0):
            column.putpixel((0, y), _between(stops, y / (y1 - y0)))
        self.image.paste(column.resize((self.size[0], y1 - y0)), (0, y0))

    def shape(self, points: Sequence[Point], fill: Color, blur: float = 0) -> None:
        """Draw a polygon."""
        self._draw(points, lambda pen, at: pen.polygon(at, fill=255), fill, blur)

    def curve(self, points: Sequence[Point], fill: Color, blur: float = 0) -> None:
        """Draw a closed shape that goes smoothly through points."""
        self.shape(_smooth(points), fill, blur)

    def line(self, points: Sequence[Point], fill: Color, width: float, blur: float = 0) -> None:
        """Draw a line with round joints."""
        pixels = max(1, round(width * SCALE))

        def draw(pen: ImageDraw.ImageDraw, at: list[Point]) -> None:
            pen.line(at, fill=255, width=pixels, joint="curve")

        self._draw(points, draw, fill, blur, width)

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, fill: Color, blur: float = 0
    ) -> None:
        """Draw an ellipse around a point."""
        corners = [(x - rx, y - ry), (x + rx, y + ry)]
        self._draw(corners, lambda pen, at: pen.ellipse(at, fill=255), fill, blur)

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: Color, blur: float = 0) -> None:
        """Draw a rectangle."""
        self.shape([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], fill, blur)

    def glow(self, x: float, y: float, radius: float, color: str, strength: float) -> None:
        """Add light that fades with the distance."""
        side = round(radius * 2 * SCALE)
        mask = Image.radial_gradient("L").point(
            lambda v: round(255 * strength * max(0.0, 1 - v / 181) ** 2)
        )
        mask = mask.resize((side, side), Image.Resampling.BICUBIC)
        spot = (round((x - radius) * SCALE), round((y - radius) * SCALE))
        self.image.paste(color, (*spot, spot[0] + side, spot[1] + side), mask)

    def ridge(
        self,
        base: float,
        height: float,
        fill: Color,
        *,
        rough: float = 1.0,
        wave: float = 300,
        bottom: float | None = None,
    ) -> list[Point]:
        """Draw hills from edge to edge and give their outline."""
        waves = [
            (height / 2**n * rough**n, wave / 2**n, self.dice.uniform(0, math.tau))
            for n in range(6 if rough > 0.8 else 3)
        ]
        outline = [
            (x, base - sum(a * math.sin(math.tau * x / w + p) for a, w, p in waves))
            for x in range(-4, self.width + 8, 4)
        ]
        low = self.height if bottom is None else bottom
        self.shape([(-4, low), *outline, (self.width + 4, low)], fill)
        return outline

    def save(self, name: str, **options: int | bool) -> None:
        """Reduce and write."""
        final = self.image.resize((self.width, self.height), Image.Resampling.LANCZOS)
        path = FOLDER / name
        final.save(path, **options)
        print(f"{name}: {path.stat().st_size / 1000:.0f} kB")

    def _draw(
        self,
        points: Sequence[Point],
        draw: Callable[[ImageDraw.ImageDraw, list[Point]], None],
        fill: Color,
        blur: float,
        width: float = 0,
    ) -> None:
        """Draw on a mask no larger than needed, blur it, and fill through it."""
        margin = round((blur * 3 + width) * SCALE) + 2
        pixels = _scaled(points)
        left = max(0, math.floor(min(x for x, _ in pixels)) - margin)
        top = max(0, math.floor(min(y for _, y in pixels)) - margin)
        right = min(self.size[0], math.ceil(max(x for x, _ in pixels)) + margin)
        bottom = min(self.size[1], math.ceil(max(y for _, y in pixels)) + margin)
        if right <= left or bottom <= top:
            return
        mask = Image.new("L", (right - left, bottom - top))
        draw(ImageDraw.Draw(mask), [(x - left, y - top) for x, y in pixels])
        if blur:
            mask = mask.filter(ImageFilter.GaussianBlur(blur * SCALE))
        color = fill
        if isinstance(fill, tuple) and len(fill) == 4:
            alpha = fill[3]
            mask = mask.point([v * alpha // 255 for v in range(256)])
            color = fill[:3]
        self.image.paste(color, (left, top, right, bottom), mask)


def _scaled(points: Sequence[Point]) -> list[Point]:
    return [(x * SCALE, y * SCALE) for x, y in points]


def _rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def _between(stops: Sequence[tuple[float, str]], at: float) -> tuple[int, int, int]:
    for (x0, c0), (x1, c1) in pairwise(stops):
        if at <= x1:
            part = (at - x0) / (x1 - x0)
            red, green, blue = (
                round(a + (b - a) * part) for a, b in zip(_rgb(c0), _rgb(c1), strict=True)
            )
            return red, green, blue
    return _rgb(stops[-1][1])


def _smooth(points: Sequence[Point]) -> list[Point]:
    """Go through points on a closed Catmull-Rom curve."""
    out: list[Point] = []
    count = len(points)
    for i in range(count):
        p0, p1, p2, p3 = (points[(i + k) % count] for k in (-1, 0, 1, 2))
        for step in range(12):
            t = step / 12
            out.append(
                (
                    _spline(p0[0], p1[0], p2[0], p3[0], t),
                    _spline(p0[1], p1[1], p2[1], p3[1], t),
                )
            )
    return out


def _spline(a: float, b: float, c: float, d: float, t: float) -> float:
    return 0.5 * (
        2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
    )


def _pine(sheet: Sheet, x: float, y: float, height: float, fill: Color, snow: Color | None) -> None:
    sheet.box(x - height * 0.025, y - height * 0.1, x + height * 0.025, y, fill)
    for step in range(4):
        top = y - height + height * 0.2 * step
        low = top + height * (0.28 + 0.035 * step)
        half = height * (0.11 + 0.062 * step)
        sheet.shape([(x, top), (x + half, low), (x - half, low)], fill)
        if snow is not None:
            cap = top + (low - top) * 0.45
            side = half * 0.45
            zigzag = [(x + side * 0.4, cap - 3), (x, cap + 3), (x - side * 0.5, cap - 2)]
            sheet.shape([(x, top), (x + side, cap), *zigzag, (x - side, cap)], snow)


def fox() -> None:
    """A fox in fresh snow."""
    s = Sheet(960, 540, 4)
    s.gradient(0, 540, [(0, "#8fb4d9"), (0.4, "#f3d3c4"), (0.62, "#fbe7d6"), (1, "#fbe7d6")])
    s.glow(700, 215, 330, "#fff3d8", 0.9)
    s.ellipse(700, 215, 38, 38, "#fff8e6")
    s.ridge(300, 26, "#c3cfe3", wave=520, rough=0.7)
    for layer, (base, color) in enumerate(((330, "#a5b7d2"), (356, "#7f97ba"))):
        for _ in range(26 - layer * 6):
            x = s.dice.uniform(-20, 980)
            _pine(
                s,
                x,
                base + s.dice.uniform(0, 14),
                s.dice.uniform(70, 120) + layer * 30,
                color,
                None,
            )
        s.ridge(base + 8, 8, ("#d5deed", "#dfe7f3")[layer], wave=700, rough=0.5)
    for x, height in ((60, 270), (150, 200), (905, 300), (830, 190), (255, 150)):
        _pine(s, x, 408 + height * 0.06, height, "#3f5d7d", "#eef4fb")
    s.ridge(412, 13, "#f1f6fc", wave=900, rough=0.5)
    s.ridge(470, 12, "#ffffff", wave=760, rough=0.5)
    s.ellipse(505, 476, 150, 15, (120, 146, 190, 110), blur=7)
    _fox(s, 470, 475)
    s.ridge(512, 8, "#f6faff", wave=520, rough=0.5)
    for _ in range(120):
        size = s.dice.uniform(0.9, 3.1)
        spot = (s.dice.uniform(0, 960), s.dice.uniform(0, 540))
        s.ellipse(*spot, size, size, (255, 255, 255, s.dice.randint(120, 235)))
    s.save("fox.jpg", quality=88)


def _fox(s: Sheet, x: float, y: float) -> None:
    """Draw a sitting fox; the point is between its front paws."""
    orange, dark, light = "#e2762e", "#c45d1f", "#fff6ea"

    def at(*points: Point) -> list[Point]:
        return [(x + px, y + py) for px, py in points]

    # Tail, around the right side.
    s.curve(
        at(
            (62, -8),
            (110, 2),
            (158, -18),
            (182, -62),
            (168, -104),
            (150, -112),
            (142, -84),
            (118, -52),
            (84, -44),
        ),
        dark,
    )
    s.curve(
        at((150, -112), (170, -106), (183, -68), (176, -60), (160, -74), (146, -72), (140, -86)),
        light,
    )
    # Back and haunch.
    s.curve(
        at((-14, -148), (26, -140), (62, -98), (86, -46), (82, -6), (40, 2), (-24, 2), (-30, -60)),
        orange,
    )
    s.curve(at((34, -66), (72, -58), (88, -26), (80, 0), (34, 2), (20, -26)), dark)
    s.curve(at((38, -60), (70, -54), (84, -26), (76, -4), (38, -2), (26, -26)), orange)
    # Chest and front legs.
    s.curve(
        at((-44, -132), (2, -136), (14, -92), (8, -40), (-14, -18), (-32, -40), (-42, -90)), light
    )
    s.curve(at((-34, -62), (-16, -58), (-14, -14), (-10, 2), (-38, 3), (-34, -20)), orange)
    s.curve(at((-6, -62), (14, -60), (12, -16), (17, 2), (-10, 3), (-7, -20)), orange)
    for left in (-39, -11):
        s.curve(at((left + 3, -18), (left + 24, -18), (left + 28, 2), (left - 1, 3)), "#4a2c22")
    # Head.
    s.shape(at((-66, -176), (-72, -240), (-30, -206)), orange)
    s.shape(at((32, -176), (40, -240), (-4, -206)), orange)
    s.shape(at((-62, -186), (-66, -226), (-40, -203)), "#4a2c22")
    s.shape(at((28, -186), (34, -226), (6, -203)), "#4a2c22")
    s.curve(
        at(
            (-16, -212),
            (22, -202),
            (44, -168),
            (30, -142),
            (0, -122),
            (-16, -112),
            (-32, -122),
            (-62, -142),
            (-76, -168),
            (-54, -202),
        ),
        orange,
    )
    s.curve(at((-76, -166), (-52, -164), (-26, -146), (-18, -114), (-34, -120), (-62, -141)), light)
    s.curve(at((44, -166), (20, -164), (-6, -146), (-14, -114), (2, -120), (30, -141)), light)
    s.curve(at((-23, -150), (-9, -150), (-8, -124), (-16, -112), (-24, -124)), light)
    s.curve(at((-25, -126), (-16, -129), (-7, -126), (-16, -113)), "#2b1d1a")
    for ex in (-43, 11):
        s.ellipse(x + ex, y - 163, 6.2, 7.4, "#2b1d1a")
        s.ellipse(x + ex + 2, y - 166, 1.9, 2.2, "#ffffff")


def lighthouse() -> None:
    """A lighthouse by night."""
    s = Sheet(960, 540, 11)
    s.gradient(0, 400, [(0, "#0a1033"), (0.55, "#232a63"), (0.85, "#5a4a86"), (1, "#8a5f93")])
    for _ in range(170):
        size = s.dice.uniform(0.5, 1.6)
        spot = (s.dice.uniform(0, 960), s.dice.uniform(0, 330) ** 1.0)
        s.ellipse(*spot, size, size, (255, 250, 235, s.dice.randint(60, 240)))
    s.glow(190, 120, 170, "#dfe3ff", 0.55)
    s.ellipse(190, 120, 38, 38, "#f6f3e4")
    s.ellipse(178, 110, 8, 8, "#e5e0cd")
    s.ellipse(203, 131, 11, 11, "#e5e0cd")
    s.ellipse(198, 104, 5, 5, "#e5e0cd")
    s.gradient(378, 540, [(0, "#6b5488"), (0.12, "#3c3c78"), (1, "#0c1236")])
    for row in range(46):
        y = 384 + row * row * 0.075
        spread = 26 + row * 2.4
        half = s.dice.uniform(8, 34)
        mid = 190 + s.dice.uniform(-spread, spread) * 0.6
        s.line([(mid - half, y), (mid + half, y)], (235, 235, 255, 150 - row * 2), 1 + row * 0.035)
    for _ in range(60):
        y = s.dice.uniform(386, 536)
        x = s.dice.uniform(-20, 960)
        half = s.dice.uniform(10, 40) * (y - 340) / 120
        s.line([(x - half, y), (x + half, y)], (150, 140, 205, 46), 1.2)
    # The light's beams.
    s.shape([(668, 147), (-40, 20), (-40, 190)], (255, 238, 178, 100), blur=9)
    s.shape([(668, 147), (-40, 66), (-40, 146)], (255, 246, 206, 92), blur=7)
    s.shape([(688, 147), (1000, 84), (1000, 196)], (255, 238, 178, 110), blur=7)
    # Cliff.
    cliff = [
        (420, 545),
        (452, 492),
        (500, 470),
        (528, 430),
        (566, 418),
        (588, 392),
        (640, 380),
        (720, 382),
        (786, 374),
        (830, 398),
        (886, 402),
        (930, 428),
        (970, 432),
        (970, 545),
    ]
    s.shape(cliff, "#191a3c")
    s.shape(
        [
            (566, 418),
            (588, 392),
            (640, 380),
            (720, 382),
            (786, 374),
            (830, 398),
            (786, 400),
            (720, 404),
            (650, 402),
            (600, 416),
        ],
        "#2f3a5e",
    )
    s.shape(
        [(500, 470), (528, 430), (566, 418), (548, 450), (540, 500), (512, 540), (478, 540)],
        "#242750",
    )
    s.shape([(700, 404), (740, 430), (720, 480), (752, 540), (690, 540), (672, 470)], "#222449")
    # House.
    s.box(722, 336, 806, 385, "#d9cfc4")
    s.box(722, 336, 750, 385, "#b5a9ab")
    s.shape([(712, 338), (764, 304), (816, 338)], "#7b2f3b")
    s.box(768, 350, 784, 368, "#ffd98a")
    s.glow(776, 358, 40, "#ffcf70", 0.5)
    s.box(734, 352, 744, 366, "#ffd98a")
    # Tower.
    tower = [(642, 386), (656, 176), (700, 176), (714, 386)]
    s.shape(tower, "#f1ebe4")
    for n in range(3):
        y0, y1 = 206 + n * 62, 237 + n * 62
        edges = [
            (_edge(y0, 642, 656), y0),
            (_edge(y0, 714, 700), y0),
            (_edge(y1, 714, 700), y1),
            (_edge(y1, 642, 656), y1),
        ]
        s.shape(edges, "#c8443f")
    s.shape([(684, 176), (700, 176), (714, 386), (692, 386)], (20, 20, 60, 95))
    for y in (222, 290, 350):
        s.box(672, y, 681, y + 15, "#ffdf94")
    s.box(648, 168, 708, 178, "#2b2d4f")
    s.box(660, 128, 696, 168, "#ffe9a8")
    for x in (660, 671, 683, 694):
        s.box(x, 126, x + 2, 168, "#2b2d4f")
    s.shape([(652, 130), (678, 102), (704, 130)], "#8f2f38")
    s.ellipse(678, 101, 4, 4, "#8f2f38")
    s.glow(678, 148, 120, "#fff2bf", 0.85)
    s.ellipse(678, 148, 12, 12, "#fffdf0", blur=1.5)
    s.save("lighthouse.jpg", quality=88)


def _edge(y: float, low: float, high: float) -> float:
    return high + (low - high) * (y - 176) / 210


def sailboat() -> None:
    """A sailing boat at sunset."""
    s = Sheet(960, 540, 21)
    s.gradient(0, 330, [(0, "#3b2a66"), (0.35, "#a2426f"), (0.7, "#f2784b"), (1, "#ffc46b")])
    s.glow(330, 318, 400, "#ffe08a", 0.8)
    s.ellipse(330, 296, 64, 64, "#fff1b8")
    for _ in range(11):
        x, y = s.dice.uniform(0, 960), s.dice.uniform(40, 230)
        for _ in range(5):
            half = s.dice.uniform(30, 110)
            dx, dy = s.dice.uniform(-60, 60), s.dice.uniform(-7, 7)
            tint = (255, 170 + int(y / 4), 140, 62)
            s.ellipse(x + dx, y + dy, half, s.dice.uniform(3, 8), tint, blur=2)
    s.ridge(322, 10, "#7d3a63", wave=430, rough=0.9, bottom=331)
    s.gradient(330, 540, [(0, "#f59a5c"), (0.25, "#c2506a"), (0.65, "#5c2f6d"), (1, "#2a1d4e")])
    s.box(0, 328, 960, 331, (255, 220, 150, 150), blur=1.5)
    for row in range(70):
        y = 333 + row**1.32 * 0.77
        spread = 40 + row * 1.7
        for _ in range(2):
            mid = 330 + s.dice.uniform(-spread, spread)
            half = s.dice.uniform(6, 26) + row * 0.3
            s.line([(mid - half, y), (mid + half, y)], (255, 224, 140, 175 - row), 1.1 + row * 0.03)
    for _ in range(90):
        y = 336 + s.dice.random() ** 1.4 * 200
        x = s.dice.uniform(-30, 980)
        half = s.dice.uniform(8, 34) * (y - 290) / 90
        s.line([(x - half, y), (x + half, y)], (60, 26, 84, 70), 1 + (y - 330) / 110)
    # The boat and its image in the water.
    s.ellipse(620, 452, 150, 10, (30, 14, 56, 170), blur=5)
    s.shape(
        [(512, 446), (728, 446), (690, 486), (640, 530), (600, 530), (556, 486)],
        (36, 18, 66, 130),
        blur=6,
    )
    s.line([(614, 128), (614, 424)], "#3a1f33", 5)
    s.curve(
        [(608, 142), (604, 240), (600, 396), (560, 404), (508, 398), (536, 330), (580, 220)],
        "#ffe9cf",
    )
    s.curve([(608, 142), (606, 240), (601, 396), (584, 402), (590, 300), (600, 210)], "#f3c7a4")
    s.curve(
        [(620, 134), (668, 220), (712, 318), (734, 396), (690, 406), (620, 402), (622, 260)],
        "#e8544f",
    )
    s.curve([(620, 134), (640, 190), (650, 300), (648, 402), (620, 402), (621, 260)], "#c43e48")
    s.line([(606, 408), (742, 404)], "#3a1f33", 4)
    s.curve(
        [
            (492, 420),
            (560, 426),
            (660, 426),
            (752, 414),
            (736, 440),
            (700, 456),
            (560, 458),
            (514, 446),
        ],
        "#5b2a2f",
    )
    s.shape(
        [
            (495, 421),
            (560, 427),
            (660, 427),
            (750, 416),
            (745, 424),
            (660, 434),
            (560, 434),
            (500, 429),
        ],
        "#f6e3cc",
    )
    s.ellipse(686, 402, 8, 9, "#2c1830")
    s.curve([(675, 426), (678, 411), (686, 408), (695, 412), (697, 425)], "#2c1830")
    s.shape([(616, 120), (650, 128), (616, 136)], "#ffd26e")
    for x, y, w in ((180, 130, 15), (214, 152, 11), (150, 166, 10), (252, 116, 8)):
        s.line(
            [
                (x - w, y - w * 0.35),
                (x - w * 0.4, y - w * 0.45),
                (x, y),
                (x + w * 0.4, y - w * 0.45),
                (x + w, y - w * 0.35),
            ],
            "#3f1f4d",
            2.2,
        )
    s.save("sailboat.webp", quality=86, method=6)


def lake(name: str, *, night: bool) -> None:
    """A mountain lake, by day or by night: the same place, for a film's two ends."""
    s = Sheet(960, 540, 33)
    if night:
        sky = [(0, "#070b2a"), (0.6, "#16265a"), (1, "#2f4c86")]
        far, near, snow, shade = "#24365f", "#14224a", "#aebfe6", "#7c90c4"
        hill, tree, grass = "#0d1a38", "#081226", "#0a1730"
        tent, inside, flap = "#a8642f", "#ffcf70", "#6e3a20"
    else:
        sky = [(0, "#3f8fd6"), (0.6, "#9fd0f0"), (1, "#e6f3f4")]
        far, near, snow, shade = "#8fa9c9", "#5f7fa8", "#ffffff", "#d3e0f0"
        hill, tree, grass = "#3f7d5c", "#24573f", "#5da052"
        tent, inside, flap = "#f08a3c", "#7a3a1c", "#c9642a"
    s.gradient(0, 330, sky)
    if night:
        for _ in range(190):
            size = s.dice.uniform(0.5, 1.5)
            spot = (s.dice.uniform(0, 960), s.dice.uniform(0, 260))
            s.ellipse(*spot, size, size, (255, 255, 245, s.dice.randint(70, 240)))
        s.glow(760, 92, 190, "#cdd9ff", 0.5)
        outer = [(_turn(760, 92, 30, 30, 70 + 10 * n)) for n in range(23)]
        inner = [(_turn(760, 92, 30, 14, 290 - 10 * n)) for n in range(23)]
        s.shape(outer + inner, "#fbf7e6")
    else:
        s.glow(760, 92, 220, "#fff6cf", 0.95)
        s.ellipse(760, 92, 36, 36, "#fffbe8")
        for x, y, size in ((170, 84, 1.0), (420, 52, 0.7), (600, 128, 0.55)):
            for dx, dy, r in ((-46, 6, 20), (-16, -6, 29), (20, -2, 25), (48, 8, 17)):
                s.ellipse(x + dx * size, y + dy * size, r * size, r * size * 0.8, "#fdfeff")
            s.box(x - 50 * size, y + 8 * size, x + 50 * size, y + 21 * size, "#fdfeff")
    _peak(s, 140, 150, 200, 320, far, shade)
    _peak(s, 800, 168, 190, 320, far, shade)
    _peak(s, 345, 104, 230, 320, near, snow)
    _peak(s, 590, 140, 210, 320, near, snow)
    s.dice.seed(5)
    outline = s.ridge(306, 12, hill, wave=520, rough=0.7, bottom=330)
    for x, y in outline[::3]:
        _pine(s, x + s.dice.uniform(-4, 4), y + 6, s.dice.uniform(16, 40), tree, None)
    _mirror(s, 330, "#0d1f4a" if night else "#2f7fa8", 0.42 if night else 0.34)
    for _ in range(70):
        y = 334 + s.dice.random() ** 1.6 * 150
        x = s.dice.uniform(0, 960)
        half = s.dice.uniform(10, 40) * (y - 280) / 90
        tint = (150, 180, 240, 44) if night else (255, 255, 255, 78)
        s.line([(x - half, y), (x + half, y)], tint, 1.2)
    s.ridge(482, 12, grass, wave=800, rough=0.5)
    for x, height in ((48, 250), (118, 180), (188, 120), (920, 270), (850, 170)):
        _pine(s, x, 490, height, tree, None)
    if night:
        s.glow(690, 470, 150, "#ff9c40", 0.62)
    s.shape([(620, 492), (682, 408), (764, 492)], tent)
    s.shape([(682, 408), (764, 492), (720, 492)], flap)
    s.shape([(660, 492), (682, 428), (700, 492)], inside)
    s.line([(620, 492), (602, 500)], "#d8c9a8", 1.2)
    s.line([(764, 492), (782, 500)], "#d8c9a8", 1.2)
    for _ in range(160):
        x, y = s.dice.uniform(0, 960), s.dice.uniform(494, 540)
        blade = (40, 70, 90, 120) if night else (38, 110, 58, 120)
        s.line([(x, y), (x + s.dice.uniform(-3, 3), y - s.dice.uniform(6, 15))], blade, 1.3)
    s.save(name, quality=88)


def _turn(x: float, y: float, radius: float, depth: float, degrees: float) -> Point:
    """Give a point of a moon's edge; `depth` is how far the edge lies to the left."""
    angle = math.radians(degrees)
    return x + depth * math.cos(angle) - 4, y + radius * math.sin(angle)


def _peak(s: Sheet, x: float, top: float, half: float, low: float, fill: str, snow: str) -> None:
    s.shape([(x, top), (x + half, low), (x - half, low)], fill)
    s.shape(
        [(x, top), (x + half, low), (x + half * 0.18, low), (x + half * 0.1, top + 80)],
        (10, 20, 60, 42),
    )
    reach = (low - top) * 0.36
    side = half * 0.36
    s.shape(
        [
            (x, top),
            (x + side, top + reach),
            (x + side * 0.55, top + reach * 0.8),
            (x + side * 0.2, top + reach * 1.12),
            (x - side * 0.15, top + reach * 0.76),
            (x - side * 0.55, top + reach * 1.05),
            (x - side, top + reach),
        ],
        snow,
    )


def _mirror(s: Sheet, level: float, tint: str, strength: float) -> None:
    """Show what is above a level upside down below it, tinted and a little blurred."""
    y = round(level * SCALE)
    depth = s.size[1] - y
    above = s.image.crop((0, y - depth, s.size[0], y)).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    above = above.filter(ImageFilter.GaussianBlur(2.2 * SCALE))
    rows = Image.new("L", (1, depth))
    for row in range(depth):
        rows.putpixel((0, row), round(255 * (strength + 0.3 * row / depth)))
    above.paste(tint, (0, 0, *above.size), rows.resize(above.size))
    s.image.paste(above, (0, y))


def city() -> None:
    """A city street in the rain, upright."""
    s = Sheet(540, 960, 7)
    s.gradient(
        0,
        960,
        [(0, "#0e1533"), (0.35, "#2b2f63"), (0.6, "#7a4a7f"), (0.66, "#d9836f"), (1, "#141a38")],
    )
    s.glow(270, 590, 260, "#ffc08a", 0.75)
    for x, width, top, color in (
        (150, 90, 330, "#3d3a70"),
        (232, 74, 400, "#4a427a"),
        (306, 66, 366, "#453e75"),
        (372, 84, 300, "#3b386c"),
    ):
        s.box(x, top, x + width, 640, color)
        _windows(s, (x + 8, top + 14, x + width - 8, 600), 12, 0.35, (255, 214, 150, 120))
    left = [(0, 150), (170, 262), (170, 652), (0, 760)]
    right = [(540, 90), (384, 240), (384, 652), (540, 760)]
    s.shape(left, "#1b2048")
    s.shape(right, "#191d43")
    for wall, flip in ((left, False), (right, True)):
        _facade(s, wall, flip=flip)
    # The wet street.
    s.shape([(0, 740), (170, 640), (384, 640), (540, 740), (540, 960), (0, 960)], "#1c2145")
    s.shape([(60, 960), (214, 640), (338, 640), (490, 960)], "#262b55")
    mirror = s.image.crop((0, 320 * SCALE, s.size[0], 640 * SCALE)).transpose(
        Image.Transpose.FLIP_TOP_BOTTOM
    )
    mirror = mirror.filter(ImageFilter.GaussianBlur(5 * SCALE))
    spot = Image.new("L", s.size)
    ImageDraw.Draw(spot).polygon(
        _scaled([(0, 740), (170, 640), (384, 640), (540, 740), (540, 960), (0, 960)]), fill=120
    )
    layer = s.image.copy()
    layer.paste(mirror, (0, 640 * SCALE))
    s.image.paste(layer, (0, 0), spot)
    for n in range(6):
        y = 672 + n * n * 9
        half = 2 + n * 1.4
        s.shape(
            [
                (276 - half, y),
                (276 + half, y),
                (276 + half * 1.3, y + 14 + n * 5),
                (276 - half * 1.3, y + 14 + n * 5),
            ],
            (255, 232, 190, 150),
        )
    for x, y in ((96, 700), (148, 664), (452, 700), (402, 664)):
        height = (y - 560) * 1.9
        inward = 1 if x < 270 else -1
        s.line(
            [(x, y), (x, y - height), (x + inward * height * 0.14, y - height - 6)],
            "#0c1028",
            3.2 if y > 680 else 2,
        )
        lamp = (x + inward * height * 0.15, y - height - 2)
        s.glow(*lamp, 92 if y > 680 else 56, "#ffd08a", 0.85)
        s.ellipse(*lamp, 7, 4.5, "#fff3d2")
        s.box(lamp[0] - 5, y + 6, lamp[0] + 5, y + 150, (255, 200, 130, 74), blur=6)
    # A person with an umbrella, walking away.
    s.ellipse(214, 872, 46, 7, (6, 8, 26, 190), blur=4)
    s.shape([(196, 862), (204, 800), (216, 800), (213, 868), (203, 870)], "#0d1129")
    s.shape([(216, 800), (227, 800), (236, 862), (226, 868)], "#0d1129")
    s.curve(
        [(191, 808), (196, 756), (206, 740), (224, 740), (234, 756), (240, 808), (216, 816)],
        "#b8433f",
    )
    s.ellipse(215, 730, 12, 13, "#0d1129")
    s.line([(226, 772), (226, 676)], "#0d1129", 2.4)
    dome = [
        (226 + 74 * math.cos(a), 716 - 52 * math.sin(a))
        for a in (math.pi * n / 30 for n in range(31))
    ]
    s.shape([*dome, (177, 708), (152, 717)], "#e5533f")
    s.shape([*dome[:16], (226, 712)], "#f0714f")
    for x in (189, 226, 263):
        s.ellipse(x, 717, 18.5, 8, "#45264a")
    for _ in range(230):
        x, y = s.dice.uniform(-40, 560), s.dice.uniform(-20, 960)
        size = s.dice.uniform(14, 40)
        s.line([(x, y), (x - size * 0.2, y + size)], (205, 220, 255, s.dice.randint(28, 92)), 0.9)
    for _ in range(44):
        x, y = s.dice.uniform(30, 510), 700 + s.dice.random() * 250
        s.ellipse(x, y, s.dice.uniform(3, 8), 1.4, (220, 230, 255, 84))
    s.save("city.webp", quality=84, method=6)


def _windows(
    s: Sheet, box: tuple[float, float, float, float], step: float, chance: float, fill: Color
) -> None:
    x0, y0, x1, y1 = box
    y = y0
    while y < y1:
        x = x0
        while x < x1 - step * 0.4:
            if s.dice.random() < chance:
                s.box(x, y, x + step * 0.5, y + step * 0.65, fill)
            x += step
        y += step * 1.35


def _facade(s: Sheet, wall: list[Point], *, flip: bool) -> None:
    """Put windows and shop fronts on a wall that runs away from the viewer."""
    (x0, t0), (x1, t1), (_, b1), (_, b0) = wall

    def at(u: float, v: float) -> Point:
        top, bottom = t0 + (t1 - t0) * u, b0 + (b1 - b0) * u
        return x0 + (x1 - x0) * u, top + (bottom - top) * v

    columns = 7
    for column in range(columns):
        u0, u1 = _away(column / columns), _away((column + 0.62) / columns)
        for row in range(11):
            v0 = 0.04 + row * 0.072
            lit = s.dice.random() < 0.42
            warm = s.dice.choice(("#ffd694", "#ffc27a", "#9fc4ff"))
            s.shape(
                [at(u0, v0), at(u1, v0), at(u1, v0 + 0.045), at(u0, v0 + 0.045)],
                warm if lit else "#2a3062",
            )
        color = s.dice.choice(("#ff8a5c", "#4fd0c8", "#ffc95c", "#e86aa6"))
        s.shape([at(u0, 0.865), at(u1, 0.865), at(u1, 0.985), at(u0, 0.985)], color)
        s.shape([at(u0, 0.835), at(u1, 0.835), at(u1, 0.865), at(u0, 0.865)], "#10142f")
    x, y = at(0.45, 0.92)
    s.glow(x, y, 120, "#4fd0c8" if flip else "#ff9a6c", 0.4)


def _away(u: float) -> float:
    """Put what is farther away closer together."""
    return 1.45 * u / (1 + 0.45 * u)


def balloon() -> None:
    """A balloon over fields, square and in flat colours."""
    s = Sheet(720, 720, 15)
    s.gradient(0, 520, [(0, "#57b6e8"), (0.7, "#bfe6f5"), (1, "#fdf3d3")])
    s.ellipse(590, 120, 46, 46, "#fff3b5")
    for x, y, size in ((130, 150, 1.0), (560, 250, 0.8), (90, 330, 0.6)):
        for dx, dy, r in ((-40, 4, 18), (-12, -8, 27), (22, -3, 23), (46, 6, 15)):
            s.ellipse(x + dx * size, y + dy * size, r * size, r * size * 0.85, "#ffffff")
        s.curve(
            [
                (x - 62 * size, y + 13 * size),
                (x, y + 6 * size),
                (x + 64 * size, y + 13 * size),
                (x, y + 21 * size),
            ],
            "#ffffff",
        )
    s.ridge(455, 20, "#8fc2a9", wave=420, rough=0.5)
    s.ridge(490, 16, "#6fae84", wave=560, rough=0.5)
    top = s.ridge(530, 14, "#8cc152", wave=900, rough=0.4)
    colors = (
        "#f4c542",
        "#7fb648",
        "#e9a23b",
        "#5f9e43",
        "#f7d774",
        "#98c95a",
        "#d98b3a",
        "#6fae45",
    )

    def crest(x: float) -> float:
        return min(top, key=lambda p: abs(p[0] - x))[1]

    for n in range(8):
        x0, x1 = 720 * n / 8, 720 * (n + 1) / 8
        low0, low1 = 360 + (x0 - 360) * 2.6, 360 + (x1 - 360) * 2.6
        points = [(x, crest(x) + 8) for x in (x0 + (x1 - x0) * k / 8 for k in range(9))]
        s.shape([*points, (low1, 730), (low0, 730)], colors[n])
        for k in range(1, 7):
            part = k / 7
            shade = (0, 0, 0, 24)
            s.line(
                [
                    (x0 + (x1 - x0) * part, crest(x0 + (x1 - x0) * part) + 8),
                    (low0 + (low1 - low0) * part, 730),
                ],
                shade,
                2.2,
            )
    for x in (60, 150, 236, 420, 520, 640):
        y = crest(x) + 9
        s.box(x - 2, y - 14, x + 2, y, "#6b4a2f")
        s.ellipse(x, y - 22, 12, 15, "#3f7f45")
        s.ellipse(x + 3, y - 25, 7, 9, "#5b9b52")
    s.box(300, crest(310) - 14, 346, crest(310) + 10, "#f6ead6")
    s.shape([(294, crest(310) - 13), (323, crest(310) - 36), (352, crest(310) - 13)], "#c4473b")
    s.box(318, crest(310) - 4, 328, crest(310) + 10, "#7a4a33")
    _envelope(s, 372, 236, 150)
    s.save("balloon.png", optimize=True)


def _envelope(s: Sheet, x: float, y: float, radius: float) -> None:
    outline = [
        (
            x + radius * side * math.sin(a) * (1 if a < 1.7 else 1 - (a - 1.7) * 0.17),
            y - radius * math.cos(a) * (1 if a < 1.57 else 1.28),
        )
        for side, angles in (
            (1, [n / 20 * 2.62 for n in range(21)]),
            (-1, [n / 20 * 2.62 for n in range(20, -1, -1)]),
        )
        for a in angles
    ]
    mask = Image.new("L", s.size)
    ImageDraw.Draw(mask).polygon(_scaled(outline), fill=255)
    stripes = Sheet(s.width, s.height, 1)
    stripes.image.paste("#e5503f", (0, 0, *s.size))
    for part, color in ((1.0, "#e5503f"), (0.78, "#fbe3b3"), (0.5, "#f2953d"), (0.2, "#fbe3b3")):
        narrowed = [(x + (px - x) * part, py) for px, py in outline]
        stripes.shape(narrowed, color)
    stripes.shape([(x + (px - x) * 0.07, py) for px, py in outline], "#e5503f")
    wide = [
        (x - radius * 1.1, y - 16),
        (x, y + 12),
        (x + radius * 1.1, y - 16),
        (x + radius * 1.1, y + 20),
        (x, y + 50),
        (x - radius * 1.1, y + 20),
    ]
    stripes.curve(wide, "#2f6f8f")
    shadow = ImageChops.offset(mask, -round(34 * SCALE), -round(12 * SCALE))
    shade = ImageChops.subtract(mask, shadow).point(lambda v: v * 46 // 255)
    stripes.image.paste("#3a1030", (0, 0, *s.size), shade)
    s.image.paste(stripes.image, (0, 0), mask)
    low = y + radius * 1.28 * 0.868
    half = radius * 0.42
    s.line([(x - half, low), (x - 20, low + 74)], "#6b4a2f", 1.6)
    s.line([(x + half, low), (x + 20, low + 74)], "#6b4a2f", 1.6)
    s.line([(x - half * 0.3, low), (x - 8, low + 74)], "#6b4a2f", 1.6)
    s.line([(x + half * 0.3, low), (x + 8, low + 74)], "#6b4a2f", 1.6)
    s.ellipse(x - 8, low + 64, 6, 7, "#3a2a22")
    s.ellipse(x + 8, low + 66, 5.5, 6.5, "#5a3a2a")
    s.shape(
        [(x - 23, low + 72), (x + 23, low + 72), (x + 18, low + 108), (x - 18, low + 108)],
        "#a9713c",
    )
    s.box(x - 25, low + 70, x + 25, low + 77, "#7a4d26")
    for n in range(3):
        s.line([(x - 20 + n, low + 84 + n * 8), (x + 20 - n, low + 84 + n * 8)], "#8a5a2d", 1.2)


def main() -> None:
    """Draw them all."""
    FOLDER.mkdir(exist_ok=True)
    fox()
    lighthouse()
    sailboat()
    lake("lake-day.jpg", night=False)
    lake("lake-night.jpg", night=True)
    city()
    balloon()


if __name__ == "__main__":
    main()
