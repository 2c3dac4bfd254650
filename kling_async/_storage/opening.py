"""Opening an object store at a URL, with the credentials of the environment.

The extra ``storage`` installs obstore, which is imported when a store is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

from kling_async._utils.extras import missing_extra
from kling_async._utils.urls import is_unencrypted, redact_url, split_web_url
from kling_async.errors import ConfigurationError

if TYPE_CHECKING:
    from obstore.store import AzureStore, GCSStore, S3Store

BucketStore: TypeAlias = "S3Store | GCSStore | AzureStore"
"""A store of obstore that can sign URLs."""

SCHEMES: Final = ("s3", "gs", "az")
"""The schemes of the URLs of object stores."""

# What a URL may say in its query, and the setting of obstore that it is. Credentials are not among
# them: command lines and URLs are seen by others.
_SETTINGS: Final[Mapping[str, Mapping[str, str]]] = {
    "s3": {"endpoint": "endpoint", "region": "region"},
    "gs": {"endpoint": "base_url"},
    "az": {"endpoint": "endpoint", "account": "account_name"},
}
_ALLOW_HTTP: Final = "allow_http"

# S3 can copy an object without replacing another one only in parts. Such a copy gets the content
# type of the client, which applies to objects without one of their own: they are large videos.
_S3_CONFIG: Final[dict[str, str]] = {"copy_if_not_exists": "multipart"}
_S3_CLIENT: Final[dict[str, str]] = {"default_content_type": "video/mp4"}

# Seconds. A request carries at most some megabytes; what fails is repeated within the second.
_CONNECT_TIMEOUT: Final = "10s"
_REQUEST_TIMEOUT: Final = "60s"
_RETRIES: Final = 3
_RETRY_TIMEOUT: Final = timedelta(seconds=60)


def is_object_url(location: object) -> bool:
    """Return whether a location is the URL of an object store."""
    return isinstance(location, str) and location.partition("://")[0].lower() in SCHEMES


def check_store_url(url: str) -> None:
    """Raise what :func:`open_store` raises, without importing obstore, which takes half a second.

    Raises:
        ConfigurationError: The URL is invalid.
        MissingExtraError: obstore is not installed.
    """
    scheme, _, _ = _settings_of(url)
    if find_spec("obstore") is None:
        raise missing_extra("storage", f"{scheme}:// needs another package")


def open_store(url: str) -> BucketStore:
    """Return the store at a URL; paths in it are relative to the path of the URL. Sends nothing.

    The first call imports obstore: make it in a thread.

    Args:
        url: ``s3://bucket/prefix``, ``gs://bucket/prefix`` or ``az://container/prefix``. Its query
            may have the ``endpoint`` of a compatible service, the ``region`` (S3), the ``account``
            (Azure), and ``allow_http=true`` for an endpoint without TLS on another machine. The
            credentials are those of the environment, such as ``AWS_ACCESS_KEY_ID``.

    Raises:
        ConfigurationError: The URL is invalid.
        MissingExtraError: obstore is not installed.
    """
    check_store_url(url)
    from obstore.exceptions import BaseError
    from obstore.store import AzureStore, GCSStore, S3Store

    scheme, config, client_options = _settings_of(url)
    open_at: Mapping[str, Callable[..., BucketStore]] = {
        "s3": S3Store.from_url,
        "gs": GCSStore.from_url,
        "az": AzureStore.from_url,
    }
    try:
        return open_at[scheme](
            f"{scheme}{url[len(scheme) :].partition('?')[0]}",
            config=config,
            client_options=client_options,
            retry_config={"max_retries": _RETRIES, "retry_timeout": _RETRY_TIMEOUT},
        )
    except (BaseError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigurationError(f"cannot open {redact_url(url)}: {reason}") from None


def _settings_of(url: str) -> tuple[str, dict[str, str], dict[str, object]]:
    """Return the scheme of a URL, and the settings of the store and of its HTTP client."""
    shown = redact_url(url)
    try:
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query, strict_parsing=True))
        bucket, scheme = parts.hostname, parts.scheme
    except ValueError:
        raise _invalid_url(shown) from None
    if scheme not in SCHEMES or not bucket or parts.netloc.lower() != bucket or parts.fragment:
        raise _invalid_url(shown)
    if {".", ".."} & {*unquote(parts.path).split("/")}:
        raise ConfigurationError(f"the path of {shown} must have no segment . or ..")
    allow_http = query.pop(_ALLOW_HTTP, "false").lower() in {"1", "true", "yes", "on"}
    known = _SETTINGS[scheme]
    if unknown := sorted(query.keys() - known.keys()):
        raise ConfigurationError(
            f"unknown setting {unknown[0]!r:.80} in the query of {shown}: it may have"
            f" {', '.join((*known, _ALLOW_HTTP))}; credentials belong in the environment"
        )
    endpoint = query.get("endpoint")
    if endpoint is not None:
        if split_web_url(endpoint) is None:
            raise ConfigurationError(f"the endpoint of {shown} must be an http(s) URL")
        if is_unencrypted(endpoint) and not allow_http:
            raise ConfigurationError(
                f"the endpoint of {shown} is without TLS: use https, or add allow_http=true"
            )
        allow_http |= endpoint.startswith("http:")
    client_options: dict[str, object] = {
        "connect_timeout": _CONNECT_TIMEOUT,
        "timeout": _REQUEST_TIMEOUT,
        **({_ALLOW_HTTP: True} if allow_http else {}),
        **(_S3_CLIENT if scheme == "s3" else {}),
    }
    config = {known[name]: value for name, value in query.items()}
    return scheme, config | (_S3_CONFIG if scheme == "s3" else {}), client_options


def _invalid_url(shown: str) -> ConfigurationError:
    return ConfigurationError(
        f"not the URL of an object store: {shown}; it must be s3://bucket/prefix,"
        " gs://bucket/prefix or az://container/prefix, with credentials in the environment"
    )
