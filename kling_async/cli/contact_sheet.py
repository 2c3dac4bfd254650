"""The contact sheet: what was asked for and what came of it, as one page without a network.

Pure: values to the text of ``index.html``. Whatever users or the service have written is
escaped, and every link is the path of a file, relative to the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from string import Template
from urllib.parse import quote

from attrs import frozen

# Longer prompts show their beginning, and the rest when they are opened.
_LONG_PROMPT = 240

_MODES = {
    "standard-image-to-video": "Standard · image to video",
    "pro-image-to-video": "Pro · image to video",
    "master-text-to-video": "Master · text to video",
    "master-image-to-video": "Master · image to video",
}


@frozen
class Picture:
    """An input image: its URL, and the name of the file if it could be saved."""

    url: str
    file: str | None


@frozen
class Video:
    """A saved video: the path of the file, with slashes, and its size."""

    file: str
    size_bytes: int


@frozen
class Fact:
    """A number of the page's head, with the words around it; a bad one is in red."""

    value: str
    after: str
    before: str = ""
    bad: bool = False


@frozen
class Card:
    """One input and what became of it.

    Attributes:
        label: The row's number, or the item's key, as it is shown.
        fields: The input, as ``Input.to_dict()`` gives it.
        pictures: The input images, the end frame last.
        video: The video, if there is one.
        seconds: From the service's acceptance until the client knew of the end.
        cost_time: Seconds that the generation took, by the service's own count.
        failure: Why there is no video, in words.
        state: How it stands without a video, in a word or two.
        ended: Whether there will not be one, either.
    """

    label: str
    fields: Mapping[str, object]
    pictures: Sequence[Picture] = ()
    video: Video | None = None
    seconds: float | None = None
    cost_time: float | None = None
    failure: str = ""
    state: str = "No video"
    ended: bool = True


def page(cards: Sequence[Card], facts: Sequence[Fact], footer: str) -> str:
    """Return the whole page.

    Args:
        cards: What is shown, in order.
        facts: What the head tells.
        footer: What stands below everything.
    """
    template = Template(
        resources.files(__package__).joinpath("contact_sheet.html").read_text(encoding="utf-8")
    )
    return template.substitute(
        facts="\n".join(_fact(fact) for fact in facts),
        cards="\n".join(_card(card) for card in cards),
        footer=escape(footer),
    )


def _fact(fact: Fact) -> str:
    style = ' class="bad"' if fact.bad else ""
    words = f"{escape(fact.before)} <b{style}>{escape(fact.value)}</b> {escape(fact.after)}"
    return f"<li>{words.strip()}</li>"


def _card(card: Card) -> str:
    mode = str(card.fields["mode"])
    title = f'<span class="number">{escape(card.label)}</span>{escape(_MODES.get(mode, mode))}'
    parts = [
        f'<article class="card" id="row-{quote(card.label, safe="")}">',
        _stage(card),
        '<div class="body">',
        f'<p class="mode">{title}</p>',
        _prompt(str(card.fields["prompt"])),
        _chips(card.fields),
        _pictures(card.pictures),
        _timings(card),
        "</div>",
        "</article>",
    ]
    return "\n".join(part for part in parts if part)


def _stage(card: Card) -> str:
    label = escape(f"Video {card.label}: {_start(str(card.fields['prompt']), 80)}")
    if card.video is not None:
        # Phones show nothing of a video before it is played; its image is much like its start.
        first = card.pictures[0].file if card.pictures else None
        poster = f' poster="{_link(first)}"' if first is not None else ""
        return (
            f'<div class="stage"><video src="{_link(card.video.file)}"{poster} aria-label="{label}"'
            " controls muted loop playsinline preload=metadata></video></div>"
        )
    style = "stage none" if card.ended else "stage none yet"
    return (
        f'<div class="{style}"><p><strong>{escape(card.state)}</strong>'
        f"<span>{escape(card.failure)}</span></p></div>"
    )


def _prompt(text: str) -> str:
    if len(text) <= _LONG_PROMPT:
        return f'<p class="prompt" dir="auto">{escape(text)}</p>'
    return (
        f'<details class="prompt" dir="auto"><summary>{escape(_start(text, _LONG_PROMPT))}'
        f"</summary><p>{escape(text)}</p></details>"
    )


def _chips(fields: Mapping[str, object]) -> str:
    named = (
        ("duration", "{} s"),
        ("aspect_ratio", "{}"),
        ("cfg_scale", "cfg {}"),
        ("provider", "provider {}"),
        ("negative_prompt", "without: {}"),
    )
    chips = [
        words.format(fields[name]) for name, words in named if fields.get(name) not in (None, "")
    ]
    return f'<ul class="chips">{"".join(f"<li>{escape(chip)}</li>" for chip in chips)}</ul>'


def _pictures(pictures: Sequence[Picture]) -> str:
    if not pictures:
        return ""
    names = ("input image",) if len(pictures) == 1 else ("start frame", "end frame")
    figures = [
        f"<figure>{_thumbnail(picture, name)}<figcaption>{name}</figcaption></figure>"
        for name, picture in zip(names, pictures, strict=True)
    ]
    arrow = '<span class="arrow" aria-hidden="true">→</span>'
    return f'<div class="pictures">{arrow.join(figures)}</div>'


def _thumbnail(picture: Picture, name: str) -> str:
    if picture.file is None:
        return f'<span class="missing">not saved:<br>{escape(picture.url)}</span>'
    link = _link(picture.file)
    return f'<a href="{link}"><img src="{link}" alt="{name}" loading="lazy"></a>'


def _timings(card: Card) -> str:
    facts = []
    if card.seconds is not None:
        facts.append(("queued to done", f"{card.seconds:.1f} s"))
    if card.cost_time is not None:
        facts.append(("generation", f"{card.cost_time:.1f} s"))
    if card.video is not None:
        size = _size(card.video.size_bytes)
        facts.append(("file", f'<a href="{_link(card.video.file)}" download>{size} MP4</a>'))
    if not facts:
        return ""
    listed = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    return f'<dl class="timings">{listed}</dl>'


def _link(file: str) -> str:
    # The dot keeps a name with a colon from being read as a scheme.
    return escape(f"./{quote(file)}")


def _start(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length].rstrip()}…"


def _size(size_bytes: int) -> str:
    kilobytes = size_bytes / 1000
    return f"{kilobytes:.0f} kB" if kilobytes < 1000 else f"{kilobytes / 1000:.1f} MB"  # noqa: PLR2004 - kilo
