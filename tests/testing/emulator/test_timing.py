from __future__ import annotations

import pytest

from kling_async.errors import ConfigurationError
from kling_async.testing.emulator.rules import read_order
from kling_async.testing.emulator.timing import duration_chooser, latency_chooser, quickest

TEXT = b'{"input": {"mode": "master-text-to-video", "prompt": "a fox", "duration": 10}}'


def test_durations() -> None:
    """A task takes the documented time, one of a range, or what a function of its input says."""
    order = read_order(TEXT)
    assert 90 <= duration_chooser(None, 1.0, seed=0)(order) <= 120
    assert 0.5 <= duration_chooser((10.0, 20.0), 20.0, seed=0)(order) <= 1
    assert duration_chooser(lambda fields: len(str(fields["prompt"])), 2.0, seed=0)(order) == 2.5


@pytest.mark.parametrize(
    ("duration", "seconds"), [(None, 60.0), ((7.0, 9.0), 7.0), (lambda _: 7.0, 1.0)]
)
def test_the_quickest_tasks(duration: object, seconds: float) -> None:
    """The quickest tasks take 60 s, or the start of a range; with a function, 1 s is assumed."""
    assert quickest(duration) == seconds  # type: ignore[arg-type] # one of the three


def test_latencies() -> None:
    """A latency is a number, one of a range, or what a function returns."""
    assert latency_chooser(0.2, seed=0)() == 0.2
    assert 0.1 <= latency_chooser((0.1, 0.3), seed=0)() <= 0.3
    assert latency_chooser(lambda: 7.0, seed=0)() == 7.0
    with pytest.raises(ConfigurationError, match="latency must be 0 or more seconds"):
        latency_chooser(-1.0, seed=0)
