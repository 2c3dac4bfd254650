"""Which part of a file a ``Range`` header asks for (RFC 9110, section 14)."""

from __future__ import annotations

import re
from typing import Final

NOT_SATISFIABLE: Final = slice(0, 0)

_SPEC: Final = re.compile(r"(\d*)-(\d*)", re.ASCII)


def read_range(header: str | None, size: int) -> slice | None:
    """Give the part asked for, None for the whole file, or `NOT_SATISFIABLE`.

    A header that is not understood, or that asks for several parts, is ignored, as the RFC allows.
    """
    unit, _, specs = (header or "").partition("=")
    match = _SPEC.fullmatch(specs.strip())
    if unit.strip().lower() != "bytes" or match is None:
        return None
    first, last = match.groups()
    if not first and not last:
        return None
    if not first:
        length = min(int(last), size)
        return slice(size - length, size) if length else NOT_SATISFIABLE
    if last and int(last) < int(first):
        return None
    if int(first) >= size:
        return NOT_SATISFIABLE
    return slice(int(first), min(int(last) + 1, size) if last else size)
