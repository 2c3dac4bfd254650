from __future__ import annotations

import io
import sys

import pytest
from PIL import Image as Pillow
from PIL import ImageCms

from kling_async import ConfigurationError, MissingExtraError
from kling_async.images import ImageFix
from kling_async.images.check import ImageFault, check_image
from kling_async.images.fix import check_decoded, fix_image
from kling_async.inputs.local_image import MAX_BYTES
from tests.images.pictures import exif, noise, opened, picture
from tests.images.test_check import png

FIX = ImageFix()
BMP = picture("BMP")
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_nothing_to_correct(kind: str) -> None:
    """A picture that the service accepts stays as it is, byte for byte, with its metadata."""
    content = picture(kind, exif=exif(gps="N"))
    assert fix_image(content, FIX) is content
    check_decoded(content)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "AVIF"])
def test_other_types(kind: str) -> None:
    """Pictures of other types become JPEGs."""
    fixed = fix_image(picture(kind), FIX)
    facts = check_image(fixed)
    assert (facts.media_type, facts.width, facts.height) == ("image/jpeg", 64, 48)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_orientation(kind: str) -> None:
    """A picture that is stored sideways becomes upright, and no longer says that it is not."""
    fixed = opened(fix_image(picture(kind, exif=exif(orientation=6), icc_profile=SRGB), FIX))
    assert (fixed.format, fixed.size) == (kind, (48, 64))
    assert not fixed.getexif()
    assert fixed.info["icc_profile"] == SRGB


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_location(kind: str) -> None:
    """The place where a picture was taken is removed on request, with the other metadata."""
    content = picture(kind, exif=exif(gps="N"))
    fixed = fix_image(content, ImageFix(remove_location=True))
    assert not opened(fixed).getexif()
    assert opened(fixed).size == (64, 48)
    plain = picture(kind)
    assert fix_image(plain, ImageFix(remove_location=True)) is plain


def test_longest_side() -> None:
    """A picture is made smaller if a side is too long, and keeps its ratio."""
    content = picture(size=(400, 300))
    assert opened(fix_image(content, ImageFix(longest_side=200))).size == (200, 150)
    assert fix_image(content, ImageFix(longest_side=400)) is content


@pytest.mark.parametrize(
    ("content", "color"),
    [
        (picture("GIF", mode="P", color=0, transparency=0), (255, 255, 255)),
        (picture("TIFF", mode="RGBA", color=(0, 0, 0, 0)), (255, 255, 255)),
        (picture("TIFF", mode="CMYK", color=(0, 0, 0, 0), icc_profile=SRGB), (255, 255, 255)),
        (picture("TIFF", mode="L", color=128), 128),
    ],
    ids=["GIF", "RGBA", "CMYK", "grey"],
)
def test_colors(content: bytes, color: object) -> None:
    """Transparent pixels become white; pictures for printing, and grey ones, become usual ones."""
    fixed = opened(fix_image(content, FIX))
    assert fixed.getpixel((5, 5)) == color
    assert "icc_profile" not in fixed.info


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "side"), [("JPEG", 2_500), ("PNG", 1_900)])
def test_too_large(kind: str, side: int) -> None:
    """A picture with too many bytes becomes smaller until it fits, and no smaller than that."""
    content = noise(kind, side, **({"quality": 100} if kind == "JPEG" else {}))
    assert len(content) > MAX_BYTES
    fixed = fix_image(content, FIX)
    assert MAX_BYTES * 0.5 < len(fixed) <= MAX_BYTES
    assert opened(fixed).format == kind


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"a poem", "must be a JPEG, PNG or WebP picture"),
        (picture()[:-50], "must be a complete picture"),
        (png(64, 48), "can be decoded"),
        (b"GIF89a" + bytes(20), "can be decoded"),
        (png(60_000, 60_000), "million pixels"),
        (b"GIF89a" + b"\xff\xff" * 2 + picture("GIF")[10:], "can be decoded|million pixels"),
        (
            picture("BMP")[:18] + (9_400).to_bytes(4, "little") * 2 + picture("BMP")[26:],
            "million pixels",
        ),
    ],
    ids=["text", "cut", "no pixels", "no GIF", "PNG bomb", "GIF bomb", "BMP bomb"],
)
def test_hopeless(content: bytes, rule: str) -> None:
    """What cannot be corrected is a fault; a bomb is refused before its pixels are decoded."""
    with pytest.raises(ImageFault, match=rule):
        check_decoded(fix_image(content, ImageFix(remove_location=True)))


def test_decodable() -> None:
    """A picture with a valid structure and damaged pixels is found by decoding it."""
    with pytest.raises(ImageFault, match="can be decoded") as caught:
        check_decoded(png(64, 48))
    assert caught.value.seen.startswith("PNG")


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (300, 7)])
def test_narrow_pictures(size: tuple[int, int]) -> None:
    """A JPEG with a side of a few pixels is decoded like any other."""
    check_decoded(picture("JPEG", size))


def test_options() -> None:
    """Options are checked, and images that were corrected in different ways have other names."""
    with pytest.raises(ConfigurationError, match="longest_side must be at least 64 pixels, not 0"):
        ImageFix(longest_side=0)
    fixes = (FIX, ImageFix(remove_location=True), ImageFix(longest_side=800))
    assert [fix.tag for fix in fixes] == ["-fix", "-fix-nl", "-fix-800"]


def test_without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Corrections need the extra."""
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"fix_images needs Pillow: .*\[images\]"):
        ImageFix()


def test_pillow_itself() -> None:
    """Pillow is never asked for formats that start other programs."""
    out = io.BytesIO()
    Pillow.new("RGB", (9, 9)).save(out, "EPS")
    with pytest.raises(ImageFault):
        fix_image(out.getvalue(), FIX)
