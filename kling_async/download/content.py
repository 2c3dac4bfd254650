"""What cannot be a video or picture: pages and messages that are sent in place of a file.

A gateway, a login page or an object store may answer 200 with words in them. Only what is certain
is refused: formats change, and file hosts give the type of a video as anything.
"""

from __future__ import annotations

import re

# As many bytes are looked at. Pages may begin with comments, and with any white space.
HEAD_BYTES = 512

_TEXT_TYPE = re.compile(
    r"text/.*|application/(?:(?:.*\+)?(?:json|xml)|xhtml|javascript)|multipart/.*"
)

# After a byte order mark, white space, and any halves of UTF-16 characters.
_TEXTS = (
    ("HTML or XML", re.compile(rb"<[A-Za-z!?/]")),
    ("JSON", re.compile(rb'\{\s*(?:["}]|\Z)|\[\s*(?:[\[{"\]\-0-9tfn]|\Z)')),
)
_BLANK = re.compile(rb"(?:\xef\xbb\xbf|\xff\xfe|\xfe\xff)?\s*")

# What formats of videos and pictures begin with. They prove that a type such as text/plain is the
# default of a file host; a file that begins otherwise is not refused for it.
_MEDIA = re.compile(
    rb".{4}(?:ftyp|moov|mdat|wide|free|skip)|\x1aE\xdf\xa3|\x89PNG|\xff\xd8\xff|GIF8|RIFF.{4}WEBP",
    re.DOTALL,
)


def not_media(content_type: str, head: bytes) -> str | None:
    """Say what a file is, if it can be neither a video nor a picture.

    Args:
        content_type: The type that came with it, or nothing.
        head: Its first :data:`HEAD_BYTES`, or all of it.
    """
    if not head:
        return "empty"
    text = head.replace(b"\0", b"") if head[:2] in {b"\xff\xfe", b"\xfe\xff"} else head
    begin = _BLANK.match(text)
    for name, pattern in _TEXTS:
        if begin is not None and pattern.match(text, begin.end()):
            return name
    kind = content_type.partition(";")[0].strip().lower()
    if _TEXT_TYPE.fullmatch(kind) and not is_media(head):
        return kind
    return None


def is_media(head: bytes) -> bool:
    """Whether a file begins as the usual videos and pictures do. There are others."""
    return _MEDIA.match(head) is not None
