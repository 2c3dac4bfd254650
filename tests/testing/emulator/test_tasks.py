from __future__ import annotations

import json
from math import inf

import pytest

from kling_async.testing.emulator.rules import Order
from kling_async.testing.emulator.tasks import EmulatedTask
from kling_async.testing.scenario import Scenario

ORDER = Order("master-text-to-video", "x", 5, (), "16:9", None, {})


def task(what: str | None = None, *, waiting: bool = False) -> EmulatedTask:
    """A task that was created at 100 s and takes 60 s."""
    if what is None:
        return EmulatedTask("t", "kling-2-1", ORDER, 100.0, 60.0, waiting=waiting)
    outcome = Scenario().on("task", 1, what).rules[0]
    return EmulatedTask("t", "kling-2-1", ORDER, 100.0, 60.0, outcome=outcome, waiting=waiting)


def data(one: EmulatedTask, now: float) -> dict[str, object]:
    """Give the data of a status answer."""
    return one.data(now, lambda at: int(at * 1000), "http://x")


def test_states_in_order() -> None:
    """A task is pending, then processing, then successful for ever."""
    one = task()
    assert [one.state(at) for at in (100, 105.9, 106, 159.9, 160, 9e9)] == [
        "pending",
        "pending",
        "processing",
        "processing",
        "success",
        "success",
    ]


def test_running_answer() -> None:
    """While it runs, an answer holds the id, the state and when it was created."""
    assert data(task(), 110.0) == {"taskId": "t", "state": "processing", "createTime": 100_000}


def test_success_answer() -> None:
    """A successful answer holds a JSON string with the URLs, its cost in time and its end."""
    assert data(task(), 200.0) == {
        "taskId": "t",
        "state": "success",
        "createTime": 100_000,
        "resultJson": '{"resultUrls": ["http://x/files/t.mp4"]}',
        "costTime": 60_000,
        "completeTime": 160_000,
    }


def test_failed_answer() -> None:
    """A failed answer holds the code, the message and the end."""
    assert data(task("fail:NSFW"), 200.0) == {
        "taskId": "t",
        "state": "failed",
        "createTime": 100_000,
        "failCode": "NSFW",
        "failMsg": "Generation failed: NSFW",
        "completeTime": 160_000,
    }
    assert "failCode" not in data(task("fail:NSFW"), 150.0)


def test_a_task_waits_for_its_images() -> None:
    """While the images are being read, the task is pending, however long that takes."""
    one = task(waiting=True)
    assert one.state(500.0) == "pending"
    assert one.ends_at == inf
    one.images_ready(510.0)
    assert one.ends_at == 510.0
    assert one.state(510.0) == "success"


def test_the_earlier_failure_counts() -> None:
    """A task fails once: of two reasons, for the earlier."""
    one = task("fail:LATE")
    one.fail(101.0, "EARLY", "m")
    one.fail(102.0, "SECOND", "m")
    assert data(one, 101.0)["failCode"] == "EARLY"


@pytest.mark.parametrize(
    ("what", "now", "field", "value"),
    [
        ("no-urls", 160.0, "resultJson", json.dumps({"resultUrls": []})),
        ("object-result", 160.0, "resultJson", {"resultUrls": ["http://x/files/t.mp4"]}),
        ("no-cost-time", 160.0, "costTime", None),
        ("urls-late", 161.9, "state", "success"),
        ("urls-late", 161.9, "costTime", 60_000),
        ("urls-late", 161.9, "resultJson", None),
        ("urls-late", 162.0, "resultJson", json.dumps({"resultUrls": ["http://x/files/t.mp4"]})),
        ("urls-late:5", 164.9, "resultJson", None),
        ("unknown-state", 150.0, "state", "processing_r2"),
        ("unknown-state", 160.0, "state", "success"),
        ("stuck", 9e9, "state", "processing"),
    ],
)
def test_outcomes(what: str, now: float, field: str, value: object) -> None:
    """Each outcome of a scenario changes the answer as it says."""
    assert data(task(what), now).get(field) == value


def test_an_early_callback_means_an_end_at_once() -> None:
    """A task whose callback comes early ends when it begins, or as soon as its images are read."""
    early = Scenario().on("callback", 1, "early").rules[0]
    one = EmulatedTask("t", "kling-2-1", ORDER, 100.0, 60.0, callback=early)
    assert one.state(100.0) == "success"
    two = EmulatedTask("t", "kling-2-1", ORDER, 100.0, 60.0, callback=early, waiting=True)
    assert two.ends_at == inf
    two.images_ready(103.0)
    assert two.ends_at == 103.0


@pytest.mark.parametrize(
    ("what", "now", "state"),
    [
        ("no-urls", 130.0, "success"),
        ("fail:NSFW", 130.0, "failed"),
        ("stuck", 9e9, "processing"),
    ],
)
def test_finished_early(what: str, now: float, state: str) -> None:
    """A task that is ended early ends then, as the scenario says, if it says that it ends."""
    one = task(what)
    one.end_early(130.0)
    assert one.state(now) == state
    one.end_early(140.0)
    assert one.state(now) == state
