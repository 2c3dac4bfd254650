from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from kling_async import Item, MasterTextToVideo, parse_input
from kling_async.batch.manifest import (
    archive_manifests,
    manifest_of,
    manifest_schema,
    write_manifests,
)
from kling_async.download.archive import Archive
from kling_async.journal.base import Entry, ItemState
from kling_async.results import MediaFacts, MediaProblem, Result, SavedFile, TaskRef

if TYPE_CHECKING:
    from pathlib import Path

    from tests.batch.conftest import RunBatch
    from tests.conftest import Connect, Emulate

NOW = datetime(2026, 1, 2, tzinfo=UTC)
REF = TaskRef("kling-2-1", "task_1")
FOX = MasterTextToVideo("a fox \u00e4", duration=10)
URL = "https://cdn.example.com/a.mp4?signature=secret"
MEDIA = MediaFacts(10.0, 640, 360, 24.0, has_sound=False, problems=(MediaProblem.FROZEN,))
FILE = SavedFile(URL, "fox.mp4", 7, "0" * 64, MEDIA)
VALIDATOR = Draft202012Validator(
    manifest_schema(), format_checker=Draft202012Validator.FORMAT_CHECKER
)


def entry(text: str = "a fox", result: Result | None = None) -> Entry:
    """Return the entry of an item in a journal."""
    sent = MasterTextToVideo(text).to_dict()
    return Entry("fox", sent, ItemState.SAVED, 2, NOW, REF, result, files=(FILE,))


@pytest.mark.virtual_time
async def test_beside_each_video(
    emulate: Emulate, connect: Connect, tmp_path: Path, run: RunBatch
) -> None:
    """A batch writes a manifest beside each video, which satisfies the published schema."""
    folder = tmp_path / "videos"
    client = await connect(await emulate())
    (outcome,) = await run(client, [Item("fox", FOX)], download_to=folder)
    manifest = json.loads((folder / "fox.mp4.json").read_text(encoding="utf-8"))
    VALIDATOR.validate(manifest)
    assert parse_input(manifest["input"]) == FOX
    assert manifest["sha256"] == sha256((folder / "fox.mp4").read_bytes()).hexdigest()
    assert manifest["ref"] == str(outcome.task_ref)
    assert (manifest["file"], manifest["key"], manifest["attempts"]) == ("fox.mp4", "fox", 1)
    assert manifest["media"] is None
    assert sorted(path.name for path in folder.iterdir()) == ["fox.mp4", "fox.mp4.json"]


@pytest.mark.virtual_time
async def test_switched_off(
    emulate: Emulate, connect: Connect, tmp_path: Path, run: RunBatch
) -> None:
    """Without manifests there are only videos."""
    folder = tmp_path / "videos"
    client = await connect(await emulate())
    await run(client, [Item("fox", FOX)], download_to=folder, manifest="none")
    assert [path.name for path in folder.iterdir()] == ["fox.mp4"]


def test_all_that_is_known() -> None:
    """A manifest has the facts of the video, and the times; it has no signed URL."""
    result = Result(REF, (URL,), created_at=NOW, completed_at=NOW, cost_time=61.5)
    manifest = manifest_of(entry(result=result), FILE, NOW)
    VALIDATOR.validate(manifest)
    assert manifest["media"] == MEDIA.to_dict()
    assert manifest["completed_at"] == manifest["saved_at"] == "2026-01-02T00:00:00+00:00"
    assert manifest["cost_time"] == 61.5
    assert "secret" not in json.dumps(manifest)


def test_little_is_known() -> None:
    """What is not known is null."""
    manifest = manifest_of(entry(), SavedFile(URL, "fox.mp4", 7, "0" * 64), NOW)
    VALIDATOR.validate(manifest)
    assert manifest["completed_at"] is None


@pytest.mark.parametrize("text", ["a fox", "a lone surrogate \ud800"])
def test_what_cannot_be_written(
    text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A manifest that cannot be written is a warning: the video is saved and paid for."""
    folder = tmp_path / "none" if text == "a fox" else tmp_path
    given = Entry("fox", {"prompt": text}, ItemState.SAVED, 1, NOW, REF)
    with caplog.at_level(logging.WARNING):
        write_manifests(folder, given, [FILE], NOW)
    assert "cannot write the manifest" in caplog.text
    assert list(tmp_path.iterdir()) == []


async def test_what_an_archive_does_not_take(caplog: pytest.LogCaptureFixture) -> None:
    """In an archive it is a warning, too."""
    given = Entry("fox", {"prompt": "\ud800"}, ItemState.SAVED, 1, NOW, REF)
    with caplog.at_level(logging.WARNING):
        await archive_manifests(Archive("s3://bucket"), given, [FILE], NOW)
    assert "cannot write the manifest s3://bucket/fox.mp4.json" in caplog.text
