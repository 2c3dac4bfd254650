from __future__ import annotations

import pytest

from kling_async.cli.vendor_models import (
    INDEX_URL,
    VendorModel,
    check_schema,
    index_url,
    parse_index,
)
from kling_async.errors import ConfigurationError

ENTRY = {
    "model_id": "kling-9",
    "slug": "kling-9",
    "category": "video",
    "title": "Kling 9",
    "integration_type": "async",
    "schema_path": "kling-9.json",
    "doc_path": "/docs/kling-9",
}
SCHEMAS = "https://apixo.ai/docs/models/schemas"
MODEL = VendorModel("kling-9", "Kling 9", "video", f"{SCHEMAS}/kling-9.json")


@pytest.mark.parametrize(
    "value",
    [
        [ENTRY],
        {"models": [ENTRY]},
        {"errors": [], "models": [ENTRY]},
        {"version": 1, "models": [ENTRY, 5, None, {}]},
        [{**ENTRY, "model_id": "a/b"}, {**ENTRY, "model_id": 5}, ENTRY],
    ],
)
def test_lists(value: object) -> None:
    """A list is an array or in an object; entries without a usable name are left out."""
    assert parse_index(value, INDEX_URL) == [MODEL]


@pytest.mark.parametrize("value", [None, 5, "x", {}, [], {"models": {}}, [[]]])
def test_what_is_no_list(value: object) -> None:
    """Any other value has no models, which is an error."""
    with pytest.raises(ValueError, match="it lists no models"):
        parse_index(value, INDEX_URL)


@pytest.mark.parametrize("value", [None, 5, "x", [], True])
def test_what_is_no_schema(value: object) -> None:
    """The schema of a model's inputs is a JSON object."""
    check_schema({})
    with pytest.raises(ValueError, match="not a JSON object"):
        check_schema(value)


def test_long_lists() -> None:
    """Lists and texts are bounded."""
    entries = [{"model_id": f"m{index}", "title": "x" * 999} for index in range(3000)]
    models = parse_index(entries, INDEX_URL)
    assert len(models) == 2000
    assert models[0] == VendorModel("m0", "x" * 80)


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("kling-9.json", f"{SCHEMAS}/kling-9.json"),
        ("/schemas/kling-9.json", "https://apixo.ai/schemas/kling-9.json"),
        ("https://apixo.ai/x.json", "https://apixo.ai/x.json"),
        ("http://apixo.ai/x.json", ""),
        ("https://apixo.ai:8443/x.json", ""),
        ("https://apixo.ai@evil.example/x.json", ""),
        ("//evil.example/x.json", ""),
        ("file:///etc/passwd", ""),
        ("http://169.254.169.254/latest", ""),
        ("https://[", ""),
        ("a b", ""),
        ("", ""),
        (None, ""),
        (["x"], ""),
    ],
)
def test_schemas_are_of_the_same_origin(path: object, url: str) -> None:
    """Only a schema from where the list is from is fetched."""
    (model,) = parse_index([{**ENTRY, "schema_path": path}], INDEX_URL)
    assert model.schema_url == url


@pytest.mark.parametrize(
    ("value", "url"),
    [
        (None, INDEX_URL),
        ("", ""),
        (" https://example.com/index.json ", "https://example.com/index.json"),
        ("http://127.0.0.1:8000/index.json", "http://127.0.0.1:8000/index.json"),
    ],
)
def test_url_of_the_list(monkeypatch: pytest.MonkeyPatch, value: str | None, url: str) -> None:
    """The environment has another URL, or an empty one for none."""
    monkeypatch.delenv("APIXO_MODELS_URL", raising=False)
    if value is not None:
        monkeypatch.setenv("APIXO_MODELS_URL", value)
    assert index_url() == url


@pytest.mark.parametrize("url", ["index.json", "http://example.com/", "file:///etc/passwd"])
def test_wrong_urls_of_the_list(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """A URL that others could answer is refused."""
    monkeypatch.setenv("APIXO_MODELS_URL", url)
    with pytest.raises(ConfigurationError, match="APIXO_MODELS_URL must be an absolute https URL"):
        index_url()
