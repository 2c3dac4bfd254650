"""The emulator's page in a real browser, on real time."""

from __future__ import annotations

import json
import os
import re
import shutil
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kling_async.testing import Emulator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

try:
    from axe_core_python.sync_playwright import Axe
    from playwright.sync_api import expect, sync_playwright
except ModuleNotFoundError:
    pytest.skip("no Playwright: pip install playwright axe-core-python", allow_module_level=True)

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
if CHROMIUM is None:
    pytest.skip(f"none of {', '.join(NAMES)}: apt-get install chromium", allow_module_level=True)

FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
# Milliseconds. All waits are for conditions; this is for machines that are very busy.
PATIENCE = 20_000
expect.set_options(timeout=PATIENCE)

HOSTILE = "<img src=x onerror=alert(1)></script><script>alert(2)</script> \u202e" + "W" * 300


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start the system's Chromium, once for all tests."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """Run an emulator whose tasks end when they are finished by the test."""
    with Emulator(duration=lambda _: 1e6, video="small") as emulator:
        yield emulator


def submit(emulator: Emulator, prompt: str) -> None:
    """Start a task."""
    body = {"input": {"mode": "master-text-to-video", "prompt": prompt}}
    request = urllib.request.Request(  # noqa: S310 - of the emulator
        f"{emulator.base_url}/generateTask/kling-2-1",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {emulator.key}"},
    )
    with urllib.request.urlopen(request):  # noqa: S310 - of the emulator
        pass


def open_page(browser: Browser, emulator: Emulator, said: list[str], **options: object) -> Page:
    """Open the page; whatever its console says is added to the list."""
    context = browser.new_context(**options)  # type: ignore[arg-type] # as the caller says
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.goto(emulator.origin)
    expect(page.locator("#exports")).to_contain_text("export APIXO_BASE_URL")
    return page


def test_it_follows_the_emulator(browser: Browser, emulator: Emulator) -> None:
    """Tasks appear and end by themselves, in the elements that are there; prompts are text."""
    said: list[str] = []
    page = open_page(browser, emulator, said)
    expect(page.get_by_text("No tasks yet")).to_be_visible()
    submit(emulator, HOSTILE)
    card = page.locator("#tasks li")
    expect(card).to_have_count(1)
    expect(card.locator(".prompt")).to_have_text(HOSTILE[:300])
    expect(card.locator("progress")).to_be_visible()
    element = card.element_handle()
    card.evaluate("(card) => card.append('still the same')")
    submit(emulator, "another")
    expect(page.locator("#tasks li")).to_have_count(2)
    emulator.finish_tasks()
    expect(page.locator(".state[data-state=success]")).to_have_count(2)
    assert element is not None
    assert element.evaluate("(card) => card.isConnected && card.textContent.includes('still')")
    link = page.get_by_role("link", name=re.compile("Open video of task_")).first
    with page.context.expect_page() as opened:
        link.click()
    assert opened.value.url.endswith(".mp4")
    expect(page.locator("#charged")).to_have_text("2 tasks, 2.40 USD")
    emulator.__exit__(None, None, None)
    expect(page.locator("#connection")).to_contain_text("does not answer")
    emulator.__enter__()  # on the same port
    expect(page.locator("#connection")).to_be_empty()
    assert [line for line in said if "net::ERR_" not in line] == []


def test_faults_are_switched_on(browser: Browser, emulator: Emulator) -> None:
    """A fault is chosen, switched on and off; a mistake is explained; commands are copied."""
    said: list[str] = []
    page = open_page(browser, emulator, said, permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("combobox", name="For").select_option("task")
    page.get_by_role("combobox", name="Fault").select_option("fail")
    page.get_by_label("Which").fill("*")
    page.get_by_role("button", name="Copy the command that switches the fault on").click()
    expect(page.get_by_text("Copied").first).to_be_visible()
    command = page.evaluate("navigator.clipboard.readText()")
    assert command == f"curl -d 'task:*=fail:NSFW_DETECTED' {emulator.origin}/faults"
    page.get_by_role("button", name="Switch on").click()
    expect(page.locator("#active")).to_have_text("task:*=fail:NSFW_DETECTED")
    submit(emulator, "a fox")
    emulator.finish_tasks()
    expect(page.locator(".failure")).to_have_text(re.compile("^NSFW_DETECTED"))
    page.get_by_label("Which").fill("0")
    page.get_by_role("button", name="Switch on").click()
    expect(page.get_by_role("alert")).to_contain_text("numbers start at 1")
    page.get_by_role("button", name="Switch all off").click()
    expect(page.get_by_text("No fault is switched on.")).to_be_visible()
    assert [line for line in said if "400" not in line] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390, 320])
def test_it_is_accessible(
    width: int, scheme: str, browser: Browser, emulator: Emulator, tmp_path: Path
) -> None:
    """axe-core reports nothing, nothing is wider than the window, and controls are large enough."""
    said: list[str] = []
    emulator.add_fault("task", 2, "fail:NSFW_DETECTED")
    emulator.add_fault("task", 3, "stuck")
    for prompt in ("a fox in fresh snow", HOSTILE, "a lighthouse"):
        submit(emulator, prompt)
    emulator.finish_tasks()
    submit(emulator, "a city at night")
    page = open_page(
        browser,
        emulator,
        said,
        viewport={"width": width, "height": 900},
        color_scheme=scheme,
        bypass_csp=True,  # axe is added as a script
    )
    expect(page.locator("#tasks li")).to_have_count(4)
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    for control in page.locator("button:visible, select:visible, input:visible, a:visible").all():
        box = control.bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) >= 24, control
    violations = Axe().run(page)["violations"]
    assert [one["id"] for one in violations] == []
    folder = Path(os.environ.get("KLING_ARTIFACTS") or tmp_path)
    page.screenshot(path=folder / f"emulator-{width}-{scheme}.png", full_page=True)
    assert said == []
