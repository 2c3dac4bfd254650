from __future__ import annotations

import re
from collections.abc import Mapping

from kling_async._display.contact_sheet import (
    Card,
    Fact,
    Picture,
    Video,
    count_facts,
    image_urls,
    render_page,
    render_part,
)
from tests._display.page_reader import PageReader

TEXT: Mapping[str, object] = {
    "model": "kling-2-1",
    "mode": "master-text-to-video",
    "prompt": "a fox",
    "duration": 5,
}
HOSTILE = "</p><script>alert('1')</script>\"><img src=x onerror=alert(2)> ${facts} &amp;"


def _read(*cards: Card) -> PageReader:
    return PageReader(render_page(cards, [], ""))


def test_card_of_a_video() -> None:
    """A finished row shows its prompt, settings, timings, and the video with controls."""
    sheet = _read(
        Card(
            "03",
            {**TEXT, "aspect_ratio": "9:16", "cfg_scale": 0, "negative_prompt": "rain"},
            video=Video("03-master.mp4", 80_490),
            seconds=4.44,
            cost_time=4.0,
        )
    )
    (video,) = sheet.all("video")
    assert video["src"] == "./03-master.mp4"
    assert video["preload"] == "metadata"
    assert {"controls", "muted", "loop", "playsinline"} <= video.keys()
    for words in (
        "03",
        "a fox",
        "5 s",
        "9:16",
        "cfg 0",
        "without: rain",
        "4.4 s",
        "4.0 s",
        "80 kB",
    ):
        assert words in sheet.words


def test_card_of_a_failure() -> None:
    """A failed row says in words why there is no video."""
    sheet = _read(Card("01", TEXT, failure="refused & gone"), Card("02", TEXT, failure="too"))
    assert sheet.all("video") == []
    assert "refused & gone" in sheet.words
    assert {"class": "stage none"} in sheet.all("div")


def test_card_of_what_has_not_ended() -> None:
    """What may still become a video has its state, and not in the colours of a failure."""
    sheet = _read(Card("a fox", TEXT, state="Running", ended=False))
    assert "Running" in sheet.words
    assert {"class": "stage none yet"} in sheet.all("div")


def test_header_has_the_facts() -> None:
    """The head has the facts that it is given, bad ones marked, and the foot what it is given."""
    facts = [Fact("<12", "failed <i>", bad=True), Fact("20", "× as fast", before="<i>emulator at")]
    sheet = PageReader(render_page([], facts, "made <here>"))
    assert re.search(r"<12 failed <i>\s*<i>emulator at 20 × as fast", sheet.words)
    assert "made <here>" in sheet.words
    assert sheet.all("b") == [{"class": "bad"}, {}]


def test_size_of_a_large_video() -> None:
    """Sizes from a megabyte on are in megabytes."""
    assert "2.3 MB" in _read(Card("01", TEXT, video=Video("1.mp4", 2_300_000))).words


def test_label_of_any_text() -> None:
    """A card can be linked to whatever its label is."""
    (card,) = _read(Card('a "fox"/1', TEXT)).all("article")
    assert card["id"] == "row-a%20%22fox%22%2F1"


def test_pictures_with_start_and_end() -> None:
    """Both input images are shown, in order, each with a text for those who cannot see it."""
    pictures = [Picture("http://x/1", "image-01.jpg"), Picture("http://x/2", "image-02.png")]
    images = _read(Card("01", TEXT, pictures=pictures)).all("img")
    assert [(image["src"], image["alt"]) for image in images] == [
        ("./image-01.jpg", "start frame"),
        ("./image-02.png", "end frame"),
    ]


def test_first_picture_stands_for_the_video() -> None:
    """Before a video is played, its first image is shown, if it was saved."""
    video = Video("1.mp4", 1)
    two = [Picture("http://x/1", "image-01.jpg"), Picture("http://x/2", "image-02.png")]
    none = [Picture("http://x/1", None)]
    cards = [Card("1", TEXT, two, video), Card("2", TEXT, none, video), Card("3", TEXT, [], video)]
    posters = [shown.get("poster") for shown in _read(*cards).all("video")]
    assert posters == ["./image-01.jpg", None, None]


def test_picture_that_was_not_saved() -> None:
    """An image that could not be saved is named by its URL, and not linked."""
    sheet = _read(Card("01", TEXT, pictures=[Picture("http://x/none.jpg", None)]))
    assert "http://x/none.jpg" in sheet.words
    assert sheet.links == []


def test_whatever_is_written_is_escaped() -> None:
    """Hostile text appears as it was written, and adds no element."""
    plain = _read(Card("01", TEXT, pictures=[Picture("http://x", None)], failure="no"))
    fields = {**TEXT, "mode": HOSTILE, "prompt": HOSTILE, "negative_prompt": HOSTILE}
    sheet = _read(Card("01", fields, pictures=[Picture(HOSTILE, None)], failure=HOSTILE))
    assert sheet.words.count(HOSTILE) == 5
    assert len(sheet.elements) == len(plain.elements) + 1  # the setting "without"


def test_hostile_label() -> None:
    """A prompt cannot leave the attribute that it names a video in."""
    (video,) = _read(Card("01", {**TEXT, "prompt": HOSTILE}, video=Video("1.mp4", 1))).all("video")
    assert "onerror" not in video
    assert "<script>" in (video["aria-label"] or "")


def test_long_prompt_is_folded() -> None:
    """A very long prompt shows its beginning, and all of it when it is opened."""
    prompt = "river " * 500
    sheet = _read(Card("01", {**TEXT, "prompt": prompt}, failure="no"))
    assert len(sheet.all("details")) == 1
    assert prompt in sheet.words


def test_long_texts_are_cut() -> None:
    """A long reason and a long URL are cut, so that no card has to be scrolled."""
    card = Card("01", TEXT, [Picture("http://x/" + "a" * 500, None)], failure="refused " * 200)
    words = _read(card).words
    assert f"{'refused ' * 75}".rstrip() + "…" in words
    assert "http://x/" + "a" * 111 + "…" in words


def test_nothing_is_loaded_from_elsewhere() -> None:
    """Every link is a path beside the page; styles and scripts are in it."""
    card = Card(
        "01",
        TEXT,
        [Picture("https://example.com/a.jpg", "a:b c.jpg")],
        Video("../v.mp4", 1),
        1.0,
        1.0,
    )
    sheet = _read(card)
    assert set(sheet.links) == {"./a%3Ab%20c.jpg", "./../v.mp4"}
    html = render_page([card], [], "")
    assert "url(" not in html
    assert "@import" not in html
    assert "://" not in html


def test_part_of_a_page() -> None:
    """In a notebook, cards have no names that others may have, and styles that are theirs alone."""
    html = render_part([Card("01", TEXT)], more="The first 1 of <2>.")
    sheet = PageReader(html)
    assert "The first 1 of <2>." in sheet.words
    assert sheet.all("article") == [{"class": "card"}]
    (style,) = re.findall("<style>(.*?)</style>", html, re.DOTALL)
    (rule,) = re.findall(r"^[^\s@/].*{$", style, re.MULTILINE)  # the one that is not nested
    assert rule == ".kling-sheet.kling-sheet.kling-sheet {"


def test_card_without_an_input() -> None:
    """A card whose input is unknown has neither a prompt nor settings."""
    sheet = PageReader(render_part([Card("01")]))
    assert "prompt" not in {attrs.get("class") for _, attrs in sheet.elements}
    assert sheet.all("ul") == []


def test_other_models() -> None:
    """A card of another model names it, its sound and resolution; a prompt may be missing."""
    fields = {"model": "kling-2-6", "mode": "text-to-video", "prompt": "a fox", "sound": False}
    sheet = _read(Card("1", {**fields, "resolution": "720p"}))
    assert "kling-2-6 · text to video" in sheet.words
    assert "sound off" in sheet.words
    assert "720p" in sheet.words
    control = {"model": "kling-3-0-std", "mode": "motion-control", "sound": True}
    assert "sound on" in _read(Card("1", control)).words


def test_raw_inputs() -> None:
    """A card of a raw input shows its fields, of whatever type they are."""
    fields = {"mode": "omni", "prompt": ["a fox"], "duration": 7, "deep": {"a": 1}}
    sheet = _read(Card("1", {"model": "kling-9", "fields": fields}))
    assert "kling-9 · omni" in sheet.words
    assert "7 s" in sheet.words
    assert "['a fox']" in sheet.words
    assert "kling-9" in _read(Card("1", {"model": "kling-9", "fields": {}})).words


def test_urls_of_images() -> None:
    """The images of an input are listed in their order, also those of a raw input."""
    assert image_urls({"image_url": "a", "end_image_url": "b"}) == ["a", "b"]
    assert image_urls({"model": "x", "fields": {"image_urls": ["a", "b", ""]}}) == ["a", "b"]
    assert image_urls({"model": "x", "fields": {"image_urls": "a"}}) == []
    assert image_urls(TEXT) == []


def test_numbers_of_cards() -> None:
    """The header has the number of videos, and of failures if there are any."""
    made = Card("1", video=Video("a.mp4"))
    assert count_facts([made]) == [Fact("1", "video")]
    failed = Fact("1,000", "failed", bad=True)
    assert count_facts([Card("1")] * 1000) == [Fact("0", "videos"), failed]
