"""Reads the facts of video files.

A video is decoded only until it is proven to be neither black nor frozen, and its sound until it
is proven not to be silent: a second or less for most videos. The rest is read without decoding, to
see whether frames are missing at the end.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from attrs import define, evolve

from kling_async._utils.shielding import run_in_thread
from kling_async.media.containers import (
    NO_FRAMES,
    find_video,
    import_av,
    is_truncated,
    open_container,
    stated_duration,
    to_seconds,
)
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

# Frames are compared as grey pictures of this size, in pixels. Rows of this width are not padded.
_WIDTH, _HEIGHT = 64, 36

# Levels of grey, of 255. Encoding changes those of a still picture by two or three.
_BLACK = 24
_CHANGE = 6

# Of the largest sample; -60 dB.
_SILENCE = 33

# Still videos longer than these frames are taken for what their beginning shows.
_MOST_FRAMES = 600


async def inspect_video(path: str | os.PathLike[str], request: Input | None = None) -> MediaFacts:
    """Return the facts of a video file, and what is wrong with it.

    It is read in a thread. A clip of 5 seconds takes a tenth of a second or less. One that is black
    or frozen is decoded to its end, which takes half a second in 1080p.

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
    try:  # a file that is no video is a fact; one that is not there, or not readable, an error
        with open_container(av, path) as container:
            facts = _read_container(av, container)
    except (av.FFmpegError, ValueError):
        problems = (MediaProblem.UNREADABLE,)
        return MediaFacts(0.0, 0, 0, 0.0, has_sound=False, problems=problems)
    return evolve(facts, problems=(*facts.problems, *find_problems(facts, request)))


def _read_container(av: ModuleType, container: InputContainer) -> MediaFacts:
    """Return the facts of an open file; `ValueError` if no frame can be decoded."""
    video = find_video(container)
    evidence = _Evidence()
    _read_packets(av, container, video, evidence)
    if not evidence.frames:
        raise ValueError(NO_FRAMES)
    duration = stated_duration(container, video)
    problems = {
        MediaProblem.TRUNCATED: is_truncated(evidence.seconds, duration),
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


def _read_packets(
    av: ModuleType, container: InputContainer, video: VideoStream, evidence: _Evidence
) -> None:
    """Read the whole file; decode as much as is needed."""
    sound = container.streams.audio[:1]
    resampler = av.AudioResampler(format="s16", layout="mono", rate=8000)
    start = to_seconds(video.start_time, video)
    for packet in container.demux(video, *sound):
        if packet.stream is not video:
            if evidence.is_silent:
                for piece in packet.decode():
                    for samples in resampler.resample(piece):
                        evidence.add_sound(samples)
            continue
        if packet.pts is not None:
            end = to_seconds(packet.pts + (packet.duration or 0), video) - start
            evidence.seconds = max(evidence.seconds, end)
        if evidence.needs_frames:
            for frame in packet.decode():
                evidence.add_frame(cast("VideoFrame", frame))
