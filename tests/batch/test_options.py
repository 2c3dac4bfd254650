from __future__ import annotations

from typing import Any, get_type_hints

import pytest
from attrs import evolve, fields

from kling_async import BatchOptions, ConfigurationError
from kling_async.batch.options import BatchKeywords
from kling_async.results import FailReason


def test_defaults() -> None:
    """By default nothing that costs money is repeated, and nothing is downloaded."""
    options = BatchOptions()
    assert not (options.resubmit_unsure)
    assert not (options.resubmit_rejected)
    assert not (options.resubmit_failed)
    assert options.download_to is None


def test_keywords_are_the_fields() -> None:
    """The keyword arguments are the fields of the options, with the same types."""
    assert get_type_hints(BatchKeywords) == {
        field.name: get_type_hints(BatchOptions)[field.name] for field in fields(BatchOptions)
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("in_flight", 0),
        ("in_flight", True),
        ("downloads", 0),
        ("downloads", None),
        ("max_tasks", 0),
        ("max_tasks", 1.5),
        ("max_rejections", -1),
        ("resubmit_failed", -1),
        ("resubmit_failed", 1.5),
        ("resubmit_failed", True),
        ("resubmit_failed", "once"),
        ("min_balance", "5"),
        ("min_balance", float("nan")),
        ("timeout", 0),
        ("timeout", float("inf")),
    ],
)
def test_out_of_range(name: str, value: object) -> None:
    """A value that is out of range is refused, in a message that names the option."""
    options: dict[str, Any] = {name: value}
    with pytest.raises(ConfigurationError, match=name):
        BatchOptions(**options)
    with pytest.raises(ConfigurationError, match=name):
        evolve(BatchOptions(), **options)


@pytest.mark.parametrize(
    "reason", [FailReason.CONTENT, FailReason.PROMPT, FailReason.IMAGE, FailReason.MEDIA]
)
def test_permanent_reasons(reason: FailReason) -> None:
    """A reason for which the same input would fail again is refused."""
    with pytest.raises(ConfigurationError, match=f"must not contain {reason}"):
        BatchOptions(resubmit_reasons=[FailReason.TIMEOUT, reason])


def test_unknown_manifest() -> None:
    """A kind of manifest that does not exist is refused with those that do."""
    with pytest.raises(ConfigurationError, match="none, basic, media"):
        BatchOptions(manifest="all")  # type: ignore[arg-type]
