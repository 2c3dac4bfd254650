from __future__ import annotations

import subprocess
import sys

from attrs import field, frozen

from kling_async._utils.values import Value, in_schema


@frozen
class Sample(Value):
    numbers: tuple[int, ...] = field(metadata=in_schema(title="Numbers"))


def test_values_become_plain() -> None:
    """A tuple is a list in JSON."""
    assert Sample((1, 2)).to_dict() == {"numbers": [1, 2]}


def test_schemas_are_made_on_request() -> None:
    """Neither pydantic nor what speaks to it is imported before pydantic asks for a schema."""
    code = "import kling_async.results, sys; print('kling_async._utils.pydantic' in sys.modules)"
    done = subprocess.run((sys.executable, "-c", code), capture_output=True, check=True, text=True)
    assert done.stdout == "False\n"
