"""Tests of the application with FastAPI's TestClient."""

from collections.abc import Iterator

import pytest
from app import app
from fastapi.testclient import TestClient

from kling_async import KlingClient
from kling_async.testing import Emulator
from kling_async.webhooks import fastapi

FOX = {"mode": "master-text-to-video", "prompt": "a fox in fresh snow"}


@pytest.fixture
def http(kling_emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """The application, whose lifespan makes a client of the emulator."""
    for name, value in kling_emulator.environment.items():
        monkeypatch.setenv(name, value)
    with TestClient(app) as http:
        kling_emulator.deliver_callback = lambda url, body: http.post(url, content=body).status_code
        yield http


def test_a_video_is_made(http: TestClient, kling_emulator: Emulator) -> None:
    ref = http.post("/videos", json=FOX).json()
    assert http.get(f"/videos/{ref}").json()["result_urls"]
    assert len(kling_emulator.ledger) == 1


def test_an_empty_account(http: TestClient, kling_emulator: Emulator) -> None:
    kling_emulator.add_fault("submit", 1, "402")  # the next one
    answer = http.post("/videos", json=FOX)
    assert (answer.status_code, answer.json()["may_have_charged"]) == (503, False)


def test_a_client_in_place_of_the_lifespans(kling_client: KlingClient) -> None:
    async def client() -> KlingClient:
        return kling_client

    app.dependency_overrides[fastapi.client] = client
    http = TestClient(app)  # without "with", the lifespan does not run
    assert http.get(f"/videos/{http.post('/videos', json=FOX).json()}").status_code == 200
    app.dependency_overrides.clear()


def test_a_callback_ends_the_wait(
    kling_emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APIXO_BASE_URL", kling_emulator.origin)
    monkeypatch.setenv("APIXO_API_KEY", kling_emulator.key)  # no KLING_FIRST_POLL: no early polls
    with TestClient(app) as http:
        kling_emulator.deliver_callback = lambda url, body: http.post(url, content=body).status_code
        ref = http.post("/videos", json=FOX).json()
        assert http.get(f"/videos/{ref}").status_code == 200  # after 0.1 s: polls begin after 60 s
