from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from kling_async.inputs.registry import DEFAULT_MODES

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Command
    from tests.conftest import ServeApp

INDEX = [
    {
        "model_id": "kling-9",
        "title": "Kling 9 \x1b[31m",
        "category": "video",
        "schema_path": "9.json",
    },
    {"model_id": "kling-2-6", "title": "Kling 2.6", "schema_path": "26.json"},
    {"model_id": "kling-8"},
]
SCHEMA = {"type": "object", "required": ["prompt"]}


@pytest.fixture
async def vendor(
    serve_app: ServeApp, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> dict[str, bytes]:
    """Serve a list of models and a schema; what is not in the dictionary is not found."""
    files = {"/index.json": json.dumps(INDEX).encode(), "/9.json": json.dumps(SCHEMA).encode()}

    async def handler(request: web.Request) -> web.Response:
        if request.path not in files:
            raise web.HTTPNotFound
        return web.Response(body=files[request.path])

    monkeypatch.setenv("APIXO_MODELS_URL", f"{await serve_app(handler)}/index.json")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return files


async def test_list_of_the_vendor(command: Command, vendor: dict[str, bytes]) -> None:
    """The models with classes are listed first, then those of the vendor's list alone."""
    ended = await command("models")
    lines = ended.out.splitlines()
    assert [line.split()[0] for line in lines] == [*DEFAULT_MODES, "kling-8", "kling-9"]
    assert lines[2].split(None, 1)[1] == "text-to-video, image-to-video"
    assert lines[-1].split(None, 1)[1] == "Kling 9 \\x1b[31m · video"
    assert ended.err.startswith("http://127.0.0.1:")
    objects = {one["model"]: one for one in (await command("models", "--json")).objects}
    assert objects["kling-9"]["schema_url"].endswith("/9.json")
    assert objects["kling-2-6"]["title"] == "Kling 2.6"
    assert {name for name, one in objects.items() if one["listed"]} == {
        *("kling-2-6", "kling-8", "kling-9")
    }


async def test_schemas(command: Command, vendor: dict[str, bytes]) -> None:
    """The schema of a model is the vendor's; if that is not available, the one of its classes."""
    ended = await command("models", "kling-9")
    assert json.loads(ended.out) == SCHEMA
    assert ended.err.count("http://127.0.0.1:") == 2
    (fields,) = (await command("models", "kling-9", "--json")).objects
    assert fields["schema"] == SCHEMA
    ended = await command("models", "kling-2-6")
    assert json.loads(ended.out)["title"] == "kling-2-6"
    assert "without the vendor's schema" in ended.err
    (fields,) = (await command("models", "kling-2-1", "--json")).objects
    assert fields["schema_url"] is None
    assert len(fields["schema"]["oneOf"]) == 4


@pytest.mark.parametrize(
    ("model", "message"),
    [("kling-8", "its schema is not available"), ("a\x1b/b", "is not in the list of models")],
)
async def test_models_without_a_schema(
    command: Command, vendor: dict[str, bytes], model: str, message: str
) -> None:
    """Without any schema, the exit code is that of a wrong input."""
    ended = await command("models", model)
    assert ended.code == 2
    assert message in ended.err
    assert "\x1b" not in ended.err


async def test_the_kept_list(command: Command, vendor: dict[str, bytes]) -> None:
    """If the vendor does not answer, the kept list is shown, with its date."""
    await command("models")
    del vendor["/index.json"]
    ended = await command("models")
    assert "kling-9" in ended.out
    assert "it is not available now: HTTP 404" in ended.err


@pytest.mark.parametrize("listed", [b"[]", b'"maintenance"', b'{"error": "busy"}', b"[{}]"])
async def test_a_list_without_models(
    command: Command, vendor: dict[str, bytes], listed: bytes
) -> None:
    """A list without models does not replace the kept one."""
    await command("models")
    vendor["/index.json"] = listed
    for _ in range(2):
        ended = await command("models")
        assert "kling-9" in ended.out
        assert "it is not available now: it lists no models" in ended.err


async def test_what_is_no_schema(command: Command, vendor: dict[str, bytes]) -> None:
    """What is no schema does not replace the kept one."""
    await command("models", "kling-9")
    vendor["/9.json"] = b'"maintenance"'
    ended = await command("models", "kling-9")
    assert json.loads(ended.out) == SCHEMA
    assert "it is not available now: it is not a JSON object" in ended.err


@pytest.mark.parametrize("url", ["", "http://127.0.0.1:1/index.json"])
async def test_without_the_vendor(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str
) -> None:
    """Without the vendor's list, the models with classes are listed, and the exit code is 0."""
    monkeypatch.setenv("APIXO_MODELS_URL", url)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ended = await command("models")
    assert ended.code == 0
    assert [line.split()[0] for line in ended.out.splitlines()] == [*DEFAULT_MODES]
    assert ("without the vendor's list" in ended.err) == bool(url)
    objects = (await command("models", "--json")).objects
    assert {one["listed"] for one in objects} == {None}


async def test_unknown_model_without_the_vendor(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """If the list could not be fetched, that is said before a model is called unknown."""
    monkeypatch.setenv("APIXO_MODELS_URL", "http://127.0.0.1:1/index.json")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ended = await command("models", "kling-9")
    assert ended.code == 2
    missing, unknown = ended.err.splitlines()
    assert missing.startswith("without the vendor's list of models")
    assert "is not in the list of models" in unknown
