from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from contextlib import ExitStack, contextmanager
from threading import Thread
from typing import TYPE_CHECKING, Any, Protocol

import psycopg
import pytest

from kling_async import (
    MasterTextToVideo,
    Result,
    TaskRef,
)
from kling_async.cli.main import main
from kling_async.testing import Emulator, Scenario
from tests.cli.conftest import Ended
from tests.engines.postgres import PASSWORD
from tests.patience import HANGS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from concurrent.futures import Future
    from pathlib import Path

    from tests.cli.conftest import Start

FOX = MasterTextToVideo("a fox")
REF = TaskRef("kling-2-1", "task_1")
RESULT = Result(REF, ("https://example.com/a.mp4",))


@pytest.fixture
def url(postgres_url: str) -> str:
    """Give the URL of a batch."""
    return f"{postgres_url}?batch=foxes"


@pytest.fixture
def rows(tmp_path: Path) -> str:
    """Write a file of three rows."""
    path = tmp_path / "clips.jsonl"
    text = [json.dumps({"key": key, **FOX.to_dict()}) for key in "abc"]
    path.write_text("\n".join(text), encoding="utf-8")
    return str(path)


class Here(Protocol):
    def __call__(self, *argv: str) -> Ended: ...


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """Run a command in this process, on a loop of its own and in real time."""
    monkeypatch.setenv("APIXO_API_KEY", "a-key")

    def here(*argv: str) -> Ended:
        return Ended(main(argv), *capsys.readouterr())

    return here


class Serving(Protocol):
    def __call__(self, *rules: str, **options: Any) -> None: ...  # noqa: ANN401


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serving]:
    """Run an emulator in a thread, in real time, and let the environment name it."""
    with ExitStack() as stack:

        def serving(*rules: str, **options: Any) -> None:  # noqa: ANN401
            portal = stack.enter_context(_portal())
            scenario = Scenario.parse(rules)
            emulator = Emulator(video="small", scenario=scenario, **options)
            portal(emulator.__aenter__()).result()
            stack.callback(lambda: portal(emulator.__aexit__(None, None, None)).result())
            monkeypatch.setenv("APIXO_API_KEY", emulator.key)
            monkeypatch.setenv("APIXO_BASE_URL", emulator.origin)

        yield serving


@contextmanager
def _portal() -> Iterator[Callable[[Coroutine[Any, Any, object]], Future[object]]]:
    """Run a loop in a thread, and things on that loop."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever)
    thread.start()
    try:
        yield lambda job: asyncio.run_coroutine_threadsafe(job, loop)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def wait_for(url: str, number: int) -> None:
    """Wait until so many tasks run."""
    query = "SELECT count(*) FROM kling_async_items WHERE state = 'submitted'"
    end = time.monotonic() + 30
    with psycopg.connect(url, autocommit=True) as db:
        while time.monotonic() < end:
            if db.execute(query).fetchone() == (number,):
                return
            time.sleep(0.05)
    raise AssertionError("they do not run")


def test_from_a_file_to_a_fleet(
    serving: Serving, here: Here, url: str, rows: str, tmp_path: Path
) -> None:
    """What one command puts in the queue, others generate; both report it, without a password."""
    serving(speed=100.0)
    put = here("batch", rows, "--journal", url, "--enqueue")
    assert (put.code, put.err) == (0, "")
    assert "3 rows; nothing was sent" in put.out
    assert "3 added to the queue" in put.out
    assert "already" not in put.out
    again = here("batch", rows, "--journal", url, "--enqueue", "--json")
    assert again.objects == [{"rows": 3, "added": 0, "waiting": 3, "ended": 0, "invalid": 0}]
    videos = tmp_path / "videos"
    worker = ("worker", "--journal", url, "--until-empty", "--first-poll", "0.1")
    made = here(*worker, "--download-to", str(videos))
    assert made.code == 0
    assert sorted(made.out.splitlines()) == [f"{key}\t{videos / f'{key}.mp4'}" for key in "abc"]
    assert "3 saved in " in made.err
    put = here("batch", rows, "--journal", url, "--enqueue")
    assert "3 ended already, according to the journal" in put.out
    none = here(*worker, "--json")
    assert [list(one) for one in none.objects] == [["counts"]]
    assert PASSWORD not in f"{put}{made}{none}"


def test_what_goes_wrong(serving: Serving, here: Here, url: str, rows: str) -> None:
    """A failure is on stderr; the exit code is that of unsure before that of failed."""
    serving("task:1=fail:NSFW_DETECTED", speed=100.0)
    here("batch", rows, "--journal", url, "--enqueue", "--limit", "1")
    worker = ("worker", "--journal", url, "--until-empty", "--first-poll", "0.1")
    failed = here(*worker)
    assert (failed.code, failed.out) == (1, "")
    assert "a: " in failed.err
    assert "1 failed in " in failed.err
    serving("submit:1=lost-answer", speed=100.0)
    here("batch", rows, "--journal", url, "--enqueue")
    unsure = here(*worker, "--json")
    assert unsure.code == 4
    *lines, last = unsure.objects
    assert sorted(one["key"] for one in lines) == ["b", "c"]
    assert [one["error"] for one in lines if "error" in one] == ["AnswerLostError"]
    assert last["counts"]["unsure"] == last["counts"]["finished"] == 1


def test_drained(
    serving: Serving, start: Start, here: Here, postgres_url: str, url: str, rows: str
) -> None:
    """The first signal lets what runs end; the rest is left to the others."""
    serving(speed=30.0)
    here("batch", rows, "--journal", url, "--enqueue")
    options = ("--concurrency", "1", "--first-poll", "0.1")
    worker = start("worker", "--journal", url, *options)
    wait_for(postgres_url, 1)
    worker.send_signal(signal.SIGTERM)
    out, err = worker.communicate(timeout=HANGS)
    assert worker.returncode == 0
    assert out.startswith("a\thttp")
    assert "taking no more items; running tasks have up to 30 s" in err
    assert "1 finished in " in err
    assert "handed over" not in err


def test_handed_over(
    serving: Serving, start: Start, here: Here, postgres_url: str, url: str, rows: str
) -> None:
    """The second signal ends a worker at once, and it reports how many items it has handed over."""
    serving()
    here("batch", rows, "--journal", url, "--enqueue")
    worker = start("worker", "--journal", url, "--json", "--drain", "600")
    wait_for(postgres_url, 3)
    worker.send_signal(signal.SIGINT)
    time.sleep(0.3)
    worker.send_signal(signal.SIGTERM)
    out, err = worker.communicate(timeout=HANGS)
    assert (worker.returncode, err) == (0, "")
    assert json.loads(out)["counts"]["handed_over"] == 3


def test_no_money(serving: Serving, here: Here, url: str, rows: str) -> None:
    """The error that ends a worker follows its summary, and determines the exit code."""
    serving("submit:*=402")
    here("batch", rows, "--journal", url, "--enqueue")
    ended = here("worker", "--journal", url)
    assert ended.code == 1
    assert "3 handed over in " in ended.err


def test_nowhere(here: Here) -> None:
    """A journal that cannot be reached is an error of its own, without its password."""
    nowhere = "postgresql://someone:hidden@127.0.0.1:1/db?connect_timeout=1"
    ended = here("worker", "--journal", nowhere, "--lease", "0.2")
    assert ended.code == 6
    assert "cannot be reached" in ended.err
    assert "hidden" not in ended.err


def test_a_file_is_no_queue(here: Here, rows: str) -> None:
    """Rows are put in no queue where the journal is a file, and wrong options are refused."""
    ended = here("batch", rows, "--enqueue")
    assert (ended.code, ended.out) == (2, "")
    assert "--journal postgresql://" in ended.err
    with pytest.raises(SystemExit):
        here("worker", "--journal", "postgresql://db", "--drain", "-1")


def test_wrong_rows_are_left_out(here: Here, url: str, rows: str, tmp_path: Path) -> None:
    """The good rows are put in the queue without the wrong ones, if that is wanted."""
    with (tmp_path / "clips.jsonl").open("a") as file:
        file.write("\n{}")
    ended = here("batch", rows, "--journal", url, "--enqueue", "--skip-invalid")
    assert ended.code == 1
    assert "3 added to the queue" in ended.out
    assert "row 4" in ended.err


def test_beside_the_main_thread(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where signals cannot be caught, the command works without."""
    monkeypatch.setenv("APIXO_API_KEY", "a-key")
    codes: list[int] = []
    argv = ["worker", "--journal", url, "--until-empty"]
    thread = Thread(target=lambda: codes.append(main(argv)))
    thread.start()
    thread.join()
    assert codes == [0]
    assert "nothing in " in capsys.readouterr().err


@pytest.mark.slow
def test_first_words(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker is about to do is said at once, also while its database cannot be reached."""
    monkeypatch.setenv("APIXO_API_KEY", "a-key")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"127.0.0.1:{silent.getsockname()[1]}/db"
        worker = start("worker", "--journal", f"postgresql://me:hidden@{where}?batch=foxes")
        assert worker.stderr is not None
        line = worker.stderr.readline()
        assert line.startswith("kling-async: worker of postgresql://me@127.0.0.1:")
        assert "batch=foxes: connects, then processes up to 100 items of its queue" in line
        assert "hidden" not in line
        worker.kill()  # it would wait for the database first
