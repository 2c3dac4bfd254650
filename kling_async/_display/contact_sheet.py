"""The contact sheet: inputs and their videos as one page that needs no network.

Pure: values become the text of ``index.html``. Text of users and of the service is escaped, and
every link is the path of a file, relative to the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from string import Template
from urllib.parse import quote

from attrs import frozen

from kling_async._utils.text import format_size

# Longer prompts are shown in part, and in full when they are opened.
_LONG_PROMPT = 240
_LONG_LABEL = 80

_MODES = {
    "standard-image-to-video": "Standard · image to video",
    "pro-image-to-video": "Pro · image to video",
    "master-text-to-video": "Master · text to video",
    "master-image-to-video": "Master · image to video",
}

# The fields that are shown as chips, and how.
_CHIPS = {
    "duration": "{} s",
    "aspect_ratio": "{}",
    "cfg_scale": "cfg {}",
    "provider": "provider {}",
    "negative_prompt": "without: {}",
}


@frozen
class Picture:
    """An input image: its URL, and the name of its file if it was saved."""

    url: str
    file: str | None


@frozen
class Video:
    """A saved video: the path of its file, with slashes, and its size."""

    file: str
    size_bytes: int


@frozen
class Fact:
    """A number in the page's header, with the text around it; a bad one is red."""

    value: str
    after: str
    before: str = ""
    bad: bool = False


@frozen
class Card:
    """One input, as ``Input.to_dict()`` returns it, and its video, or its state without one."""

    label: str
    fields: Mapping[str, object]
    pictures: Sequence[Picture] = ()  # the end frame last
    video: Video | None = None
    seconds: float | None = None  # from the submit until the client knew of the end
    cost_time: float | None = None  # of the generation, as measured by the service
    failure: str = ""  # why there is no video
    state: str = "No video"
    ended: bool = True  # there will be no video any more


def render_page(cards: Sequence[Card], facts: Sequence[Fact], footer: str) -> str:
    """Return the page: facts in its header, cards in their order, and a footer."""
    file = resources.files(__package__).joinpath("contact_sheet.html")
    return Template(file.read_text(encoding="utf-8")).substitute(
        facts="\n".join(_fact(fact) for fact in facts),
        cards="\n".join(_card(card) for card in cards),
        footer=escape(footer),
    )


def _fact(fact: Fact) -> str:
    style = ' class="bad"' if fact.bad else ""
    text = f"{escape(fact.before)} <b{style}>{escape(fact.value)}</b> {escape(fact.after)}"
    return f"<li>{text.strip()}</li>"


def _card(card: Card) -> str:
    prompt, mode = str(card.fields["prompt"]), str(card.fields["mode"])
    title = f'<span class="number">{escape(card.label)}</span>{escape(_MODES.get(mode, mode))}'
    parts = (
        f'<article class="card" id="row-{quote(card.label, safe="")}">',
        _stage(card, _shorten(prompt, _LONG_LABEL)),
        f'<div class="body">\n<p class="mode">{title}</p>',
        _prompt(prompt),
        _chips(card.fields),
        _pictures(card.pictures),
        _timings(card),
        "</div>\n</article>",
    )
    return "\n".join(filter(None, parts))


def _stage(card: Card, prompt: str) -> str:
    if card.video is None:
        style = "stage none" if card.ended else "stage none yet"
        text = f"<strong>{escape(card.state)}</strong><span>{escape(card.failure)}</span>"
        return f'<div class="{style}"><p>{text}</p></div>'
    # Phones show nothing of a video until it is played; its image is similar to its start.
    first = card.pictures[0].file if card.pictures else None
    poster = "" if first is None else f' poster="{_link(first)}"'
    label = escape(f"Video {card.label}: {prompt}")
    return (
        f'<div class="stage"><video src="{_link(card.video.file)}"{poster} aria-label="{label}"'
        " controls muted loop playsinline preload=metadata></video></div>"
    )


def _prompt(text: str) -> str:
    start = _shorten(text, _LONG_PROMPT)
    if start == text:
        return f'<p class="prompt" dir="auto">{escape(text)}</p>'
    summary = f"<summary>{escape(start)}</summary><p>{escape(text)}</p>"
    return f'<details class="prompt" dir="auto">{summary}</details>'


def _chips(fields: Mapping[str, object]) -> str:
    values = {name: fields.get(name) for name in _CHIPS}
    chips = [
        f"<li>{escape(_CHIPS[name].format(value))}</li>"
        for name, value in values.items()
        if value not in (None, "")
    ]
    return f'<ul class="chips">{"".join(chips)}</ul>'


def _pictures(pictures: Sequence[Picture]) -> str:
    names = ("input image",) if len(pictures) == 1 else ("start frame", "end frame")
    figures = [
        f"<figure>{_thumbnail(picture, name)}<figcaption>{name}</figcaption></figure>"
        for picture, name in zip(pictures, names, strict=False)
    ]
    arrow = '<span class="arrow" aria-hidden="true">→</span>'
    return f'<div class="pictures">{arrow.join(figures)}</div>' if figures else ""


def _thumbnail(picture: Picture, name: str) -> str:
    if picture.file is None:
        return f'<span class="missing">not saved:<br>{escape(picture.url)}</span>'
    link = _link(picture.file)
    return f'<a href="{link}"><img src="{link}" alt="{name}" loading="lazy"></a>'


def _timings(card: Card) -> str:
    facts = {}
    if card.seconds is not None:
        facts["queued to done"] = f"{card.seconds:.1f} s"
    if card.cost_time is not None:
        facts["generation"] = f"{card.cost_time:.1f} s"
    if card.video is not None:
        size = format_size(card.video.size_bytes)
        facts["file"] = f'<a href="{_link(card.video.file)}" download>{size} MP4</a>'
    listed = "".join(f"<div><dt>{name}</dt><dd>{text}</dd></div>" for name, text in facts.items())
    return f'<dl class="timings">{listed}</dl>' if facts else ""


def _link(file: str) -> str:
    # "./" prevents that a name with a colon is parsed as a scheme.
    return escape(f"./{quote(file)}")


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length].rstrip()}…"
