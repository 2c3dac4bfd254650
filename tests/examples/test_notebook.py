"""The guide's notebook: run in a kernel, against an emulator, and looked at in a browser."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from kling_async import (
    ContactSheet,
    MasterTextToVideo,
    Outcome,
    Result,
    StandardImageToVideo,
    TaskFailedError,
    TaskRef,
)
from kling_async.testing import Emulator
from tests.processes import unmeasured
from tests.test_examples import ROOT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import Browser, Page

GUIDES = ROOT / "docs" / "guides"
NOTEBOOK = GUIDES / "notebook.ipynb"
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
WIDTHS = (1280, 390, 320)

# Neither text nor URLs may run, be loaded, or make the page wider.
TEXT = "\"><script>console.log('run')</script>" + "river " * 200
URLS = ("javascript:console.log('run')", "http://10.0.0.1/" + "c" * 300)
REF = TaskRef("kling-2-1", "task_" + "x" * 120)
HOSTILE = [
    Outcome(0, MasterTextToVideo(TEXT, negative_prompt=TEXT[:500]), error=TaskFailedError(TEXT)),
    Outcome(1, StandardImageToVideo(TEXT, URLS[1]), REF, Result(REF, URLS), key=TEXT),
]

# Numbers of names that are not above their values, and of links that do not look like any.
OVERLAPPING = """() => [...document.querySelectorAll(".timings div")].filter(
  ({firstChild: name, lastChild: value}) =>
    name.getBoundingClientRect().bottom > value.getBoundingClientRect().top).length"""
NOT_UNDERLINED = """() => [...document.querySelectorAll(".timings a")].filter(
  (link) => getComputedStyle(link).textDecorationLine !== "underline").length"""

PAGE = """<!doctype html>
<html lang="en" data-jp-theme-light="{light}"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>A notebook</title>
<style>
body {{ margin: 0; padding: 8px; background: {ground}; color: {ink}; font: 14px sans-serif }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere }} ul {{ padding-left: 3em }}
/* As in JupyterLab. */
.jp-OutputArea-output dl {{ width: 100%; overflow: hidden }}
.jp-OutputArea-output dt {{ float: left; width: 20%; font-weight: bold }}
.jp-OutputArea-output dd {{ float: left; width: 80% }}
.jp-RenderedHTMLCommon a:link {{ text-decoration: none }}
</style></head>
<body><main class="jp-OutputArea-output jp-RenderedHTMLCommon">
<h1>A notebook</h1>{cells}</main></body></html>
"""


def test_the_notebook_is_the_page() -> None:
    """The notebook has the text and the code of its page: `python docs/guides/make_notebook.py`."""
    namespace: dict[str, Any] = {"__name__": "made", "__file__": str(GUIDES / "make_notebook.py")}
    exec((GUIDES / "make_notebook.py").read_text(encoding="utf-8"), namespace)  # noqa: S102
    made = namespace["make_notebook"]((GUIDES / "notebook.md").read_text(encoding="utf-8"))
    assert namespace["to_text"](made) == NOTEBOOK.read_text(encoding="utf-8")


@pytest.fixture
async def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Path]:
    """Run the notebook in an empty folder, where it is stored with its outputs."""
    pytest.importorskip("ipykernel")
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    for name in os.environ.keys() - unmeasured().keys():  # the kernel inherits the environment
        monkeypatch.delenv(name)
    # The files of IPython and Jupyter are the test's own.
    for name in ("HOME", "IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home" / name))
    kernels = tmp_path / "home" / "kernels" / "python3"
    kernels.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": command, "display_name": "Python 3", "language": "python"}
    (kernels / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "home"))
    folder = tmp_path / "notebook"
    folder.mkdir()
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    async with Emulator(speed=30, video="small") as emulator:
        monkeypatch.setenv("APIXO_API_KEY", emulator.key)
        monkeypatch.setenv("APIXO_BASE_URL", emulator.origin)
        monkeypatch.setenv("KLING_FIRST_POLL", "1")
        client = nbclient.NotebookClient(notebook, resources={"metadata": {"path": str(folder)}})
        await client.async_execute()
        nbformat.write(notebook, folder / "notebook.ipynb")
        yield folder


def _outputs(folder: Path) -> list[list[dict[str, Any]]]:
    """Return the outputs of each cell with code."""
    notebook = json.loads((folder / "notebook.ipynb").read_text(encoding="utf-8"))
    return [cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code"]


def _to_html(output: dict[str, Any]) -> str:
    """Return an output as Jupyter shows it."""
    data = output.get("data", {})
    if "text/html" in data:
        return "".join(data["text/html"])
    text = "".join(data.get("text/plain", output.get("text", "")))
    return f"<pre>{escape(text)}</pre>"


@pytest.fixture
async def origin(folder: Path) -> AsyncIterator[str]:
    """Serve the outputs of the notebook as a page for each theme, and the files beside it."""
    cells = "".join(_to_html(output) for cell in _outputs(folder) for output in cell)
    cells += ContactSheet(HOSTILE)._repr_html_()
    for theme, light, ground, ink in (
        ("light", "true", "#fff", "#111"),
        ("dark", "false", "#111", "#eee"),
    ):
        page = PAGE.format(light=light, ground=ground, ink=ink, cells=cells)
        (folder / f"{theme}.html").write_text(page, encoding="utf-8")

    async def answer_nothing(_: web.Request) -> web.Response:
        return web.Response(status=204)

    app = web.Application()
    app.router.add_get("/favicon.ico", answer_nothing)
    app.router.add_static("/", folder)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.mark.slow
async def test_the_notebook_runs(folder: Path) -> None:
    """Progress is a block that remains, a result is a player, and outcomes are a contact sheet."""
    _, one, many, files, saved, _ = _outputs(folder)
    block, player = map(_to_html, one)
    assert "a fox in fresh snow" in block
    assert ">done</span>" in block
    assert '<video src="http://127.0.0.1:' in player
    block, sheet = map(_to_html, many)
    assert block.count(">done</span>") == 3
    assert sheet.count("<video ") == 3
    (sheet,) = map(_to_html, files)
    assert sheet.count('<source src="./videos/task_') == 3
    assert "videos/index.html" in _to_html(saved[0])
    assert len(list((folder / "videos").glob("*.mp4"))) == 3
    size = len((folder / "notebook.ipynb").read_text(encoding="utf-8"))
    assert size < 100_000


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.slow
async def test_the_notebook_in_a_browser(origin: str, folder: Path, tmp_path: Path) -> None:
    """Videos can be played, nothing is wider than a phone, axe finds no fault in either theme."""
    async_playwright = pytest.importorskip("playwright.async_api").async_playwright
    artifacts = Path(os.environ.get("KLING_ARTIFACTS") or tmp_path)
    artifacts.mkdir(parents=True, exist_ok=True)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for theme in ("light", "dark"):
            for width in WIDTHS:
                picture = artifacts / f"{theme}-{width}.png"
                await _look(browser, f"{origin}/{theme}.html", width, picture)
        await _look(browser, f"{origin}/videos/index.html", 1280, artifacts / "page.png")
        await browser.close()


async def _look(browser: Browser, url: str, width: int, picture: Path) -> None:
    """Check one page at one width, and take a picture of it."""
    axe = pytest.importorskip("axe_core_python.async_playwright").Axe()
    context = await browser.new_context(viewport={"width": width, "height": 900})
    page: Page = await context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    await page.goto(url)
    ready = "() => [...document.querySelectorAll('video')].every((video) => video.readyState > 0)"
    async with asyncio.timeout(60):
        await page.wait_for_function(ready)
    await page.screenshot(path=picture, full_page=True)
    overflow = "document.documentElement.scrollWidth - window.innerWidth"
    assert await page.evaluate(overflow) == 0, (url, width)
    assert await page.evaluate(OVERLAPPING) == 0, (url, width)
    assert await page.evaluate(NOT_UNDERLINED) == 0, (url, width)
    found = await axe.run(page)
    assert [each["id"] for each in found["violations"]] == [], (url, width, found["violations"])
    assert said == []
    await context.close()
