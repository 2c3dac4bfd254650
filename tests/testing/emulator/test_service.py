from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kling_async.testing.emulator.checks import Refusal
from kling_async.testing.emulator.service import PRICES, WINDOW, Service, SlidingWindow
from kling_async.testing.scenario import Scenario

if TYPE_CHECKING:
    from collections.abc import Collection

    from kling_async.testing.emulator.tasks import EmulatedTask

TEXT = {"mode": "master-text-to-video", "prompt": "a fox"}


def service(
    *,
    api_key: str | None = None,
    requests_per_minute: int = 100,
    concurrent_tasks: int = 2,
    balance: float = 100.0,
    models: Collection[str] = (),
) -> Service:
    """Give an account."""
    return Service(
        api_key=api_key,
        requests_per_minute=requests_per_minute,
        concurrent_tasks=concurrent_tasks,
        balance=balance,
        duration=lambda order: 12.0 * order.duration,
        models=models,
    )


def submit(one: Service, now: float, **fields: object) -> EmulatedTask:
    """Start a text-to-video task."""
    task = one.submit(json.dumps({"input": TEXT | fields}).encode(), now, lambda *_: None)
    one.schedule_end(task)
    return task


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic abc", "abc", "Bearer no"])
def test_wrong_keys(header: str | None) -> None:
    """Without the right key the answer is the documented 401, which has no data."""
    with pytest.raises(Refusal) as caught:
        service(api_key="yes").check_key(header)
    assert caught.value.envelope() == {"code": 401, "message": "Invalid or missing API key"}


def test_good_keys() -> None:
    """With a key set, that key is good; without one, any is."""
    service(api_key="sché").check_key("Bearer sché")
    service().check_key("bearer anything")
    with pytest.raises(Refusal):
        service().check_key("Bearer  ")


def test_a_surrogate_in_a_key_is_only_wrong() -> None:
    """A header that is no text at all is a wrong key, not a crash."""
    with pytest.raises(Refusal):
        service(api_key="yes").check_key("Bearer \udcff")


def test_ended_tasks_make_room() -> None:
    """A task counts from its submit to its end, and one more is refused with 429."""
    one = service(concurrent_tasks=2)
    submit(one, 0.0)
    submit(one, 10.0)
    with pytest.raises(Refusal) as caught:
        submit(one, 59.9)
    assert caught.value.status == 429
    submit(one, 60.0)
    with pytest.raises(Refusal):
        submit(one, 69.9)


def test_stuck_tasks_never_make_room() -> None:
    """A task that does not end keeps its place."""
    one = service(concurrent_tasks=1)
    rule = Scenario().on("task", 1, "stuck").rules[0]
    task = one.submit(
        json.dumps({"input": TEXT}).encode(),
        0.0,
        lambda kind: rule if kind == "task" else None,
    )
    one.schedule_end(task)
    with pytest.raises(Refusal):
        submit(one, 1e9)


def test_a_task_takes_its_price() -> None:
    """A ten-second video costs twice a five-second one; what is refused costs nothing."""
    price = PRICES["master-text-to-video"]
    one = service(balance=3 * price, concurrent_tasks=9)
    submit(one, 0.0, duration=10)
    assert one.balance == pytest.approx(price)
    with pytest.raises(Refusal) as caught:
        submit(one, 0.0, duration=10)
    assert caught.value.envelope() == {"code": 400, "message": "Insufficient credits", "data": None}
    submit(one, 0.0)
    assert one.balance == pytest.approx(0.0)
    assert len(one.ledger) == 2


def test_order_of_judgement() -> None:
    """The body is looked at before the running tasks, and those before the balance."""
    one = service(concurrent_tasks=1, balance=PRICES["master-text-to-video"])
    submit(one, 0.0)
    with pytest.raises(Refusal) as caught:
        submit(one, 1.0, duration=7)
    assert caught.value.message == "Invalid request"
    with pytest.raises(Refusal) as caught:
        submit(one, 1.0)
    assert caught.value.status == 429
    with pytest.raises(Refusal) as caught:
        submit(one, 61.0)
    assert caught.value.message == "Insufficient credits"


def test_the_window_refuses_with_the_wait() -> None:
    """Over the rate the refusal knows how long to wait."""
    one = service(requests_per_minute=1)
    one.check_rate(0.0)
    with pytest.raises(Refusal) as caught:
        one.check_rate(20.0)
    assert (caught.value.status, caught.value.retry_after) == (429, 40.0)


def test_unknown_things_are_not_found() -> None:
    """An unknown model or task is 404."""
    with pytest.raises(Refusal, match="Not found"):
        service().check_model("kling-9")
    with pytest.raises(Refusal, match="Not found"):
        service().visible_task("kling-2-1", "task_1", 0.0)


def test_models() -> None:
    """A task is found under the model of its submit; further models accept any input."""
    one = service(models=["kling-9"])
    for model in ("kling-2-1", "kling-2-6", "kling-9"):
        one.check_model(model)
    task = one.submit(b'{"input": {"mode": "omni", "deep": [1]}}', 0.0, lambda *_: None, "kling-9")
    assert one.visible_task("kling-9", task.task_id, 1.0) is task
    with pytest.raises(Refusal, match="Not found"):
        one.visible_task("kling-2-1", task.task_id, 1.0)
    assert [(each.model, each.mode) for each in one.ledger] == [("kling-9", "omni")]
    assert one.balance == pytest.approx(100 - PRICES["text-to-video"])


def test_prices_follow_the_length() -> None:
    """A video of 15 s costs three times as much as one of 5 s."""
    one = service()
    fields = {"mode": "image-to-video", "prompt": "x", "image_urls": ["a"], "duration": 15}
    task = one.submit(json.dumps({"input": fields}).encode(), 0.0, lambda *_: None, "kling-3-0-std")
    assert task.waiting  # until its image has been read
    assert one.balance == pytest.approx(100 - 3 * PRICES["image-to-video"])


def test_callbacks_are_counted_by_themselves() -> None:
    """Each task that is started counts, and as a callback if it has a callback URL."""
    asked: list[str] = []
    one = service(concurrent_tasks=3)
    callback = {"request_type": "callback", "callback_url": "https://example.com/x"}
    for extra in ({}, callback, {}, callback):
        body = json.dumps({"input": TEXT, **extra}).encode()
        with suppress(Refusal):  # the fourth is one too many
            one.submit(body, 0.0, asked.append)
    assert asked == ["task", "callback", "task", "task"]


def test_finished_tasks_make_room() -> None:
    """Tasks that are ended early make room for others at that moment."""
    one = service(concurrent_tasks=1)
    task = submit(one, 0.0)
    one.finish_tasks(5.0)
    assert task.state(5.0) == "success"
    assert task.state(4.9) == "processing"
    submit(one, 5.0)


@given(
    st.integers(1, 5),
    st.lists(st.floats(0, 40, allow_nan=False), max_size=60),
)
def test_no_span_holds_more_than_the_limit(limit: int, gaps: list[float]) -> None:
    """Whatever the arrivals, no 60 seconds hold more admitted requests than the limit."""
    window = SlidingWindow(limit)
    now, admitted = 0.0, []
    for gap in gaps:
        now += gap
        if not window.count_request(now):
            admitted.append(now)
    for first in admitted:
        assert sum(0 <= at - first < WINDOW for at in admitted) <= limit


def test_refused_requests_do_not_count() -> None:
    """Asking in vain does not put off the moment at which one is admitted again."""
    window = SlidingWindow(1)
    assert window.count_request(0.0) == 0.0
    assert all(window.count_request(float(second)) == 60.0 - second for second in range(1, 60))
    assert window.count_request(60.0) == 0.0
