"""The examples: every Python block of README and docs, and every example in a docstring.

A block is run as a reader would paste it: it reads its key from the environment, and calls
`asyncio.run`. Each document starts in an empty folder and has an emulator of its own as the
service, on one virtual-time loop, so that no example waits and none uses the network.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sybil import Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.myst import CodeBlockParser as MystCodeBlockParser
from sybil.parsers.rest import CodeBlockParser as RestCodeBlockParser
from sybil.parsers.rest import DocTestParser

from kling_async.testing import Emulator, VirtualLoop
from kling_async.testing.sample_files import FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sybil import Document, Example

ROOT = Path(__file__).parents[1]

# Pictures of that host are taken from the samples that the emulator serves.
PICTURE = re.compile(r"https://example\.com(/[\w-]+\.(?:jpg|png|webp|mp4))")


def run_block(example: Example) -> None:
    """Run one block of Python, with its pictures served by the emulator of the document."""
    block = example.parsed
    text = PICTURE.sub(rf"{example.namespace['_emulator'].origin}/samples\1", block)
    example.parsed = type(block)(text, block.offset, block.line_offset)
    PythonEvaluator()(example)


# Its blocks are pasted one at a time, by readers who have not seen the others.
ON_THEIR_OWN = "README.md"

# Blocks of `python` are run; those of other languages are not.
PARSERS = {
    ".md": Sybil([MystCodeBlockParser("python", run_block)]),
    ".py": Sybil([DocTestParser(), RestCodeBlockParser("python", run_block)]),
}
EXAMPLE = re.compile(r"^\s*>>> |code-block:: python|```python", re.MULTILINE)


def documents() -> list[str]:
    """Return the files with examples."""
    pages = [path for path in ROOT.glob("docs/**/*.md") if "_build" not in path.parts]
    paths = [ROOT / "README.md", *sorted(pages), *sorted(ROOT.glob("kling_async/**/*.py"))]
    return [
        str(path.relative_to(ROOT))
        for path in paths
        if EXAMPLE.search(path.read_text(encoding="utf-8"))
    ]


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """Run coroutines on one virtual-time loop."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        yield runner


@pytest.fixture
def emulator(runner: asyncio.Runner) -> Iterator[Emulator]:
    """Start an emulator that keeps running on the loop between the runs of that loop."""
    # The small video saves time; the model is one that only raw inputs reach.
    emulator = Emulator(samples=FOLDER, video="small", uploads=True, models=["kling-4-0"])
    runner.run(emulator.__aenter__())
    yield emulator
    runner.run(emulator.__aexit__(None, None, None))


@pytest.mark.examples
@pytest.mark.parametrize("name", documents())
def test_examples(
    name: str,
    runner: asyncio.Runner,
    emulator: Emulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The examples of a document run, in their order; the blocks of most share their names."""
    monkeypatch.setattr(asyncio, "run", runner.run)
    monkeypatch.setenv("APIXO_API_KEY", emulator.key)
    monkeypatch.setenv("APIXO_BASE_URL", emulator.origin)
    monkeypatch.setenv("KLING_IMAGE_STORE", emulator.image_store)
    monkeypatch.chdir(tmp_path)
    path = ROOT / name
    document: Document = PARSERS[path.suffix].parse(path)
    document.namespace["_emulator"] = emulator
    assert document.regions
    for example in document:
        if name == ON_THEIR_OWN:
            document.namespace.clear()
            document.namespace["_emulator"] = emulator
        try:
            example.evaluate()
        except BaseException as error:
            error.add_note(f"in the example at {name}:{example.line}")
            raise
