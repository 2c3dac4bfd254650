import re

from kling_async.inputs.registry import DEFAULT_MODES
from tests.inputs.table import PAGE, rendered


def test_the_page_is_current() -> None:
    """The tables of the reference are those of the rules: `python -m tests.inputs.table`."""
    text = PAGE.read_text("utf-8")
    assert rendered(text) == text
    tables = re.findall(r"^\| field \| rule \|.*", text, re.MULTILINE)
    assert len(tables) == len(DEFAULT_MODES)
