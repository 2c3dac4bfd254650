"""Reads video files with PyAV: their facts, and a frame as a picture.

A video is decoded only until it is proven to be neither black nor frozen, and its sound until it
is proven not to be silent: a second or less for most videos. The rest is read without decoding, to
see whether frames are missing at the end. Files come from the network: only containers for video
are opened, and a file can refer to no other one.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, cast

from attrs import define, evolve

from kling_async._utils.extras import missing_extra
from kling_async._utils.shielding import run_in_thread
from kling_async.errors import DownloadError
from kling_async.media.verdict import find_problems
from kling_async.results import MediaFacts, MediaProblem

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable
    from types import ModuleType

    from av.audio.frame import AudioFrame
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

    from kling_async.inputs.base import Input
    from kling_async.results import SavedFile

_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm",
}

# Frames are compared as grey pictures of this size, in pixels. Rows of this width are not padded.
_WIDTH, _HEIGHT = 64, 36

# Levels of grey, of 255. Encoding changes those of a still picture by two or three.
_BLACK = 24
_CHANGE = 6

# Of the largest sample; -60 dB.
_SILENCE = 33

# A file is truncated if so many seconds at its end are missing.
_MISSING = 0.25

# A frame of a size that no model makes is not decoded: it may need any amount of memory.
_MOST_PIXELS = 8192 * 4320

# Still videos longer than these frames are taken for what their beginning shows.
_MOST_FRAMES = 600

# A container counts its duration in so many parts of a second.
_CONTAINER_UNITS = 1_000_000

# The poster is the frame at this time, in seconds: the first ones are often faded in.
_POSTER_AT = 1.0


async def inspect_video(path: str | os.PathLike[str], request: Input | None = None) -> MediaFacts:
    """Return the facts of a video file, and what is wrong with it.

    It is read in a thread. A clip of 5 seconds takes a tenth of a second or less.

    Args:
        path: A file that was saved from a result.
        request: The input it was made from. Without it, only the file itself is judged.

    Raises:
        MissingExtraError: The extra ``media`` is not installed.
        OSError: The file does not exist, or is not readable for this user.
    """
    av = import_av()
    return await run_in_thread(lambda: _read_facts(av, Path(path), request))


async def inspected_files(
    folder: Path, files: Iterable[SavedFile], request: Input
) -> tuple[SavedFile, ...]:
    """Return files of a folder with what they contain. A file that is missing stays as it is."""
    found = []
    for file in files:
        try:
            media = await inspect_video(folder / file.name, request)
        except OSError:  # removed by another process
            media = None
        found.append(evolve(file, media=media))
    return tuple(found)


async def save_poster(video: str | os.PathLike[str], picture: str | os.PathLike[str]) -> None:
    """Save a frame of a video, about one second from its beginning, as a JPEG file.

    Raises:
        MissingExtraError: The extra ``media`` is not installed.
        DownloadError: The video cannot be decoded.
        OSError: A file cannot be read or written.
    """
    av = import_av()
    await run_in_thread(lambda: _write_poster(av, Path(video), Path(picture)))


def import_av() -> ModuleType:
    """Return PyAV; raise MissingExtraError if the extra is not installed."""
    try:
        import av
        import PIL.Image  # noqa: F401 - for posters; the extra has both
    except ImportError:
        raise missing_extra("media", "inspecting videos needs PyAV and Pillow") from None
    return av


@define
class _Evidence:
    """What the frames so far have shown."""

    first: bytes = b""
    is_black: bool = True
    is_frozen: bool = True
    is_silent: bool = True
    frames: int = 0
    seconds: float = 0.0  # where the last frame ends
    is_turned: bool = False  # by a quarter

    @property
    def needs_frames(self) -> bool:
        return (self.is_black or self.is_frozen) and self.frames < _MOST_FRAMES

    def add_frame(self, frame: VideoFrame) -> None:
        """Compare a frame with the first one, and with black."""
        self.frames += 1
        self.is_turned = frame.rotation % 180 != 0
        pixels = bytes(frame.reformat(_WIDTH, _HEIGHT, "gray").planes[0])
        self.first = self.first or pixels
        self.is_black = self.is_black and max(pixels) <= _BLACK
        change = max(abs(a - b) for a, b in zip(self.first, pixels, strict=True))
        self.is_frozen = self.is_frozen and change < _CHANGE

    def add_sound(self, frame: AudioFrame) -> None:
        """Compare the samples, which are 16-bit numbers, with silence."""
        samples = memoryview(bytes(frame.planes[0])).cast("h")[: frame.samples]
        self.is_silent = self.is_silent and max(map(abs, samples), default=0) < _SILENCE


def _read_facts(av: ModuleType, path: Path, request: Input | None) -> MediaFacts:
    with path.open("rb"):
        pass  # a file that is not there, or not readable, is an error; one that is no video, a fact
    try:
        with _open_container(av, path) as container:
            facts = _read_container(av, container)
    except av.FFmpegError:
        facts = None
    if facts is None:
        problems = (MediaProblem.UNREADABLE,)
        return MediaFacts(0.0, 0, 0, 0.0, has_sound=False, problems=problems)
    return evolve(facts, problems=(*facts.problems, *find_problems(facts, request)))


def _open_container(av: ModuleType, path: Path) -> InputContainer:
    container: InputContainer = av.open(str(path.absolute()), options=_OPTIONS)
    return container


def _read_container(av: ModuleType, container: InputContainer) -> MediaFacts | None:
    """Return the facts of an open file, or None if it has no video that can be decoded."""
    video = _find_video(container)
    if video is None:
        return None
    evidence = _Evidence()
    _read_packets(av, container, video, evidence)
    if not evidence.frames:
        return None
    duration = _duration(container, video)
    problems = {
        MediaProblem.TRUNCATED: evidence.seconds < duration - _MISSING,
        MediaProblem.BLACK: evidence.is_black,
        MediaProblem.FROZEN: evidence.is_frozen and not evidence.is_black,
    }
    across, down = (video.width, video.height)[:: -1 if evidence.is_turned else 1]
    return MediaFacts(
        round(duration, 3),
        across,
        down,
        round(float(video.average_rate or 0), 3),
        not evidence.is_silent,
        tuple(problem for problem, is_found in problems.items() if is_found),
    )


def _find_video(container: InputContainer) -> VideoStream | None:
    video = next(iter(container.streams.video), None)
    if video is None or video.codec_context is None:  # of an unknown codec
        return None
    return video if 0 < video.width * video.height <= _MOST_PIXELS else None


def _read_packets(
    av: ModuleType, container: InputContainer, video: VideoStream, evidence: _Evidence
) -> None:
    """Read the whole file; decode as much as is needed."""
    sound = container.streams.audio[:1]
    resampler = av.AudioResampler(format="s16", layout="mono", rate=8000)
    start = _seconds(video.start_time, video)
    for packet in container.demux(video, *sound):
        if packet.stream is not video:
            if evidence.is_silent:
                for piece in packet.decode():
                    for samples in resampler.resample(piece):
                        evidence.add_sound(samples)
            continue
        if packet.pts is not None:
            end = _seconds(packet.pts + (packet.duration or 0), video) - start
            evidence.seconds = max(evidence.seconds, end)
        if evidence.needs_frames:
            for frame in packet.decode():
                evidence.add_frame(cast("VideoFrame", frame))


def _duration(container: InputContainer, video: VideoStream) -> float:
    if video.duration is not None:
        return _seconds(video.duration, video)
    return (container.duration or 0) / _CONTAINER_UNITS


def _seconds(units: int | None, video: VideoStream) -> float:
    return float((units or 0) * (video.time_base or 0))


def _write_poster(av: ModuleType, path: Path, picture: Path) -> None:
    try:
        with _open_container(av, path) as container:
            image = _poster_frame(container).to_image()  # type: ignore[no-untyped-call]
    except (av.FFmpegError, LookupError) as error:
        raise DownloadError(f"cannot decode {path}: {error}", retryable=False) from None
    # A reader sees no half of it.
    with NamedTemporaryFile(dir=picture.parent, suffix=".part", delete=False) as file:
        try:
            image.save(file, "JPEG", quality=85)
            Path(file.name).replace(picture)
        except BaseException:
            Path(file.name).unlink()
            raise


def _poster_frame(container: InputContainer) -> VideoFrame:
    """Return the frame at the time of the poster, or the last one of a shorter video."""
    latest: VideoFrame | None = None
    video = _find_video(container)
    for frame in () if video is None else container.decode(video):
        latest = frame
        if frame.time is not None and frame.time >= _POSTER_AT:
            break
    if latest is None:
        raise LookupError("it has no frames")
    return latest
