from __future__ import annotations

import sys

import pytest

from kling_async import ConfigurationError, MissingExtraError
from kling_async._storage.opening import check_store_url, is_object_url, open_store


def test_is_object_url() -> None:
    """The URL of an object store is distinguished from a path and from other URLs by its scheme."""
    assert all(map(is_object_url, ("s3://b", "GS://b/p", "az://c?account=a")))
    assert not any(map(is_object_url, ("videos/", "s3:", "https://s3.example", None, 5)))


@pytest.mark.slow  # it imports obstore
@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://bucket", 'S3Store(bucket="bucket")'),
        ("S3://bucket/a/b", 'S3Store(bucket="bucket", prefix="a/b")'),
        ("s3://b/p?endpoint=http://127.0.0.1:9000&region=eu-north-1", 'S3Store(bucket="b"'),
        ("s3://b/p?endpoint=http://minio:9000&allow_http=true", 'S3Store(bucket="b"'),
        ("gs://bucket/a", 'GCSStore(bucket="bucket", prefix="a")'),
        ("az://box/a?account=me", 'AzureStore(container_name="box", account_name="me"'),
    ],
)
def test_open_store(url: str, shown: str) -> None:
    """A URL names the bucket, the prefix and the settings; nothing is sent."""
    check_store_url(url)
    assert repr(open_store(url)).startswith(shown)


@pytest.mark.slow  # it imports obstore
def test_what_obstore_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the store itself refuses is an error of the configuration, in one line."""
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(ConfigurationError, match=r"^cannot open az://box: .*[Aa]ccount.*$"):
        open_store("az://box")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://bucket", "not the URL of an object store"),
        ("s3:bucket", "not the URL of an object store"),
        ("s3://", "not the URL of an object store"),
        ("s3://AKIA:SECRET@bucket", "not the URL of an object store"),
        ("s3://bucket:80/p", "not the URL of an object store"),
        ("s3://bucket/p#SECRET", "not the URL of an object store"),
        ("s3://bucket/p?SECRET", "not the URL of an object store"),
        ("s3://bucket/p/../q", "must have no segment . or .."),
        ("s3://bucket/%2e/p", "must have no segment . or .."),
        ("s3://[bucket/p?SECRET", "not the URL of an object store"),
        ("s3://bucket/p?secret_access_key=SECRET", "unknown setting 'secret_access_key'"),
        ("gs://bucket/p?region=x", "it may have endpoint, allow_http; credentials belong in"),
        ("s3://bucket/p?endpoint=minio:9000", "must be an http"),
        ("s3://bucket/p?endpoint=http://minio:9000", "without TLS: use https, or add allow_http"),
    ],
)
def test_wrong_urls(url: str, message: str) -> None:
    """A wrong URL is an error that says what is wrong, and shows no credentials."""
    with pytest.raises(ConfigurationError, match=message) as caught:
        check_store_url(url)
    assert "SECRET" not in str(caught.value)


def test_without_obstore(monkeypatch: pytest.MonkeyPatch) -> None:
    """An object store needs the extra."""
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(MissingExtraError, match=r"s3:// needs another package: .*\[storage\]"):
        check_store_url("s3://bucket")
