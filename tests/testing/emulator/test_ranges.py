from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kling_async.testing.emulator.ranges import NOT_SATISFIABLE, read_range


@pytest.mark.parametrize(
    ("header", "part"),
    [
        (None, None),
        ("bytes=0-9", slice(0, 10)),
        ("bytes=90-", slice(90, 100)),
        ("bytes=90-1000", slice(90, 100)),
        ("Bytes = 5-5", slice(5, 6)),
        ("bytes=-10", slice(90, 100)),
        ("bytes=-1000", slice(0, 100)),
        ("bytes=100-", NOT_SATISFIABLE),
        ("bytes=-0", NOT_SATISFIABLE),
        ("bytes=9-5", None),
        ("bytes=-", None),
        ("bytes=a-b", None),
        ("bytes=0-1,3-4", None),
        ("items=0-1", None),
        ("bytes", None),
    ],
)
def test_parts(header: str | None, part: slice | None) -> None:
    """A header asks for a part, the whole or nothing that is there."""
    assert read_range(header, 100) == part


@given(st.text(), st.integers(0, 1000))
def test_any_text_is_survived(text: str, size: int) -> None:
    """No header leads out of the file."""
    part = read_range(f"bytes={text}", size)
    assert part is None or 0 <= part.start <= part.stop <= size
