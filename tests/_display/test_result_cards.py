from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from attrs import evolve

from kling_async import (
    MasterTextToVideo,
    MediaFacts,
    MediaProblem,
    Outcome,
    ProImageToVideo,
    Result,
    TaskRef,
)
from kling_async._display.contact_sheet import Picture, render_part
from kling_async._display.result_cards import input_pictures, outcome_cards, result_cards
from kling_async.errors import TaskFailedError
from tests._display.page_reader import PageReader

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from kling_async._display.contact_sheet import Card

REF = TaskRef("kling-2-1", "task_1")
URL = "https://host/a.mp4"
FOX = MasterTextToVideo("a fox")
HOSTILE = '"><script>alert(1)</script>'


def _read(cards: Iterable[Card]) -> PageReader:
    return PageReader(render_part(list(cards)))


def test_player_of_a_result() -> None:
    """A result is a player of its URL, named by its reference."""
    sheet = PageReader(Result(REF, (URL,), cost_time=64.0)._repr_html_())
    (video,) = sheet.all("video")
    assert (video["src"], video["aria-label"]) == (URL, "Video kling-2-1/task_1")
    assert "64.0 s" in sheet.words


def test_each_video_has_a_player() -> None:
    """A second video has a card of its own."""
    sheet = _read(result_cards(Result(REF, (URL, "https://host/b.mp4"))))
    labels = [video["aria-label"] for video in sheet.all("video")]
    assert labels == ["Video kling-2-1/task_1", "Video kling-2-1/task_1 (2)"]


def test_player_of_an_outcome() -> None:
    """An outcome is its prompt, its settings and its input images beside the player."""
    sent = ProImageToVideo(
        "pan left", "https://host/cat.jpg", end_image_url="http://10.0.0.1/b.jpg"
    )
    sheet = PageReader(Outcome(3, sent, REF, Result(REF, (URL,)))._repr_html_())
    assert [video["src"] for video in sheet.all("video")] == [URL]
    assert [image["src"] for image in sheet.all("img")] == ["https://host/cat.jpg"]
    assert "pan left" in sheet.words
    assert "not shown:http://10.0.0.1/b.jpg" in sheet.words


def test_outcome_without_a_video() -> None:
    """A failed outcome says why, with the key of a batch as its name."""
    sheet = PageReader(Outcome(0, FOX, error=TaskFailedError("refused"), key="fox-1")._repr_html_())
    assert sheet.all("video") == []
    assert "refused" in sheet.words
    assert "fox-1" in sheet.words


def test_what_is_no_input() -> None:
    """The outcome of something that is no input has its error."""
    outcome = Outcome(0, "a fox", error=TaskFailedError("not an input"))  # type: ignore[arg-type]
    assert "not an input" in _read(outcome_cards(outcome, outcome.error)).words


def test_saved_files_come_before_urls(tmp_path: Path) -> None:
    """A saved video is played from its file; where that cannot be loaded, from its URL."""
    file = tmp_path / "videos" / "a b.mp4"
    file.parent.mkdir()
    file.write_bytes(bytes(2000))
    outcome = Outcome(0, FOX, REF, Result(REF, (URL,)), files=(file,))
    sheet = _read(outcome_cards(outcome, None, folder=tmp_path))
    assert [source["src"] for source in sheet.all("source")] == ["./videos/a%20b.mp4", URL]
    assert "2 kB MP4" in sheet.words


def test_what_a_video_contains(tmp_path: Path) -> None:
    """The card of an inspected video says what it contains, and what is wrong with it."""
    file = tmp_path / "a.mp4"
    file.write_bytes(bytes(2000))
    good = MediaFacts(5.04, 1280, 720, 24.0, has_sound=True)
    bad = evolve(good, has_sound=False, problems=(MediaProblem.BLACK, MediaProblem.WRONG_LENGTH))
    outcome = Outcome(0, FOX, REF, Result(REF, (URL, URL)), files=(file, file), media=(good, bad))
    sheet = _read(outcome_cards(outcome, None, folder=tmp_path))
    assert "5.0 s, 1280 × 720, sound" in sheet.words
    assert "5.0 s, 1280 × 720, no sound" in sheet.words
    assert "black, wrong length" in sheet.words
    assert len(sheet.all("strong")) == 1


def test_missing_files_are_left_out(tmp_path: Path) -> None:
    """A file that is not there any more is not referred to."""
    cards = result_cards(Result(REF, (URL,)), (tmp_path / "gone.mp4",), tmp_path)
    assert [video["src"] for video in _read(cards).all("video")] == [URL]


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "http://host/a.mp4", "data:text/html,x", "//host/a", HOSTILE]
)
def test_unsafe_urls_are_text(url: str) -> None:
    """What is neither https nor of this machine is shown and not loaded."""
    sheet = _read(result_cards(Result(REF, (url,))))
    assert sheet.links == []
    assert url in sheet.words
    assert sheet.all("script") == []


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8/a.mp4", "https://host/a b.mp4", "https://h/?a&b"]
)
def test_safe_urls_are_loaded(url: str) -> None:
    """Https, and plain http of this machine, is loaded."""
    (video,) = _read(result_cards(Result(REF, (url,)))).all("video")
    assert video["src"] == url.replace(" ", "%20")


def test_hostile_text_is_escaped() -> None:
    """A prompt, a key and an error appear as they were written, and add no element."""
    outcome = Outcome(0, MasterTextToVideo(HOSTILE), error=TaskFailedError(HOSTILE), key=HOSTILE)
    sheet = _read(outcome_cards(outcome, outcome.error))
    assert sheet.words.count(HOSTILE) == 3
    assert sheet.all("script") == []


def test_pictures_of_this_machine(tmp_path: Path) -> None:
    """A local image is linked as long as its file exists; a URL is loaded on request."""
    cat = tmp_path / "a cat?.jpg"
    cat.touch()
    fields = {
        "image_url": f"kling-image:{'ab' * 32}.jpg?path={cat}",
        "end_image_url": f"kling-image:?path={tmp_path / 'none.jpg'}",
    }
    assert input_pictures(fields, tmp_path) == [
        Picture(str(cat), "a cat?.jpg"),
        Picture(str(tmp_path / "none.jpg"), None),
    ]
    url = "https://example.com/cat.jpg"
    assert input_pictures({"image_url": url}, None, load=True) == [Picture(url, None, load=True)]
    text = f"kling-image:{'ab' * 32}.jpg"
    assert input_pictures({"image_url": text}, None) == [Picture(text, None)]
