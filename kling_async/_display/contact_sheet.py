"""The contact sheet: inputs and their videos as one page, or as a part of a notebook.

Pure: values become HTML. Text of users and of the service is escaped. A link is the path of a file,
relative to the page, or an https URL that the caller has asked for, also plain http of this
machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib import resources
from string import Template
from urllib.parse import quote

from attrs import evolve, field, frozen

from kling_async._utils.text import format_size
from kling_async._utils.urls import is_unencrypted, split_web_url

# Longer prompts are shown in part, and in full when they are opened.
_LONG_PROMPT = 240
_LONG_LABEL = 80

# Longer ones are cut: a card is no place to scroll.
_LONG_FAILURE = 600
_LONG_URL = 120

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
    "resolution": "{}",
    "sound": "sound {}",
    "provider": "provider {}",
    "negative_prompt": "without: {}",
}


@frozen
class Picture:
    """An input image: its URL, and the name of its file if it was saved.

    Without a file, its URL is shown as text, or with ``load`` as the image there.
    """

    url: str
    file: str | None
    load: bool = False


@frozen
class Video:
    """A video: the path of its file, with slashes, and its size; or its URL; or both."""

    file: str = ""
    size_bytes: int = 0
    url: str = ""
    media: Mapping[str, object] | None = None  # what MediaFacts.to_dict() returns

    @property
    def links(self) -> list[str]:
        """What a player may load, in order of preference: without a link it has no source."""
        return [*([_link(self.file)] if self.file else []), *_loadable(self.url)]


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
    fields: Mapping[str, object] = field(factory=dict)
    pictures: Sequence[Picture] = ()  # the end frame last
    video: Video | None = None
    seconds: float | None = None  # from the submit until the client knew of the end
    cost_time: float | None = None  # of the generation, as measured by the service
    failure: str = ""  # why there is no video
    state: str = "No video"
    ended: bool = True  # there will be no video any more


def add_videos(card: Card, videos: Sequence[Video]) -> Iterator[Card]:
    """Yield a card for each video, or the card itself without one."""
    if not videos:
        yield card
    for number, video in enumerate(videos, 1):
        label = card.label if number == 1 else f"{card.label} ({number})"
        failure = card.failure or ("" if video.links else video.url)
        yield evolve(card, label=label, video=video, failure=failure)


def count_facts(cards: Sequence[Card]) -> list[Fact]:
    """Return how many cards have a video, and how many have failed, for the header of a page."""
    videos = sum(card.video is not None for card in cards)
    facts = [Fact(f"{videos:,}", "video" if videos == 1 else "videos")]
    if failed := len(cards) - videos:
        facts.append(Fact(f"{failed:,}", "failed", bad=True))
    return facts


def image_urls(fields: Mapping[str, object]) -> list[str]:
    """Return the URLs of the images of an input, as ``Input.to_dict()`` returns it."""
    shown = _sent_fields(fields)
    listed = shown.get("image_urls")
    urls = [shown.get(name) for name in ("image_url", "end_image_url")]
    return [str(url) for url in [*urls, *(listed if isinstance(listed, list) else [])] if url]


def _sent_fields(fields: Mapping[str, object]) -> Mapping[str, object]:
    """Return the fields of an input, also those of a raw input."""
    raw = fields.get("fields")
    return {**fields, **raw} if isinstance(raw, Mapping) else fields


def render_page(cards: Sequence[Card], facts: Sequence[Fact], footer: str) -> str:
    """Return the page: facts in its header, cards in their order, and a footer."""
    return Template(_read("contact_sheet.html")).substitute(
        styles=_read("contact_sheet.css"),
        facts="\n".join(_fact(fact) for fact in facts),
        cards="\n".join(_card(card, f"row-{quote(card.label, safe='')}") for card in cards),
        footer=escape(footer),
    )


def render_part(cards: Sequence[Card], more: str = "") -> str:
    """Return cards, and a remark below them, as a part of a page, with styles for it alone."""
    parts = (
        f'<div class="kling-sheet">\n<style>{_read("contact_sheet.css")}</style>',
        '<div class="cards">',
        *(_card(card) for card in cards),
        "</div>",
        f'<p class="more">{escape(more)}</p>' if more else "",
        "</div>",
    )
    return "\n".join(filter(None, parts))


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _fact(fact: Fact) -> str:
    style = ' class="bad"' if fact.bad else ""
    text = f"{escape(fact.before)} <b{style}>{escape(fact.value)}</b> {escape(fact.after)}"
    return f"<li>{text.strip()}</li>"


def _card(card: Card, anchor: str = "") -> str:
    fields = _sent_fields(card.fields)
    prompt, mode = (str(fields.get(name, "")) for name in ("prompt", "mode"))
    other = f"{fields.get('model', '')} · {mode.replace('-', ' ')}".strip(" ·")
    title = f'<span class="number">{escape(card.label)}</span>{escape(_MODES.get(mode, other))}'
    parts = (
        f'<article class="card" id="{anchor}">' if anchor else '<article class="card">',
        _stage(card, _shorten(prompt, _LONG_LABEL)),
        f'<div class="body">\n<p class="mode">{title}</p>',
        _prompt(prompt),
        _chips(fields),
        _pictures(card.pictures),
        _timings(card),
        "</div>\n</article>",
    )
    return "\n".join(filter(None, parts))


def _stage(card: Card, prompt: str) -> str:
    links = card.video.links if card.video is not None else []
    if not links:
        style = "stage none" if card.ended else "stage none yet"
        failure = _shorten(card.failure, _LONG_FAILURE)
        text = f"<strong>{escape(card.state)}</strong><span>{escape(failure)}</span>"
        return f'<div class="{style}"><p>{text}</p></div>'
    # Phones show nothing of a video until it is played; its image is similar to its start.
    first = card.pictures[0].file if card.pictures else None
    poster = "" if first is None else f' poster="{_link(first)}"'
    label = escape(f"Video {card.label}: {prompt}" if prompt else f"Video {card.label}")
    sources = "".join(f'<source src="{link}">' for link in links) if len(links) > 1 else ""
    source = "" if sources else f' src="{links[0]}"'
    return (
        f'<div class="stage"><video{source}{poster} aria-label="{label}"'
        f" controls muted loop playsinline preload=metadata>{sources}</video></div>"
    )


def _prompt(text: str) -> str:
    if not text:
        return ""
    start = _shorten(text, _LONG_PROMPT)
    if start == text:
        return f'<p class="prompt" dir="auto">{escape(text)}</p>'
    summary = f'<summary>{escape(start)}</summary><p tabindex="0">{escape(text)}</p>'
    return f'<details class="prompt" dir="auto">{summary}</details>'


def _chips(fields: Mapping[str, object]) -> str:
    values = {name: fields.get(name) for name in _CHIPS}
    chips = [
        f"<li>{escape(_CHIPS[name].format(_format_chip(value)))}</li>"
        for name, value in values.items()
        if value not in (None, "")
    ]
    return f'<ul class="chips">{"".join(chips)}</ul>' if chips else ""


def _format_chip(value: object) -> object:
    return ("on" if value else "off") if isinstance(value, bool) else value


def _pictures(pictures: Sequence[Picture]) -> str:
    names = ("input image",) if len(pictures) == 1 else ("start frame", "end frame")
    figures = [
        f"<figure>{_thumbnail(picture, name)}<figcaption>{name}</figcaption></figure>"
        for picture, name in zip(pictures, names, strict=False)
    ]
    arrow = '<span class="arrow" aria-hidden="true">→</span>'
    return f'<div class="pictures">{arrow.join(figures)}</div>' if figures else ""


def _thumbnail(picture: Picture, name: str) -> str:
    links = [_link(picture.file)] if picture.file is not None else []
    if picture.load:
        links += _loadable(picture.url)
    if not links:
        url = escape(_shorten(picture.url, _LONG_URL))
        reason = "not shown" if picture.load else "not saved"
        return f'<span class="missing">{reason}:<br>{url}</span>'
    link = links[0]
    return f'<a href="{link}"><img src="{link}" alt="{name}" loading="lazy"></a>'


def _timings(card: Card) -> str:
    facts = {}
    if card.seconds is not None:
        facts["queued to done"] = f"{card.seconds:.1f} s"
    if card.cost_time is not None:
        facts["generation"] = f"{card.cost_time:.1f} s"
    if card.video is not None and card.video.links:
        size = f"{format_size(card.video.size_bytes)} MP4" if card.video.size_bytes else "MP4"
        facts["file"] = f'<a href="{card.video.links[0]}" download>{size}</a>'
    if card.video is not None and card.video.media is not None:
        facts |= _media_facts(card.video.media)
    listed = "".join(f"<div><dt>{name}</dt><dd>{text}</dd></div>" for name, text in facts.items())
    return f'<dl class="timings">{listed}</dl>' if facts else ""


def _media_facts(media: Mapping[str, object]) -> dict[str, str]:
    """Return what an inspected video contains, and what is wrong with it."""
    sound = "sound" if media["has_sound"] else "no sound"
    contents = f"{media['duration']:.1f} s, {media['width']} × {media['height']}, {sound}"
    problems = media["problems"]
    if not isinstance(problems, list) or not problems:
        return {"contents": contents}
    words = escape(", ".join(problems).replace("_", " "))
    return {"contents": contents, "problems": f'<strong class="bad">{words}</strong>'}


def _link(file: str) -> str:
    # "./" prevents that a name with a colon is parsed as a scheme.
    return escape(f"./{quote(file)}")


def _loadable(url: str) -> list[str]:
    """Return the URL, escaped, if a page may load it."""
    quoted = url.replace(" ", "%20")  # as for the download
    safe = split_web_url(quoted) is not None and not is_unencrypted(quoted)
    return [escape(quoted)] if safe else []


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length].rstrip()}…"
