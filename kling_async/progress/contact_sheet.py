"""Many outcomes as one picture: a player for each video, in a notebook or as a page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kling_async._display.contact_sheet import Card, count_facts, render_page, render_part
from kling_async._display.result_cards import outcome_cards, result_cards
from kling_async.download.names import file_name
from kling_async.errors import InputError
from kling_async.results import Result
from kling_async.tasks.fan_out import Outcome

if TYPE_CHECKING:
    import os

    from kling_async.results import TaskRef

# A notebook is stored with its outputs, and each player loads the beginning of its video.
_MAX_SHOWN = 100


class ContactSheet:
    """Outcomes or results as a contact sheet, which a notebook shows as players.

    Videos that were downloaded are played from their files, the others from their result URLs,
    which expire. Only https URLs are loaded, and those of this machine.

    Args:
        items: Outcomes, results, or both.
        folder: The folder into which :meth:`KlingClient.download` has saved videos under their
            default names. The files of a batch are known without it.

    Raises:
        InputError: An item is neither an outcome nor a result.
    """

    def __init__(
        self,
        items: Iterable[Outcome | Result],
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        self._items = tuple(items)
        self._folder = None if folder is None else Path(folder)
        for item in self._items:
            if not isinstance(item, Outcome | Result):
                raise InputError(f"neither an outcome nor a result: {item!r:.80}")

    def __repr__(self) -> str:
        failed = sum(isinstance(item, Outcome) and item.error is not None for item in self._items)
        return f"<ContactSheet of {len(self._items):,}, {failed:,} failed>"

    def _repr_html_(self) -> str:
        shown, total = self._items[:_MAX_SHOWN], len(self._items)
        more = "" if len(shown) == total else f"The first {len(shown):,} of {total:,}."
        return render_part([card for item in shown for card in self._cards(item, Path.cwd())], more)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the contact sheet of all items as an HTML page; return its path.

        The page refers to downloaded files by their paths relative to it.

        Args:
            path: The path of the page. An existing file is replaced.
        """
        page = Path(path)
        cards = [card for item in self._items for card in self._cards(item, page.parent)]
        html = render_page(cards, count_facts(cards), "")
        page.write_text(html, encoding="utf-8", errors="replace")
        return page

    def _cards(self, item: Outcome | Result, page_folder: Path) -> Iterator[Card]:
        if isinstance(item, Result):
            files = self._files(item.ref, item.result_urls)
            return result_cards(item, files, page_folder)
        result = item.result
        files = () if result is None else self._files(result.ref, result.result_urls)
        return outcome_cards(item, item.error, files, page_folder)

    def _files(self, ref: TaskRef, urls: tuple[str, ...]) -> tuple[Path, ...]:
        if self._folder is None:
            return ()
        return tuple(self._folder / file_name(ref, index, url) for index, url in enumerate(urls))
