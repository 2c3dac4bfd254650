"""Cards of results and outcomes, whose videos may have been downloaded."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Protocol

from kling_async._display.contact_sheet import Card, Picture, Video, add_videos
from kling_async._utils.text import printable

_IMAGES = ("image_url", "end_image_url")


class ResultLike(Protocol):
    """What a card needs of a :class:`kling_async.Result`."""

    @property
    def ref(self) -> object: ...
    @property
    def result_urls(self) -> tuple[str, ...]: ...
    @property
    def cost_time(self) -> float | None: ...


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
        [Picture(str(fields[name]), None, load=True) for name in _IMAGES if name in fields],
        cost_time=None if result is None else result.cost_time,
        failure="" if error is None else str(error),
    )
    urls = () if result is None else result.result_urls
    return add_videos(card, _videos(urls, outcome.files or files, folder))


def _videos(urls: Sequence[str], files: Sequence[Path], folder: Path | None) -> list[Video]:
    pairs = zip_longest(urls, files)
    return [_video(url or "", file, folder or Path.cwd()) for url, file in pairs]


def _video(url: str, file: Path | None, folder: Path) -> Video:
    if file is None or not file.is_file():
        return Video(url=url)
    try:
        path = os.path.relpath(file, folder).replace(os.sep, "/")
    except ValueError:  # pragma: no cover - on another drive of Windows
        return Video(url=url)
    return Video(path, file.stat().st_size, url)
