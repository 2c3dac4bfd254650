from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import pytest
from attrs import evolve

from kling_async import (
    InputError,
    MasterTextToVideo,
    ProImageToVideo,
    StandardImageToVideo,
    parse_input,
)
from kling_async.images import LocalImage
from kling_async.inputs.local_image import MAX_READ, to_identity

SHA = "ab" * 32
READ = LocalImage(Path("/pictures/a cat?.jpg"), SHA, "image/jpeg")


class Endless:
    """An open file without an end."""

    def read(self, size: int) -> bytes:
        return bytes(size)


@pytest.mark.parametrize(
    ("given", "source"),
    [
        (Path("cat.jpg"), Path("cat.jpg")),
        (b"content", b"content"),
        (bytearray(b"content"), b"content"),
        (memoryview(b"content"), b"content"),
        (io.BytesIO(b"content"), b"content"),
        (Endless(), bytes(MAX_READ + 1)),
    ],
    ids=["path", "bytes", "bytearray", "memoryview", "open file", "endless"],
)
def test_image_fields(given: Path, source: object) -> None:
    """An image field accepts a path, bytes or an open file, of which a bounded part is read."""
    sent = ProImageToVideo("pan left", given, end_image_url=b"the end")
    assert sent.image_url == LocalImage(source)  # type: ignore[arg-type]
    assert set(sent.local_images) == {"image_url", "end_image_url"}
    assert pickle.loads(pickle.dumps(sent)) == sent  # noqa: S301 - our own
    assert hash(sent) == hash(evolve(sent))
    assert len(repr(sent)) < 300


def test_urls_stay_text() -> None:
    """URLs are text as before, and an input without images has no local ones."""
    sent = StandardImageToVideo("pan left", "https://example.com/cat.jpg")
    assert sent.image_url == "https://example.com/cat.jpg"
    assert not sent.local_images
    assert not MasterTextToVideo("a fox").local_images


@pytest.mark.parametrize("given", ["cat.jpg", "file:///cat.jpg", 5, Path, io.StringIO("x"), None])
def test_anything_else(given: str) -> None:
    """Anything else is an error that says what an image may be."""
    with pytest.raises(InputError, match=r"image_url: must be one absolute http\(s\) URL"):
        StandardImageToVideo("pan left", given)
    with pytest.raises(InputError, match=r"image_url: must be one absolute http\(s\) URL"):
        parse_input({"prompt": "pan left", "image_url": given})


def test_text() -> None:
    """The text of an image that was read has its checksum, and where it was found."""
    sent = ProImageToVideo("pan", READ, end_image_url=LocalImage(b"x", SHA, "image/png"))
    fields = json.loads(json.dumps(sent.to_dict()))
    assert fields["image_url"] == f"kling-image:{SHA}.jpg?path=/pictures/a cat?.jpg"
    assert fields["end_image_url"] == f"kling-image:{SHA}.png"
    again = parse_input(fields, local_images=True)
    assert again == evolve(sent, end_image_url=LocalImage(None, SHA, "image/png"))
    assert again.to_dict() == sent.to_dict()
    unknown = LocalImage(None, SHA)
    assert unknown.to_text() == f"kling-image:{SHA}.bin"
    assert LocalImage.parse(unknown.to_text()) == unknown


def test_identity() -> None:
    """Where an image was found is no part of its identity; texts that are not images stay."""
    assert to_identity(READ.to_text()) == f"kling-image:{SHA}.jpg"
    assert to_identity("kling-image: a song?path=of life") == "kling-image: a song?path=of life"
    assert to_identity(5) == 5


def test_not_read() -> None:
    """The text of an image that was not read is for display only: its checksum is not known."""
    fields = StandardImageToVideo("pan", Path("cat.jpg")).to_dict()
    assert fields["image_url"] == "kling-image:?path=cat.jpg"
    assert LocalImage(b"secret").to_text() == "kling-image:"
    with pytest.raises(InputError, match=r"must be read before .*read_images"):
        parse_input(fields, local_images=True)


@pytest.mark.parametrize(
    "text",
    ["kling-image:", f"kling-image:{SHA}", f"kling-image:{SHA[:-1]}.jpg", f"kling-image:{SHA}.JPG"],
)
def test_wrong_text(text: str) -> None:
    """A text without a checksum names no image: it cannot make a program read any file."""
    with pytest.raises(InputError, match="must be the text of a local image"):
        parse_input({"prompt": "pan", "image_url": text}, local_images=True)
    with pytest.raises(InputError, match="must be one absolute"):
        parse_input({"prompt": "pan", "image_url": f"/etc/{text[-3:]}"})


def test_labels() -> None:
    """Messages call an image by its path, its size or its checksum."""
    labels = [LocalImage(source, SHA).label for source in (Path("cat.jpg"), b"12345", None)]
    assert labels == ["'cat.jpg'", "5 bytes", "the image abababababab…"]


def test_bodies_of_requests() -> None:
    """A body of a web request cannot name a file of the server, even if it knows its checksum."""
    from pydantic import TypeAdapter, ValidationError

    from kling_async import Input

    adapter: TypeAdapter[Input] = TypeAdapter(Input)
    for url in ("/etc/passwd", READ.to_text()):
        body = {"mode": "standard-image-to-video", "prompt": "pan", "image_url": url}
        with pytest.raises(ValidationError, match="must be one absolute"):
            adapter.validate_python(body)
        for parse in (parse_input, StandardImageToVideo.from_dict):
            with pytest.raises(InputError, match="must be one absolute"):
                parse(body)
