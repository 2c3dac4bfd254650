"""Pictures of this machine as the values of image fields, and how they are written as text.

The service accepts URLs only. A :class:`LocalImage` is replaced by the URL of a copy when its input
is submitted; see :mod:`kling_async.images`. Nothing is read here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, cast

from attrs import field, frozen

from kling_async._utils.text import format_value
from kling_async.errors import InputError, Problem

if TYPE_CHECKING:
    from os import PathLike

SCHEME = "kling-image:"
"""How the text of a local image begins."""

MAX_BYTES = 10_000_000
"""The contract's "10 MB", read strictly."""

MAX_READ = 64_000_000
"""Bytes that are read of a picture. One that is too large for the service can be made smaller."""

FOR_PROGRAMS = ", or a picture as a pathlib.Path, bytes or an open binary file"
"""The part of the rule that does not apply to what comes from elsewhere, such as a web request."""

# The suffix of a type in the name of an image.
SUFFIXES = {"image/jpeg": ".jpg", "image/png": ".png", "image/webp": ".webp"}

# A name is the checksum and the suffix; a path may follow. Such a text is never a URL of the web.
_TEXT = re.compile(
    rf"{SCHEME}(?P<sha256>[0-9a-f]{{64}})(?P<suffix>\.[a-z]{{3,4}})(?:\?path=(?P<path>.+))?",
    re.DOTALL,
)

NOT_READ = (
    "must be read before its input is written as text, which contains its checksum: use"
    " `input = await kling_async.images.read_images(input)`"
)
_RULE = "must be the text of a local image, kling-image:SHA256.SUFFIX?path=PATH"


class BinaryFile(Protocol):
    """What is required of an open file: that it returns bytes."""

    def read(self, size: int, /) -> bytes:
        """Return at most this number of bytes."""
        ...


ImageSource: TypeAlias = "str | PathLike[str] | bytes | bytearray | memoryview | BinaryFile"
"""What an image field accepts: a URL as text, a path, bytes, or an open binary file."""


def _show(source: Path | bytes | None) -> str:
    return f"{len(source):,} bytes" if isinstance(source, bytes) else repr(source)


@frozen
class LocalImage:
    """A picture on this machine.

    Attributes:
        source: A path, or the content. None: it is known by its checksum only.
        sha256: The checksum of the content. Empty until the picture has been read, which
            happens when its input is submitted or written in a journal.
        media_type: The type by its content, such as ``image/jpeg``. Empty until then, and for an
            unknown type.
    """

    source: Path | bytes | None = field(repr=_show)
    sha256: str = ""
    media_type: str = ""

    @property
    def label(self) -> str:
        """What messages call it: the path, the size of the bytes, or the checksum."""
        if isinstance(self.source, Path):
            return format_value(str(self.source))
        if self.source is not None:
            return f"{len(self.source):,} bytes"
        return f"the image {self.sha256[:12]}…"

    def to_text(self) -> str:
        """Return the text for JSON: the checksum, and where the picture was found.

        Without a checksum, the text says only what the picture is, and cannot be parsed: it has to
        be read first.
        """
        suffix = find_suffix(self.media_type) if self.sha256 else ""
        path = f"?path={self.source}" if isinstance(self.source, Path) else ""
        return f"{SCHEME}{self.sha256}{suffix}{path}"

    @classmethod
    def parse(cls, text: str) -> LocalImage:
        """Return the image whose :meth:`to_text` returned ``text``.

        Raises:
            InputError: It is not such a text.
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            rule = NOT_READ if text.startswith(f"{SCHEME}?") else _RULE
            raise InputError(problems=[Problem("image", rule, format_value(text))])
        kinds = {suffix: kind for kind, suffix in SUFFIXES.items()}
        path = match["path"]
        source = None if path is None else Path(path)
        return cls(source, match["sha256"], kinds.get(match["suffix"], ""))


def find_suffix(media_type: str) -> str:
    """Return the suffix of a type; other types are converted, or refused, before an upload."""
    return SUFFIXES.get(media_type, ".bin")


def make_image(value: object) -> LocalImage:
    """Return a path, bytes or an open file as a local image.

    Anything else is returned as it is; the field's rule checks it. An open file is read at once,
    because its owner may close it.
    """
    found = value
    if isinstance(value, bytes | bytearray | memoryview):
        found = LocalImage(bytes(value))
    elif not isinstance(value, type) and hasattr(value, "__fspath__"):
        found = LocalImage(Path(cast("PathLike[str]", value)))
    elif not isinstance(value, type) and callable(read := getattr(value, "read", None)):
        content = read(MAX_READ + 1)
        found = LocalImage(content) if isinstance(content, bytes) else value
    return cast("LocalImage", found)


def parse_image(value: object, *, texts: bool) -> object:
    """Return the value of an image field from a mapping.

    Args:
        value: The value.
        texts: Whether it may be the text of a local image.
    """
    if isinstance(value, str):
        return LocalImage.parse(value) if texts and value.startswith(SCHEME) else value
    return value if value is None else make_image(value)


def broken_rule(value: object) -> str | None:
    """Return the rule that the value of an image field breaks if it is not a URL, or None."""
    if isinstance(value, LocalImage):
        return None
    rule = "must be one absolute http(s) URL"
    if isinstance(value, str) and "://" in value:
        return rule
    return f"{rule}{FOR_PROGRAMS}"


def to_identity(value: object) -> object:
    """Return a value of an input's plain fields without the path of a local image.

    The path is where the picture was found. It may differ on another machine.
    """
    if isinstance(value, str) and value.startswith(SCHEME) and _TEXT.fullmatch(value):
        return value.partition("?")[0]
    return value
