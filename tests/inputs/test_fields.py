from typing import get_args

import pytest

from kling_async.inputs import fields
from kling_async.inputs.rules import Rule


@pytest.mark.parametrize(
    ("kind", "metadata"),
    [
        (fields.Duration, fields.DURATION),
        (fields.AspectRatio, fields.ASPECT_RATIO),
        (fields.Provider, fields.PROVIDER),
    ],
)
def test_types_and_rules_agree(kind: object, metadata: dict[str, Rule]) -> None:
    """The values that the type names are those that the rule accepts."""
    (rule,) = metadata.values()
    assert rule.accepted["enum"] == [*get_args(kind)]
