"""The example's page in a real browser, on real time."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.request import Request, urlopen

import pytest
import pytest_asyncio

from tests.patience import HANGS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import Browser, Locator, Page, Route

    from tests.examples.conftest import Running, Service, Start

try:
    from playwright.async_api import async_playwright, expect
except ModuleNotFoundError:
    pytest.skip("no Playwright: pip install playwright", allow_module_level=True)

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
if CHROMIUM is None:
    pytest.skip(f"none of {', '.join(NAMES)}: apt-get install chromium", allow_module_level=True)

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
]

# What Chromium itself writes of answers that are errors, and of connections that are lost.
REFUSED = "Failed to load resource: the server responded with a status of 422"
LOST = "Failed to load resource: net::ERR_"

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Milliseconds. All waits are for conditions; this is for machines that are very busy.
PATIENCE = 120_000
expect.set_options(timeout=PATIENCE)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """Start the system's Chromium, once for all tests."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        await browser.close()


@pytest.fixture(scope="module")
def backend(start: Start, service: Service) -> Running:
    """Give a backend in which a video takes a second or two."""
    return start(service("--speed", "60"))


@pytest.fixture(scope="module")
def small_list(start: Start, service: Service) -> Running:
    """Give a backend with a video, one that failed, an unsure one, and one that runs."""
    rules = ("task:2=fail:NSFW_DETECTED", "submit:3=502", "task:3=stuck")
    backend = start(service("--speed", "60", *(f"--fault={rule}" for rule in rules)))
    for number in range(4):
        video = {"mode": "master-text-to-video", "prompt": f"take {number} of a fox in fresh snow"}
        request = Request(f"{backend.url}/videos", json.dumps(video).encode())  # noqa: S310
        request.add_header("Content-Type", "application/json")
        urlopen(request, timeout=HANGS).close()  # noqa: S310 - our own server
        states: list[str] = []
        while len(states) <= number or states[-1] in {"waiting", "sending"}:
            with urlopen(f"{backend.url}/videos", timeout=HANGS) as response:  # noqa: S310
                states = [video["state"] for video in json.load(response)]
    return backend


@pytest.fixture
def said() -> list[str]:
    """Collect what the browser's console and uncaught errors say."""
    return []


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser, said: list[str]) -> AsyncIterator[Page]:
    """Give an empty tab; whatever its console says, but for debugging, fails the test."""
    async with await browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        context.set_default_timeout(PATIENCE)
        page = await context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        yield page
    assert said == []


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    """Say where screenshots are kept."""
    folder = Path(os.environ.get("KLING_ARTIFACTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


async def ask(page: Page, prompt: str) -> Locator:
    """Send the form with this prompt; return the card of the video."""
    await page.get_by_label("What should happen?").fill(prompt)
    await page.keyboard.press("Control+Enter")
    card = page.locator(".card").filter(has_text=prompt)
    await expect(card).to_have_count(1)
    return card


async def plays(card: Locator) -> None:
    """Wait until the card's video moves."""
    await expect(card.locator("video")).to_have_count(1)
    moves = """(video) => new Promise((moves) => {
        const begun = video.currentTime;
        video.addEventListener("timeupdate", () => video.currentTime > begun + 0.1 && moves());
    })"""
    await card.scroll_into_view_if_needed()  # out of sight it does not play
    async with asyncio.timeout(PATIENCE / 1000):
        await card.locator("video").evaluate(moves)


async def overflow(page: Page) -> int:
    """Return by how many pixels the page is wider than the window."""
    width: int = await page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    return width


async def too_small(page: Page) -> list[str]:
    """Return what can be pressed and is less than 24 pixels wide or high."""
    small: list[str] = await page.evaluate(
        """[...document.querySelectorAll("a, button, textarea, input, video")]
        .filter((control) => control.checkVisibility())
        .filter((control) => Math.min(control.getBoundingClientRect().width,
                                      control.getBoundingClientRect().height) < 24)
        .map((control) => control.outerHTML)"""
    )
    return small


async def axe_violations(page: Page) -> list[str]:
    """Return what axe-core finds, with the elements; the page's policy is kept."""
    axe = pytest.importorskip("axe_core_python.async_playwright").Axe()
    results = await axe.run(page)
    return [
        f"{violation['id']}: {node['html']}"
        for violation in results["violations"]
        for node in violation["nodes"]
    ]


async def test_from_the_form_to_a_playing_video(
    start: Start, service: Service, page: Page, artifacts: Path
) -> None:
    """Prompt and shape are chosen, progress is seen, and the video plays by itself."""
    await page.goto(start(service("--speed", "60", "--video", "rendered")).url)
    await expect(page.get_by_text("Nothing yet")).to_be_visible()
    await page.get_by_label("What should happen?").fill("waves at dusk")
    await page.get_by_label("1:1").check()
    await page.get_by_role("button", name="Make video").click()
    card = page.locator(".card")
    await expect(card.get_by_role("progressbar", name="waves at dusk")).to_be_visible()
    await expect(page.get_by_text("Nothing yet")).to_be_hidden()
    await plays(card)
    video = card.locator("video")
    size = await video.evaluate("(video) => [video.videoWidth, video.videoHeight]")
    assert size[0] == size[1] > 0
    how = "(v) => [v.muted, v.loop, v.playsInline, v.controls, v.autoplay]"
    assert await video.evaluate(how) == [True] * 5
    await expect(card.locator(".progress")).to_be_hidden()
    await expect(page.locator("#news")).to_have_text("Ready: waves at dusk")
    await page.screenshot(path=artifacts / "backend-page.png")


async def test_several_at_once_and_a_failure_in_words(
    start: Start, service: Service, page: Page
) -> None:
    """Three videos progress at one time; two play, and of the third it is said what to do."""
    # Slow enough that the first still runs when the third was asked for on a busy machine.
    backend = start(service("--speed", "8", "--fault", "task:3=fail:NSFW_DETECTED"))
    await page.goto(backend.url)
    first = await ask(page, "a storm")
    await page.get_by_role("radio", name="sailboat").check()
    await page.get_by_label("Standard").check()
    second = await ask(page, "gulls circle")
    await page.get_by_label("Text only").check()
    third = await ask(page, "something else")
    await expect(page.locator(".stage.running")).to_have_count(3)
    await expect(second.locator("img")).to_be_visible()
    await expect(third.get_by_text("The content was refused")).to_be_visible()
    await expect(third.get_by_text("change the prompt or the picture")).to_be_visible()
    await expect(third.get_by_text("may have been charged")).to_be_visible()
    await plays(first)
    await plays(second)
    await expect(page.locator(".card .text")).to_have_text(
        ["something else", "gulls circle", "a storm"]
    )


async def test_broken_rules_stand_beside_their_fields(
    backend: Running, page: Page, said: list[str]
) -> None:
    """Without a prompt and a picture's address, both fields say so, and the first has the focus."""
    await page.goto(backend.url)
    await page.get_by_label("Your own").check()
    await page.get_by_role("button", name="Make video").click()
    prompt = page.get_by_label("What should happen?")
    await expect(page.locator("#prompt-error")).to_contain_text("1 to 5000 characters")
    await expect(page.locator("#image-error")).to_contain_text("absolute http(s) URL")
    await expect(prompt).to_have_attribute("aria-invalid", "true")
    await expect(prompt).to_be_focused()
    assert all(text.startswith(REFUSED) for text in said)
    said.clear()
    await page.get_by_label("Text only").check()
    await ask(page, "no complaint any more")
    await expect(page.locator("#prompt-error")).to_be_empty()
    await expect(prompt).not_to_have_attribute("aria-invalid", "true")


async def test_keyboard_is_enough(backend: Running, page: Page) -> None:
    """Tab and arrows reach every choice in the order of the form, and Enter sends it."""
    await page.goto(backend.url)
    await expect(page.locator(".picture img")).to_have_count(7)
    keys = page.keyboard
    await keys.press("Tab")
    await expect(page.get_by_label("What should happen?")).to_be_focused()
    await keys.type("by keyboard alone")
    await keys.press("Tab")
    await keys.press("ArrowRight")
    await expect(page.get_by_role("radio", name="balloon")).to_be_checked()
    await keys.press("Tab")
    await keys.press("ArrowLeft")
    await expect(page.get_by_label("Pro", exact=True)).to_be_checked()
    ring = await page.get_by_text("Pro", exact=True).evaluate("(e) => getComputedStyle(e).outline")
    assert "solid 2px" in ring
    await keys.press("Tab")
    await expect(page.get_by_label("Picture at the end")).to_be_focused()
    await keys.press("Tab")
    await keys.press("ArrowRight")
    await expect(page.get_by_label("10 s")).to_be_checked()
    await keys.press("Tab")
    await expect(page.get_by_role("button", name="Make video")).to_be_focused()
    await keys.press("Enter")
    card = page.locator(".card").filter(has_text="by keyboard alone")
    await expect(card.locator(".chips")).to_have_text("Pro, from a picture10 s")
    await expect(card.locator(".again")).to_be_visible()


async def test_phone_needs_no_sideways_scrolling(
    backend: Running, page: Page, artifacts: Path
) -> None:
    """At 360 pixels nothing is cut off, however long a word is; text of a prompt is no markup."""
    await page.set_viewport_size({"width": 360, "height": 740})
    await page.goto(backend.url)
    assert await overflow(page) == 0
    word = "<b>unbreakable</b>" + "x" * 300
    card = await ask(page, word)
    assert await overflow(page) == 0
    await expect(card.locator(".text")).to_have_text(word)
    await page.get_by_label("Your own").check()
    await page.get_by_label("Address of the picture").fill("http://127.0.0.1:1/" + "y" * 300)
    failed = await ask(page, "no picture there")
    await expect(failed.get_by_text("The picture cannot be used")).to_be_visible()
    await expect(card.locator("video")).to_be_visible()
    assert await overflow(page) == 0
    await page.screenshot(path=artifacts / "backend-phone.png", full_page=True)


async def test_reload_keeps_the_list(backend: Running, page: Page) -> None:
    """A page that is loaded again shows what was asked for before, and plays what is ready."""
    await page.goto(backend.url)
    await ask(page, "still here after a reload")
    await page.reload()
    card = page.locator(".card").filter(has_text="still here after a reload")
    await expect(card.locator("video")).to_be_visible()
    await card.get_by_role("button", name="Use again").click()
    await expect(page.get_by_label("What should happen?")).to_have_value(
        "still here after a reload"
    )


async def test_hidden_page_leaves_its_connection(backend: Running, page: Page) -> None:
    """A tab that is not seen has no stream, and is up to date when it is seen again."""
    await page.goto(backend.url)
    await ask(page, "asked before")
    hide = """(hidden) => {
        Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    await page.evaluate(hide, True)  # noqa: FBT003 - an argument of the script
    fox = {"mode": "master-text-to-video", "prompt": "asked elsewhere"}
    response = await page.request.post(f"{backend.url}/videos", data=fox)
    video = await response.json()
    while video["state"] != "done":
        video = await (await page.request.get(f"{backend.url}/videos/{video['id']}")).json()
    card = page.locator(".card").filter(has_text="asked elsewhere")
    await expect(card).to_have_count(0)
    await page.evaluate(hide, False)  # noqa: FBT003
    await plays(card)


async def test_page_recovers_from_a_killed_backend(
    start: Start, service: Service, page: Page, said: list[str]
) -> None:
    """A killed backend is noticed, and so is its return; then the video is made all the same."""
    emulated = service("--speed", "8")
    backend = start(emulated)
    await page.goto(backend.url)
    card = await ask(page, "survives")
    # The task has a reference; before, it may have been paid, and is not continued.
    await expect(card.locator(".facts")).to_have_text(re.compile(r"\w"))
    backend.process.kill()
    lost = page.get_by_role("status")
    await expect(lost).to_contain_text("The connection to the backend is lost")
    await page.get_by_label("What should happen?").fill("asked of the new one")
    await page.get_by_role("button", name="Make video").click()
    await expect(page.get_by_role("alert")).to_contain_text("gave no answer")
    port = backend.url.rpartition(":")[2]
    start(emulated, PORT=port, DATA_DIR=backend.environ["DATA_DIR"])
    await expect(lost).to_be_empty()
    await page.get_by_role("button", name="Make video").click()
    await plays(page.locator(".card").filter(has_text="asked of the new one"))
    await plays(card)
    assert all(text.startswith(LOST) for text in said)
    said.clear()


async def test_unsure_video_says_what_to_do(start: Start, service: Service, page: Page) -> None:
    """A submit whose answer was lost is shown as what may have been paid.

    It stays so when the backend's answer, of when the video was waiting, is the last to arrive.
    """
    emulated = service("--fault", "submit:*=502")
    await page.goto(start(emulated).url)
    card = page.locator(".card").filter(has_text="lost on the way")
    unsure = card.get_by_text("It may have been paid")
    answers: list[int] = []

    async def answer_late(route: Route) -> None:
        answer = await route.fetch()
        await expect(unsure).to_be_visible()
        await route.fulfill(response=answer)
        answers.append(answer.status)

    await page.route("**/videos", answer_late)
    await ask(page, "lost on the way")
    await expect(page.get_by_role("button", name="Make video")).not_to_be_disabled()
    await expect(unsure).to_be_visible()
    await expect(card.get_by_text("list of tasks")).to_be_visible()
    assert answers == [202]


async def test_any_input_has_a_card(backend: Running, page: Page) -> None:
    """What a client of the API asked for is shown, though the form could not ask for it."""
    await page.goto(backend.url)
    url = "https://example.com/cat"
    body = {"mode": "motion-control", "image_url": f"{url}.png", "video_url": f"{url}.mp4"}
    await page.request.post(f"{backend.url}/videos", data={"model": "kling-3-0-std", **body})
    card = page.locator(".card").filter(has_text="motion-control")
    await expect(card).to_be_visible()
    await expect(card.get_by_role("button", name="Use again")).to_be_hidden()
    await ask(page, "asked for by the form")


async def test_focus_goes_to_the_field_that_was_wrong(
    start: Start, service: Service, page: Page, said: list[str]
) -> None:
    """A refused address has the focus, not its radio button; so it has after a failed video."""
    await page.goto(start(service("--speed", "60")).url)
    await page.get_by_label("What should happen?").fill("a cat")
    await page.get_by_label("Your own").check()
    address = page.get_by_label("Address of the picture")
    await address.fill("cat.jpg")
    await page.get_by_role("button", name="Make video").click()
    await expect(page.locator("#image-error")).to_contain_text("absolute http(s) URL")
    await expect(address).to_be_focused()
    assert all(text.startswith(REFUSED) for text in said)
    said.clear()
    await address.fill("http://127.0.0.1:1/cat.jpg")
    await page.get_by_role("button", name="Make video").click()
    card = page.locator(".card")
    await expect(card.get_by_text("The picture cannot be used")).to_be_visible()
    await card.get_by_role("button", name="Use again").click()
    await expect(address).to_be_focused()
    await expect(page.locator("#image-error")).to_contain_text("The picture cannot be used")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390, 320])
async def test_page_is_accessible(
    small_list: Running,
    page: Page,
    said: list[str],
    artifacts: Path,
    width: int,
    scheme: Literal["light", "dark"],
) -> None:
    """axe-core reports nothing, nothing is cut off, and what can be pressed is 24 pixels high."""
    await page.set_viewport_size({"width": width, "height": 900})
    await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    await page.goto(small_list.url)
    await expect(page.locator(".card")).to_have_count(4)
    await expect(page.locator(".card video")).to_have_count(1)
    await page.get_by_label("Your own").check()
    await page.get_by_role("button", name="Make video").click()
    await expect(page.locator("#prompt-error")).to_contain_text("1 to 5000 characters")
    await page.screenshot(path=artifacts / f"backend-{width}-{scheme}.png", full_page=True)
    assert await overflow(page) == 0
    failures = page.locator(".failure:visible")
    cut = "(all) => all.map((one) => one.scrollHeight - one.closest('.stage').clientHeight)"
    assert max(await failures.evaluate_all(cut)) <= 0
    assert await too_small(page) == []
    assert await axe_violations(page) == []
    assert all(text.startswith(REFUSED) for text in said)
    said.clear()
