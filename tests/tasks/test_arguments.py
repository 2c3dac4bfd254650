from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from kling_async import Batch, Item, KlingClient, MasterTextToVideo, Polling, Result, TaskRef
from kling_async.errors import ConfigurationError, DownloadError, InputError
from kling_async.policy.scaled_polling import scaled_polling
from kling_async.tasks.arguments import find_polling
from kling_async.testing import ScriptedTransport
from kling_async.testing.transport import answer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOX = MasterTextToVideo("a fox")
REF = TaskRef("kling-2-1", "task_1")


async def async_hook(event: object) -> None:
    """Receive nothing: a hook is not awaited."""


@pytest.fixture
def transport() -> ScriptedTransport:
    """Make a service that would accept everything."""
    return ScriptedTransport(lambda _: answer({"taskId": "t1", "state": "processing"}))


@pytest.fixture
def kling(transport: ScriptedTransport) -> Iterator[KlingClient]:
    """Make a client; nothing may be sent through it."""
    yield KlingClient("a-key", transport=transport)
    assert transport.requests == []


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("polling", 2, "polling must be a Polling"),
        ("retry", 3, "retry must be a Retry"),
        ("limits", (10, 3), "limits must be a Limits"),
        ("limiter", 5, "limiter must be an object with request()"),
        ("transport", ScriptedTransport, "transport must be an object with send()"),
        ("inbox", "http://x/", "inbox must be an object with callback_url()"),
        ("hooks", print, "hooks must be functions"),
        ("hooks", [1], "hooks must be functions"),
        ("hooks", "print", "hooks must be functions"),
        ("hooks", [async_hook], "hooks must be functions, not async"),
        ("allow_http", "false", "allow_http must be a bool"),
        ("allow_hosts", 5, "allow_hosts must be several hosts"),
        ("allow_hosts", [10], "allow_hosts must be several hosts"),
        ("session", 1, "session must be an aiohttp.ClientSession"),
        ("base_url", 1, "the base URL must be a text"),
        ("api_key", 12345, "api_key must be a text"),
    ],
)
def test_settings(name: str, value: object, words: str) -> None:
    """A setting of the wrong kind is refused when the client is made, by its name."""
    settings: dict[str, Any] = {"api_key": "a-key", name: value}
    with pytest.raises(ConfigurationError) as caught:
        KlingClient(**settings)
    assert words in str(caught.value)
    assert "12345" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong", ["a fox", {"prompt": "a fox"}, [FOX], None, MasterTextToVideo], ids=repr
)
async def test_what_is_no_input(wrong: Any, kling: KlingClient) -> None:  # noqa: ANN401
    """What is no input is refused before a slot is taken."""
    for call in (kling.submit, kling.generate):
        with pytest.raises(InputError, match="not an input"):
            await call(wrong)
    if wrong is not None:
        with pytest.raises(InputError, match="not an input"):
            kling.attach(REF, input=wrong)


@pytest.mark.parametrize("timeout", [None, "60", -1, 0, True, float("inf"), float("nan"), 10**400])
async def test_timeouts(timeout: Any, kling: KlingClient) -> None:  # noqa: ANN401
    """A timeout that is no finite, positive number of seconds is refused: there is always one."""
    with pytest.raises(ConfigurationError, match="a timeout must be"):
        await kling.generate(FOX, timeout=timeout)
    with pytest.raises(ConfigurationError, match="a timeout must be"):
        kling.generate_many([FOX], timeout=timeout)


@pytest.mark.parametrize("moment", [datetime(2026, 1, 1), "2026-01-01T00:00:00Z", 1.7e9])  # noqa: DTZ001 - that is the fault
async def test_moments(moment: Any, kling: KlingClient) -> None:  # noqa: ANN401
    """A moment needs a time zone: another would be misread by hours."""
    with pytest.raises(InputError, match="submitted_at must be a datetime with a time zone"):
        kling.attach(REF, submitted_at=moment)


async def test_a_moment_with_a_time_zone(kling: KlingClient) -> None:
    """One with a time zone is accepted."""
    assert kling.attach(REF, submitted_at=datetime.now(UTC)).ref == REF
    await kling.close()


async def test_other_arguments(kling: KlingClient, tmp_path: Path) -> None:
    """Results, references, observers and callback URLs are checked in the same way."""
    nothing: Any = []
    nothing_else: Any = 5
    with pytest.raises(InputError, match="not the result of a task"):
        await kling.download(nothing, tmp_path)
    with pytest.raises(InputError):
        await kling.status(nothing)
    with pytest.raises(ConfigurationError, match="observer must be an object with before_send"):
        await kling.submit(FOX, observer=nothing)
    with pytest.raises(InputError, match="callback_url"):
        await kling.submit(FOX, callback_url=nothing)
    with pytest.raises(InputError, match="ref"):
        kling.traceparent(nothing)
    with pytest.raises(ConfigurationError, match="work must be a function"):
        kling.run_many(nothing, [FOX])
    with pytest.raises(InputError, match="items must be an iterable"):
        kling.run_many(async_hook, nothing_else)
    # The references would be neither stored nor logged.
    with pytest.raises(ConfigurationError, match="on_abandoned must be a function that is not"):
        kling.run_many(async_hook, [FOX], on_abandoned=async_hook)
    with pytest.raises(ConfigurationError, match="report must be True or False"):
        await kling.attach(REF).wait(report=nothing)
    result = Result(REF, ("https://host/a.mp4",))
    with pytest.raises(ConfigurationError, match="the folder and the name must be text"):
        await kling.download(result, nothing)
    with pytest.raises(ConfigurationError, match="the folder and the name must be text"):
        await kling.download(result, tmp_path, name=nothing)
    with pytest.raises(ConfigurationError, match="previous must be several SavedFile"):
        await kling.save(result, tmp_path, previous=["a.mp4"])  # type: ignore[list-item]
    with pytest.raises(ConfigurationError, match="on_renewed must be a function"):
        await kling.save(result, tmp_path, on_renewed=nothing)
    with pytest.raises(DownloadError, match="cannot create the folder"):
        await kling.download(result, "\0")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("downloads", 0),
        ("max_tasks", True),
        ("max_rejections", 2.5),
        ("min_balance", "5"),
        ("min_balance", float("nan")),
        ("min_balance", 10**400),
        ("timeout", None),
        ("resubmit_unsure", "false"),
        ("resubmit_rejected", "no"),
        ("resubmit_reasons", "timeout"),
        ("resubmit_reasons", None),
        ("resubmit_reasons", ["timeouts"]),
        ("resubmit_reasons", [[]]),
        ("resubmit_reasons", iter([])),
        ("download_to", 5),
        ("options", {"max_tasks": 5}),
    ],
)
def test_batches(name: str, value: object, kling: KlingClient, tmp_path: Path) -> None:
    """A batch refuses options that make no sense, and texts in place of flags and reasons."""
    options: dict[str, Any] = {name: value}
    with pytest.raises(ConfigurationError, match=name):
        Batch(kling, journal=tmp_path / "run.sqlite", **options)


def test_the_parts_of_a_batch(kling: KlingClient, tmp_path: Path) -> None:
    """A batch refuses what is no client or no journal, and an item refuses what is no input."""
    nothing: Any = None
    with pytest.raises(ConfigurationError, match="client must be an object with submit"):
        Batch(nothing, journal=tmp_path / "run.sqlite")
    with pytest.raises(ConfigurationError, match="journal must be an object with plan"):
        Batch(kling, journal=nothing)
    with pytest.raises(InputError, match="not an input"):
        Item("fox", nothing)


def test_the_first_poll_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """KLING_FIRST_POLL shortens the waits of the default schedule, and not of one that is given."""
    given = Polling(first=7)
    monkeypatch.setenv("KLING_FIRST_POLL", "6")
    assert find_polling(None) == scaled_polling(6.0)
    assert find_polling(given) is given
    monkeypatch.setenv("KLING_FIRST_POLL", "")
    assert find_polling(None) == Polling()


@pytest.mark.parametrize("value", ["soon", "-1", "nan"])
def test_a_first_poll_that_is_no_number(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value of KLING_FIRST_POLL that makes no sense is refused, by its name."""
    monkeypatch.setenv("KLING_FIRST_POLL", value)
    with pytest.raises(ConfigurationError, match="KLING_FIRST_POLL must be a number of seconds"):
        KlingClient("a-key")
