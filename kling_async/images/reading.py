"""Reading the local images of inputs: their content, and the checksums that identify them."""

from __future__ import annotations

import stat
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from attrs import evolve

from kling_async._utils.files import format_os_error
from kling_async._utils.shielding import run_in_thread
from kling_async.errors import InputError, Problem
from kling_async.images.check import (
    HEAD_BYTES,
    ImageFacts,
    ImageFault,
    check_image,
    find_type,
    too_large,
)
from kling_async.images.opening import VARIABLE
from kling_async.inputs.local_image import MAX_READ, LocalImage

if TYPE_CHECKING:
    from collections.abc import Callable

    from kling_async.inputs.base import Input

_I = TypeVar("_I", bound="Input")


async def read_images(sent: _I) -> _I:
    """Return an input whose local images have their checksums: ``to_dict`` can write it as text.

    Batches, queues and :mod:`kling_async.taskiq` do this themselves. Use it for messages of your
    own. The pictures are read in a thread, and not kept in memory.

    Raises:
        InputError: A picture cannot be read.
    """
    return await _with_checksums(sent, read_content)


async def inspect_images(sent: _I, *, fixing: bool) -> _I:
    """Do as :func:`read_images`, and check the pictures as far as is possible without decoding.

    Args:
        sent: The input.
        fixing: Pictures are corrected later, if possible.

    Raises:
        InputError: A picture cannot be read, or the service would not accept it.
    """

    def read(name: str, image: LocalImage) -> bytes:
        content = read_content(name, image)
        try:
            check_image(content)
        except ImageFault as fault:
            if not (fixing and fault.fixable):
                raise fault_error(name, image, fault) from None
        return content

    return await _with_checksums(sent, read)


async def _with_checksums(sent: _I, read: Callable[[str, LocalImage], bytes]) -> _I:
    """Return an input with the checksums of those local images that have none yet."""
    unread = {name: image for name, image in sent.local_images.items() if not image.sha256}
    if not unread:
        return sent

    def identify_all() -> dict[str, LocalImage]:
        return {name: identify(name, image, read(name, image)) for name, image in unread.items()}

    return evolve(sent, **await run_in_thread(identify_all))


def identify(field: str, image: LocalImage, content: bytes) -> LocalImage:
    """Return an image with its checksum and its type by its content.

    Raises:
        InputError: It has another checksum: the file has changed.
    """
    checksum = sha256(content).hexdigest()
    if image.sha256 and image.sha256 != checksum:
        raise image_error(
            field,
            image,
            "must not change after it was read: its checksum is in the journal; restore it, or give"
            " it as another input",
            f"SHA-256 {checksum[:12]}… in place of {image.sha256[:12]}…",
        )
    source = image.source.absolute() if isinstance(image.source, Path) else image.source
    return evolve(image, source=source, sha256=checksum, media_type=find_type(content))


def read_content(field: str, image: LocalImage, limit: int = MAX_READ) -> bytes:
    """Return the content of an image. This blocks.

    Args:
        field: The field of the input, for errors.
        image: The image.
        limit: The most bytes that are read.

    Raises:
        InputError: It cannot be read, is not a file, or is too large.
    """
    source = image.source
    if source is None:
        raise image_error(
            field, image, "must be in the image store or given as a file", "neither was found"
        )
    if isinstance(source, bytes):
        head, size, content = source[:HEAD_BYTES], len(source), source
    else:
        try:
            head, size, content = _read_file(source, limit)
        except (OSError, ValueError) as error:  # ValueError: a null character in the path
            rule = "must be a file that can be read"
            raise image_error(field, image, rule, format_os_error(error)) from None
    if size > limit:
        raise fault_error(field, image, too_large(ImageFacts(find_type(head), size)))
    return content


def fault_error(field: str, image: LocalImage | str, fault: ImageFault) -> InputError:
    """Return the error for a picture that the service would not accept."""
    remedy = fault.remedy
    if fault.fixable and isinstance(image, LocalImage):
        remedy += ", or let the client do so with fix_images=True (--fix-images)"
    return image_error(field, image, f"{fault.rule}: {remedy}", fault.seen)


def image_error(field: str, image: LocalImage | str, rule: str, seen: str) -> InputError:
    """Return an error that names the field, the rule, the picture and what was found."""
    label = image if isinstance(image, str) else image.label
    return InputError(problems=[Problem(field, rule, f"{label}: {seen}")])


def _read_file(path: Path, limit: int) -> tuple[bytes, int, bytes]:
    """Return the first bytes of a file, its size, and its content unless it is too large."""
    # Opening a pipe would wait for ever, and a device may not end.
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("it is not a regular file")
    with path.open("rb") as file:
        content = file.read(limit + 1)
        size = max(len(content), path.stat().st_size)
    return content[:HEAD_BYTES], size, content


def no_store_error(sent: Input) -> InputError:
    """Return the error for an input with local images that cannot be stored anywhere."""
    rule = (
        "is a picture of this machine, and the service fetches images from the web: give the client"
        " an image store, with KlingClient(image_store=…) or the environment variable"
        f" {VARIABLE}, such as s3://bucket/prefix"
    )
    images = sent.local_images.items()
    return InputError(problems=[Problem(name, rule, image.label) for name, image in images])
