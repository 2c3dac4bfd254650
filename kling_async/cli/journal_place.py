"""Where the journal of ``kling-async batch`` is: where ``--journal`` says, or beside the rows."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kling_async.cli.text_file import is_lasting
from kling_async.errors import ConfigurationError, JournalError

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator

_SUFFIX = ".journal.sqlite"


def journal_place(args: Namespace) -> Path | str | None:
    """Return the path or URL of the journal; None for a dry run of rows that come through a pipe.

    Raises:
        InputError: The file of rows is not there, or is a folder.
        ConfigurationError: A journal is to be named, or cannot be where it is to be.
    """
    lasting = is_lasting(args.file)
    place: Path | str | None = args.journal
    if place is None and lasting:
        place = _beside(args.file)
    elif place is None and not args.dry_run:
        raise ConfigurationError(
            f"name a journal with --journal: {args.file} is not a regular file, so that the next"
            " run could not find a journal beside it"
        )
    if isinstance(place, Path) and _is_lost(place):
        raise ConfigurationError(
            f"a journal at {place} would be lost at a restart: name another place with --journal"
        )
    return place


@contextmanager
def naming_the_option(args: Namespace) -> Iterator[None]:
    """Let the error of a journal that cannot be opened name ``--journal``."""
    try:
        yield
    except JournalError as error:
        if args.journal is not None:
            raise
        raise JournalError(f"{error}; or name another place with --journal") from None


def _beside(file: Path) -> Path:
    """Return the journal's default place; one by an earlier version's name is still found."""
    place = file.with_name(f"{file.name}{_SUFFIX}")
    earlier = file.with_name(f"{file.stem}{_SUFFIX}")
    return earlier if earlier.exists() and not place.exists() else place


def _is_lost(place: Path) -> bool:
    """Whether a file there would not outlive the machine's next start."""
    folder = place.parent.resolve()
    devices = (Path("/dev"), Path("/proc"))
    return any(folder.is_relative_to(one) for one in devices) and not folder.is_relative_to(
        "/dev/shm"  # noqa: S108 - a user's own choice, for tests
    )
