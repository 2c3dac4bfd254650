from __future__ import annotations

import re
from pathlib import Path

import pytest

from kling_async.cli import exit_codes
from kling_async.errors import (
    AnswerLostError,
    AuthenticationError,
    ConfigurationError,
    ConnectError,
    DownloadError,
    InputError,
    JournalError,
    KlingError,
    MissingExtraError,
    ResultExpiredError,
    ServerError,
    StorageError,
    TaskFailedError,
    TaskTimeoutError,
)
from kling_async.results import TaskRef

REF = TaskRef("kling-2-1", "task_1")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (AuthenticationError("no"), 1),
        (ConnectError("no"), 1),
        (TaskFailedError("no", ref=REF), 1),
        (InputError("no"), 2),
        (ConfigurationError("no"), 2),
        (MissingExtraError("no"), 2),
        (TaskTimeoutError("no", ref=REF), 3),
        (AnswerLostError("no", may_have_charged=True), 4),
        (ServerError("no", may_have_charged=True), 4),
        (AnswerLostError("no", ref=REF), 1),
        (DownloadError("no", ref=REF), 5),
        (StorageError("no", ref=REF), 5),
        (StorageError("no"), 1),
        (ResultExpiredError("no", ref=REF), 5),
        (JournalError("no"), 6),
        (JournalError("no", may_have_charged=True), 6),
        (exit_codes.OutputError("no", ref=REF), 7),
    ],
)
def test_exit_code_of_an_error(error: KlingError, code: int) -> None:
    """Each kind of error ends a command with its documented code."""
    assert exit_codes.exit_code_of(error) == code


def test_every_code_has_a_meaning() -> None:
    """The help names all of the codes that there are."""
    assert list(exit_codes.MEANINGS) == [0, 1, 2, 3, 4, 5, 6, 7, 130]


def test_guide_has_the_same_table() -> None:
    """The guide explains every code that the help names."""
    guide = Path(__file__).parents[2] / "docs" / "guides" / "command-line.md"
    table = re.findall(r"^\| (\d+) \| (.+) \|$", guide.read_text(encoding="utf-8"), re.MULTILINE)
    assert {int(code): words for code, words in table} == exit_codes.MEANINGS
