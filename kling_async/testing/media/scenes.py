"""The frames of a film: a slow move over the picture, or the prompt on a moving background."""

from __future__ import annotations

import colorsys
import io
import math
import zlib
from typing import TYPE_CHECKING, Final

from PIL import Image, ImageDraw, ImageFilter

from kling_async.testing.media.text import LINE_HEIGHT, SetText, clean, fit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kling_async.testing.media.film import Film

FPS: Final = 24
LONGEST_SIDE: Final = 640

Size = tuple[int, int]
Color = tuple[int, int, int]
Box = tuple[int, int, int, int]

# Wider or taller pictures are cropped: a video of 640 x 2 shows nothing.
_MOST_RATIO: Final = 2.5
_ZOOM: Final = 0.16
# When the end picture begins to show, and when it covers the first: parts of the film's length.
_FADE: Final = (0.55, 0.9)
_HUES: Final = 997


def scene(film: Film, longest_side: int = LONGEST_SIDE) -> tuple[Size, Iterator[Image.Image]]:
    """Return the size and the frames of a film."""
    seed = zlib.crc32(film.prompt.encode("utf-8", "replace"))
    pictures = [_open_picture(picture) for picture in film.pictures]
    if pictures:
        size = _size(pictures[0].width / pictures[0].height, longest_side)
        draw = _over_pictures(pictures, size, clean(film.prompt), seed)
    else:
        width, height = film.aspect_ratio.split(":")
        size = _size(int(width) / int(height), longest_side)
        draw = _text_on_ground(size, clean(film.prompt), seed)
    count = film.duration * FPS
    return size, (draw(index / (count - 1)) for index in range(count))


def _open_picture(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")


def _size(ratio: float, longest_side: int) -> Size:
    """Return an even size of a ratio (width by height)."""
    ratio = min(max(ratio, 1 / _MOST_RATIO), _MOST_RATIO)
    if ratio >= 1:
        return longest_side, 2 * round(longest_side / ratio / 2)
    return 2 * round(longest_side * ratio / 2), longest_side


def _ease(x: float) -> float:
    """Map 0-1 to 0-1 with a soft start and a soft stop."""
    return (1 - math.cos(math.pi * min(max(x, 0.0), 1.0))) / 2


# A picture's move ------------------------------------------------------------------------------


def _over_pictures(
    pictures: list[Image.Image], size: Size, prompt: str, seed: int
) -> Callable[[float], Image.Image]:
    direction = math.tau * (seed % 360) / 360
    caption = _caption(prompt, size)

    def draw(x: float) -> Image.Image:
        frame = _zoomed(pictures[0], size, _ZOOM * _ease(x), direction)
        if len(pictures) > 1 and x > _FADE[0]:
            # The last frame is the end picture as it was given.
            end = _zoomed(pictures[1], size, _ZOOM / 2 * (1 - _ease(x)), direction + math.pi)
            frame = Image.blend(frame, end, _ease((x - _FADE[0]) / (_FADE[1] - _FADE[0])))
        frame.paste(caption, (0, size[1] - caption.height), caption)
        return frame

    return draw


def _zoomed(picture: Image.Image, size: Size, zoom: float, direction: float) -> Image.Image:
    """Show the middle of a picture, made to cover the frame, enlarged and moved aside."""
    scale = min(picture.width / size[0], picture.height / size[1]) / (1 + zoom)
    width, height = size[0] * scale, size[1] * scale
    left, top = (picture.width - width) / 2, (picture.height - height) / 2
    # Moved by as much as the zoom has set free at the side, never beyond the edge.
    free_x = min(left, picture.width * zoom / (1 + zoom) / 2)
    free_y = min(top, picture.height * zoom / (1 + zoom) / 2)
    left += math.cos(direction) * free_x
    top += math.sin(direction) * free_y
    box = (left, top, min(left + width, picture.width), min(top + height, picture.height))
    return picture.resize(size, Image.Resampling.BILINEAR, box=box)


def _caption(prompt: str, size: Size) -> Image.Image:
    """Return the strip at the bottom: at most two lines on a shadow that fades upwards."""
    width, height = size
    letter = max(13, round(min(size) / 20))
    margin = round(letter * 1.1)
    text = fit(prompt, width - 2 * margin, round(letter * LINE_HEIGHT * 2.2), (letter,))
    inner = round(len(text[1]) * letter * LINE_HEIGHT)
    strip_height = min(height, inner + margin * 5)
    shade = Image.linear_gradient("L").point([round(225 * _ease(v / 255)) for v in range(256)])
    strip = Image.new("RGBA", (width, strip_height), (8, 10, 16, 0))
    strip.putalpha(shade.resize((width, strip_height)))
    _draw_lines(strip, text, (margin, strip_height - inner - margin), letter)
    return strip


# The prompt's text -----------------------------------------------------------------------------


def _text_on_ground(size: Size, prompt: str, seed: int) -> Callable[[float], Image.Image]:
    ground = _ground(size, seed)
    text, bar = _title(prompt, size)
    bright = _color(seed % _HUES / _HUES + 0.12, 0.35, 1.0)

    def draw(x: float) -> Image.Image:
        frame = ground(x)
        frame.paste(text, (0, 0), text)
        left, top, right, bottom = bar
        frame.paste(bright, (left, top, right, top + round((bottom - top) * x)))
        return frame

    return draw


def _ground(size: Size, seed: int) -> Callable[[float], Image.Image]:
    """Return a background of three soft lights that drift; drawn small, and enlarged to blur it."""
    hue = seed % _HUES / _HUES
    small = (max(2, size[0] // 8), max(2, size[1] // 8))
    base = _color(hue, 0.62, 0.26)
    reach = round(max(small) * 1.5)
    light = Image.radial_gradient("L").point(
        [round(215 * max(0.0, 1 - v / 181) ** 1.4) for v in range(256)]
    )
    light = light.resize((reach, reach))
    lights = [
        (_color(hue + shift, 0.68, value), math.tau * ((seed >> bits) % 64) / 64)
        for shift, value, bits in ((0.06, 0.62, 3), (-0.09, 0.5, 9), (0.17, 0.58, 15))
    ]

    def draw(x: float) -> Image.Image:
        frame = Image.new("RGB", small, base)
        for number, (color, phase) in enumerate(lights):
            angle = phase + number * math.tau / 3 + x * 1.5
            center_x = small[0] * (0.5 + 0.48 * math.cos(angle))
            center_y = small[1] * (0.5 + 0.48 * math.sin(angle * 0.9))
            corner = (round(center_x - reach / 2), round(center_y - reach / 2))
            frame.paste(color, (*corner, corner[0] + reach, corner[1] + reach), light)
        return frame.resize(size, Image.Resampling.BICUBIC)

    return draw


def _title(prompt: str, size: Size) -> tuple[Image.Image, Box]:
    """Return the prompt on a transparent layer, and the bar beside it that fills with time."""
    width, height = size
    margin = round(min(size) * 0.11)
    sizes = [round(min(size) * part) for part in (0.13, 0.11, 0.09, 0.075, 0.062, 0.052, 0.044)]
    text = fit(prompt, width - 2 * margin, height - 2 * margin, sizes)
    letter = int(text[0].size)
    inner = round(len(text[1]) * letter * LINE_HEIGHT)
    top = (height - inner) // 2
    left, inset = round(margin * 0.52), round(letter * 0.12)
    bar = (left, top + inset, left + 3, top + inner - inset)
    layer = Image.new("RGBA", size, (0, 0, 0, 0))
    ImageDraw.Draw(layer).rectangle((bar[0], bar[1], bar[2] - 1, bar[3] - 1), (255, 255, 255, 60))
    _draw_lines(layer, text, (margin, top), letter)
    return layer, bar


def _draw_lines(layer: Image.Image, text: SetText, at: tuple[int, int], letter: int) -> None:
    """Write lines in white, over a soft shadow that keeps them legible on any ground."""
    font, lines = text
    shadow = Image.new("L", layer.size, 0)
    ink = Image.new("L", layer.size, 0)
    for number, line in enumerate(lines):
        spot = (at[0], at[1] + round(number * letter * LINE_HEIGHT))
        ImageDraw.Draw(ink).text(spot, line, fill=255, font=font)
    shadow.paste(150, (1, 2), ink)
    shadow = shadow.filter(ImageFilter.GaussianBlur(letter / 7))
    layer.alpha_composite(_filled(shadow, (0, 0, 0)))
    layer.alpha_composite(_filled(ink, (255, 255, 255)))


def _filled(alpha: Image.Image, color: Color) -> Image.Image:
    filled = Image.new("RGBA", alpha.size, (*color, 0))
    filled.putalpha(alpha)
    return filled


def _color(hue: float, saturation: float, value: float) -> Color:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)
