"""Cards of results and outcomes, whose videos may have been downloaded."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Protocol

from attrs import evolve

from kling_async._display.contact_sheet import Card, Picture, Video, add_videos, image_urls
from kling_async._utils.text import printable

# How an input writes a picture of this machine: its checksum, and the path that it had.
_LOCAL_IMAGE = re.compile(r"kling-image:[^?]*\?path=(.+)", re.DOTALL)


class ResultLike(Protocol):
    """What a card needs of a :class:`kling_async.Result`."""

    @property
    def ref(self) -> object: ...
    @property
    def result_urls(self) -> tuple[str, ...]: ...
    @property
    def cost_time(self) -> float | None: ...


class MediaLike(Protocol):
    """What a card needs of a :class:`kling_async.MediaFacts`."""

    def to_dict(self) -> dict[str, object]: ...


class OutcomeLike(Protocol):
    """What a card needs of a :class:`kling_async.Outcome`."""

    @property
    def index(self) -> int: ...
    @property
    def key(self) -> str | None: ...
    @property
    def input(self) -> object: ...
    @property
    def result(self) -> ResultLike | None: ...
    @property
    def files(self) -> tuple[Path, ...]: ...
    @property
    def media(self) -> tuple[MediaLike, ...]: ...


def result_cards(
    result: ResultLike, files: Sequence[Path] = (), folder: Path | None = None
) -> Iterator[Card]:
    """Yield a card for each video of a result.

    Args:
        result: The result.
        files: Where its videos were saved, in the order of the URLs. Missing ones are left out.
        folder: The folder of the page. Default: the current one.
    """
    card = Card(str(result.ref), cost_time=result.cost_time)
    return add_videos(card, _videos(result.result_urls, files, folder))


def input_pictures(
    fields: Mapping[str, object], folder: Path | None, *, load: bool = False
) -> list[Picture]:
    """Return the images of an input: URLs, and files, which are linked if they still exist.

    Args:
        fields: What ``Input.to_dict()`` returns.
        folder: The folder of the page. Default: the current one.
        load: Whether the page shows the images at the URLs.
    """
    pictures = []
    for text in image_urls(fields):
        match = _LOCAL_IMAGE.fullmatch(text)
        if match is None:
            pictures.append(Picture(text, None, load=load))
        else:
            pictures.append(Picture(match[1], relative_path(Path(match[1]), folder)))
    return pictures


def outcome_cards(
    outcome: OutcomeLike,
    error: Exception | None,
    files: Sequence[Path] = (),
    folder: Path | None = None,
) -> Iterator[Card]:
    """Yield a card for each video of an outcome, or one with its error.

    Args:
        outcome: The outcome.
        error: Its error.
        files: Where its videos were saved, unless it has files itself.
        folder: The folder of the page. Default: the current one.
    """
    to_dict = getattr(outcome.input, "to_dict", dict)  # an invalid input has none
    fields: Mapping[str, object] = to_dict()
    result = outcome.result
    card = Card(
        str(outcome.index) if outcome.key is None else printable(outcome.key),
        fields,
        input_pictures(fields, folder, load=True),
        cost_time=None if result is None else result.cost_time,
        failure="" if error is None else str(error),
    )
    urls = () if result is None else result.result_urls
    videos = _videos(urls, outcome.files or files, folder)
    for number, facts in enumerate(outcome.media[: len(videos)]):
        videos[number] = evolve(videos[number], media=facts.to_dict())
    return add_videos(card, videos)


def _videos(urls: Sequence[str], files: Sequence[Path], folder: Path | None) -> list[Video]:
    pairs = zip_longest(urls, files)
    return [_video(url or "", file, folder or Path.cwd()) for url, file in pairs]


def _video(url: str, file: Path | None, folder: Path) -> Video:
    path = None if file is None else relative_path(file, folder)
    if file is None or path is None:
        return Video(url=url)
    return Video(path, file.stat().st_size, url)


def relative_path(file: Path, folder: Path | None) -> str | None:
    """Return the path of a file for a page in the folder, if the file exists."""
    try:
        if file.is_file():
            return os.path.relpath(file, folder or Path.cwd()).replace(os.sep, "/")
    except ValueError:  # pragma: no cover - on another drive of Windows
        pass
    return None
