"""The vendor's list of its models, and the JSON schemas of their inputs.

The list is that of the vendor's own client. What it says is shown, never trusted: unknown fields
are ignored, and a schema is fetched only from the origin of the list.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import chain, islice
from typing import Final
from urllib.parse import urljoin

from attrs import frozen

from kling_async._utils.urls import is_unencrypted, split_web_url
from kling_async.errors import ConfigurationError
from kling_async.results import MODEL_NAME

INDEX_URL: Final = "https://apixo.ai/docs/models/schemas/index.json"
VARIABLE: Final = "APIXO_MODELS_URL"

_MOST_MODELS: Final = 2_000
_LONGEST_TEXT: Final = 80


@frozen
class VendorModel:
    """A model of the vendor's list; ``schema_url`` is empty if the list has no usable one."""

    name: str
    title: str = ""
    category: str = ""
    schema_url: str = ""


def index_url() -> str:
    """Return the URL of the list; empty if the environment switches it off.

    Raises:
        ConfigurationError: The environment has an invalid URL.
    """
    url = os.environ.get(VARIABLE, INDEX_URL).strip()
    if url and (split_web_url(url) is None or is_unencrypted(url)):
        raise ConfigurationError(
            f"{VARIABLE} must be an absolute https URL (plain http on loopback only): {url!r:.80}"
        )
    return url


def parse_index(value: object, url: str) -> list[VendorModel]:
    """Return the models of a list, which is an array, or an object that contains one.

    Raises:
        ValueError: It has no models.
    """
    lists = [value, *(value.values() if isinstance(value, Mapping) else ())]
    entries = chain.from_iterable(one for one in lists if isinstance(one, list))
    found = (_parse_entry(entry, url) for entry in entries if isinstance(entry, Mapping))
    models = list(islice((model for model in found if model is not None), _MOST_MODELS))
    if not models:
        raise ValueError("it lists no models")
    return models


def check_schema(value: object) -> None:
    """Raise `ValueError` if a value cannot be a schema of inputs."""
    if not isinstance(value, Mapping):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 - of the vendor, not of the caller


def _parse_entry(entry: Mapping[str, object], url: str) -> VendorModel | None:
    name = entry.get("model_id")
    if not isinstance(name, str) or not MODEL_NAME.fullmatch(name):
        return None
    title, category = (str(entry.get(field) or "") for field in ("title", "category"))
    schema_url = _schema_url(entry.get("schema_path"), url)
    return VendorModel(name, title[:_LONGEST_TEXT], category[:_LONGEST_TEXT], schema_url)


def _schema_url(path: object, url: str) -> str:
    """Return the URL of a schema; empty if it is not below the origin of the list."""
    if not isinstance(path, str) or not path:
        return ""
    try:
        joined = urljoin(url, path)
    except ValueError:
        return ""
    parts, base = split_web_url(joined), split_web_url(url)
    same = parts and base and (parts.scheme, parts.netloc) == (base.scheme, base.netloc)
    return joined if same else ""
