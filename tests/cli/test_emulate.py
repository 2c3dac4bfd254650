from __future__ import annotations

import asyncio
import json
import re
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from kling_async import KlingClient, MasterTextToVideo, RawInput, Retry, StandardImageToVideo
from kling_async.cli import arguments
from kling_async.cli.emulate import DEFAULT_PORT
from kling_async.cli.main import run
from kling_async.errors import (
    AuthenticationError,
    BalanceError,
    NotFoundError,
    RateLimitError,
    RefusedError,
)
from tests.images.pictures import picture

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from tests.cli.conftest import Command, Serve

    Emulating = Callable[..., Awaitable[dict[str, str]]]


@pytest.fixture
async def emulating(capsys: pytest.CaptureFixture[str]) -> AsyncIterator[Emulating]:
    """Run `emulate` with options in the background; give what it says to export."""
    tasks: list[asyncio.Task[int]] = []

    async def emulating(*options: str) -> dict[str, str]:
        args = arguments.parse(["emulate", "--port", "0", *options])
        tasks.append(asyncio.create_task(run(args)))
        said = ""
        while said.count("APIXO_") < 2:
            assert not tasks[-1].done()
            await asyncio.sleep(0.01)
            said += capsys.readouterr().out
        if "--json" in options:
            return dict(json.loads(said))
        return dict(re.findall(r"^export (\w+)=(.+)$", said, re.MULTILINE))

    yield emulating
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_emulate_prints_what_clients_need(emulating: Emulating) -> None:
    """The address and the key that it prints are all that a client needs; pictures are served."""
    env = await emulating("--video", "small")
    async with KlingClient(env["APIXO_API_KEY"], base_url=env["APIXO_BASE_URL"]) as kling:
        assert await kling.balance() == 1000.0
        image = f"{env['APIXO_BASE_URL']}/samples/fox.jpg"
        result = await kling.generate(StandardImageToVideo("pan left", image))
    assert result.result_urls[0].startswith(env["APIXO_BASE_URL"])


async def test_emulate_for_a_program(emulating: Emulating) -> None:
    """With JSON, the variables are one object."""
    assert (await emulating("--json"))["APIXO_API_KEY"] == "emulator-key"


async def test_further_models(emulating: Emulating) -> None:
    """A model that is named accepts any input; another one is not found."""
    env = await emulating("--video", "small", "--model", "kling-8", "--model", "kling-9")
    async with KlingClient(env["APIXO_API_KEY"], base_url=env["APIXO_BASE_URL"]) as kling:
        for model in ("kling-8", "kling-9"):
            assert (await kling.generate(RawInput(model, {"mode": "omni"}))).result_urls
        with pytest.raises(NotFoundError):
            await kling.submit(RawInput("kling-7", {}))


async def test_key_and_faults_reach_the_emulator(emulating: Emulating) -> None:
    """Key and faults are those of the command line; what is exported is quoted for a shell."""
    env = await emulating("--api-key", "the $key", "--fault", "any:1=403")
    assert env["APIXO_API_KEY"] == "'the $key'"
    async with KlingClient("a-key", base_url=env["APIXO_BASE_URL"]) as kling:
        with pytest.raises(RefusedError):
            await kling.balance()
        with pytest.raises(AuthenticationError):
            await kling.balance()


async def test_speed_reaches_the_emulator(
    emulating: Emulating, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a speed of 100, a video takes less than a second, and clients find that early."""
    env = await emulating("--speed", "100", "--video", "small")
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    begun = asyncio.get_running_loop().time()
    async with KlingClient() as kling:
        for _ in range(3):
            result = await kling.generate(MasterTextToVideo("a fox"))
            assert result.cost_time is not None
            assert 0.6 <= result.cost_time <= 0.9
    assert asyncio.get_running_loop().time() - begun < 3.5


async def test_account_of_the_emulator(emulating: Emulating) -> None:
    """Balance and limits are those of the command line."""
    env = await emulating("--balance", "2", "--concurrent-tasks", "1", "--requests-per-minute", "2")
    once = Retry(attempts=1)
    async with KlingClient("a-key", base_url=env["APIXO_BASE_URL"], retry=once) as kling:
        await kling.submit(MasterTextToVideo("a fox"))
        with pytest.raises(RateLimitError, match="concurrent"):
            await kling.submit(MasterTextToVideo("a fox"))
        with pytest.raises(RateLimitError, match="requests"):
            await kling.balance()
        await asyncio.sleep(100)
        with pytest.raises(BalanceError):
            await kling.submit(MasterTextToVideo("a fox"))


async def test_port_that_is_taken(serve: Serve, command: Command) -> None:
    """A port in use is one sentence, which says what to do, and code 2."""
    port = (await serve()).origin.rpartition(":")[2]
    ended = await command("emulate", "--port", port)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"kling-async: cannot listen on 127.0.0.1 port {port}: ")
    assert "ddress already in use; end the program" in ended.err


async def test_default_port_that_is_taken(emulating: Emulating) -> None:
    """If another emulator has the default port, the next one has a port of its own."""
    with socket.socket() as other:
        with suppress(OSError):  # it may be taken on this machine, too
            other.bind(("127.0.0.1", DEFAULT_PORT))
            other.listen()
        env = await emulating("--port", str(DEFAULT_PORT))
        assert not env["APIXO_BASE_URL"].endswith(f":{DEFAULT_PORT}")
        async with KlingClient("a-key", base_url=env["APIXO_BASE_URL"]) as kling:
            assert await kling.balance() == 1000.0


async def test_rule_that_is_none(command: Command) -> None:
    """A fault that does not exist is refused with those that do."""
    ended = await command("emulate", "--fault", "submit:1=boom")
    assert ended.code == 2
    assert "lost-answer" in ended.err


async def test_emulator_for_other_machines(
    emulating: Emulating, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is printed for all addresses is one of this machine, and works as it is printed."""
    env = await emulating("--host", "0.0.0.0", "--video", "small")
    assert "0.0.0.0" not in env["APIXO_BASE_URL"]
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    async with KlingClient() as kling:
        assert await kling.balance() == 1000.0
        result = await kling.generate(MasterTextToVideo("a fox"))
    assert result.result_urls[0].startswith(env["APIXO_BASE_URL"])
    assert ("unencrypted" in caplog.text) == ("APIXO_ALLOW_HTTP" in env)


async def test_a_local_image(
    emulating: Emulating, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what the emulator prints, a picture of this machine becomes a video at once."""
    (tmp_path / "cat.jpg").write_bytes(picture())
    for name, value in (await emulating("--video", "small")).items():
        monkeypatch.setenv(name, value)
    done = await command("generate", "pan left", "--image", tmp_path / "cat.jpg")
    assert (done.code, done.out[:7]) == (0, "http://")
    wrong = await command("generate", "pan left", "--image", tmp_path / "dog.jpg")
    assert wrong.code == 2
    assert "dog.jpg': No such file" in wrong.err


async def test_a_batch_with_local_images(
    emulating: Emulating, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows with local images are generated once, also if the folder has another name later."""
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "cat.gif").write_bytes(picture("GIF"))
    (folder / "rows.csv").write_text("key,prompt,image_url\nk,pan,cat.gif\n,up,cat.gif\n", "utf-8")
    for name, value in (await emulating("--video", "small")).items():
        monkeypatch.setenv(name, value)
    refused = await command("batch", folder / "rows.csv")
    assert refused.code == 2
    assert "row 2: image_url: must be a JPEG, PNG or WebP picture" in refused.err
    done = await command("batch", folder / "rows.csv", "--fix-images")
    assert (done.code, len(done.out.splitlines())) == (0, 2)
    folder = folder.rename(tmp_path / "b")
    again = await command("batch", folder / "rows.csv", "--fix-images")
    assert sorted(again.out.splitlines()) == sorted(done.out.splitlines())
    assert "Tasks that may have cost money, all runs together: 2" in again.err
