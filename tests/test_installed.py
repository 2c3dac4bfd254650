"""What must hold of an installed copy, with the four dependencies and pytest alone.

Also run outside the checkout, against the built wheel: it may use nothing of the checkout.
"""

import asyncio
import json
import subprocess
import sys
from importlib import metadata, resources
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import kling_async
from kling_async import KlingClient, MasterTextToVideo, __version__
from kling_async.testing import Emulator
from kling_async.testing.clock import VirtualLoop

SCRIPTS = Path(sys.executable).parent

# Seconds after which a program is taken to hang; tests/patience.py is not at hand here.
_HANGS = 600.0


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=_HANGS)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_imported_package_is_the_installed_one() -> None:
    """The package comes from where its metadata says, not from the folder it is run in."""
    installed = metadata.distribution("kling-async")
    origin = json.loads(installed.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        place = Path(url2pathname(urlsplit(origin["url"]).path))
    else:
        place = Path(str(installed.locate_file("")))
    assert kling_async.__file__ is not None
    assert Path(kling_async.__file__).resolve().parent.parent == place.resolve()


def test_version_is_that_of_the_metadata() -> None:
    """The package has the version it was installed as."""
    assert __version__ == metadata.version("kling-async")


def test_licence_is_named() -> None:
    """The metadata names the licence by its SPDX expression."""
    assert metadata.metadata("kling-async")["License-Expression"] == "MIT"


def test_only_the_four_dependencies_are_required() -> None:
    """Without extras, exactly four packages are asked for."""
    required = [line for line in metadata.requires("kling-async") or () if "extra ==" not in line]
    assert sorted(line.split(">=")[0] for line in required) == [
        "aiohttp",
        "aiolimiter",
        "attrs",
        "cattrs",
    ]


def test_data_files_are_there() -> None:
    """The type marker, the small video and the demo's samples are installed."""
    files = resources.files("kling_async")
    assert files.joinpath("py.typed").is_file()
    testing = files.joinpath("testing")
    assert testing.joinpath("small.mp4").read_bytes()[4:8] == b"ftyp"
    rows = testing.joinpath("samples", "demo.jsonl").read_text(encoding="utf-8").splitlines()
    assert {"kling-2-1", "kling-3-0-turbo"} <= {json.loads(row)["model"] for row in rows}


def test_command_explains_itself() -> None:
    """`kling-async --help` names the command, without any extra installed."""
    assert "kling-async" in _run(str(SCRIPTS / "kling-async"), "--help")


def test_module_prints_its_version() -> None:
    """`python -m kling_async --version` prints the version."""
    assert __version__ in _run(sys.executable, "-m", "kling_async", "--version")


def test_one_video_from_end_to_end(tmp_path: Path) -> None:
    """A generation against the emulator ends in an MP4 file on disk."""

    async def generate() -> tuple[Path, ...]:
        async with (
            Emulator(video="small") as emulator,
            KlingClient(api_key=emulator.key, base_url=emulator.base_url) as kling,
        ):
            result = await kling.generate(MasterTextToVideo("a fox in fresh snow"))
            return tuple(await kling.download(result, tmp_path))

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        (file,) = runner.run(generate())
    assert file.parent == tmp_path
    assert file.read_bytes()[4:8] == b"ftyp"
