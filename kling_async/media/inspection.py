"""Reads the facts of video files.

A video is decoded only until it is proven to be neither black nor frozen, and its sound until it
is proven not to be silent: a second or less for most videos. The rest is read without decoding, to
see whether frames are missing at the end. Frames that no other frame needs are not decoded either.
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
    from av.video.reformatter import VideoReformatter
    from av.video.stream import VideoStream

    from kling_async.inputs.base import Input
    from kling_async.results import SavedFile

# Frames are compared as grey pictures of this size, in pixels. Rows of this width are not padded.
_WIDTH, _HEIGHT = 64, 36

# Levels of grey, of 255. Encoding changes those of a still picture by two or three.
_BLACK = 24
_CHANGE = 6

# Not done while decoding: the smoothing of edges between blocks. It leaves their mean as it is.
_DECODER = {"skip_loop_filter": "all"}

# Frames that no other frame needs are left out: half of them or more, with usual encoders. If fewer
# than one of so many is returned, all are decoded from there on.
_PACKETS_PER_FRAME = 8

# Of the largest sample; -60 dB.
_SILENCE = 33

# Still videos longer than these frames are taken for what their beginning shows.
_MOST_FRAMES = 600


async def inspect_video(path: str | os.PathLike[str], request: Input | None = None) -> MediaFacts:
    """Return the facts of a video file, and what is wrong with it.

    It is read in a thread. A clip of 5 seconds in 1080p takes a tenth of a second of CPU time. One
    that is black or frozen is decoded to its end, which takes a quarter of a second or less.

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
    packets: int = 0  # given to the decoder
    frames: int = 0  # that it returned
    seconds: float = 0.0  # where the last frame ends
    is_turned: bool = False  # by a quarter

    @property
    def needs_frames(self) -> bool:
        return (self.is_black or self.is_frozen) and self.frames < _MOST_FRAMES

    @property
    def skips_too_many(self) -> bool:
        """Return whether more frames were left out than usual encoders allow."""
        return self.packets > (self.frames + 1) * _PACKETS_PER_FRAME

    def add_frame(self, frame: VideoFrame, reformatter: VideoReformatter) -> None:
        """Compare a frame with the first one, and with black."""
        self.frames += 1
        self.is_turned = frame.rotation % 180 != 0
        # The mean of the pixels that become one: faster than the default, and nothing is missed.
        small = reformatter.reformat(frame, _WIDTH, _HEIGHT, "gray", interpolation="AREA")
        pixels = bytes(small.planes[0])
        self.first = self.first or pixels
        self.is_black = self.is_black and max(pixels) <= _BLACK
        self.is_frozen = self.is_frozen and _is_similar(self.first, pixels)

    def add_sound(self, frame: AudioFrame) -> None:
        """Compare the samples, which are 16-bit numbers, with silence."""
        samples = memoryview(bytes(frame.planes[0])).cast("h")[: frame.samples]
        self.is_silent = self.is_silent and max(map(abs, samples), default=0) < _SILENCE


def _is_similar(first: bytes, pixels: bytes) -> bool:
    """Return whether two pictures differ by no more than the encoding of a still one causes."""
    if first == pixels:  # usual in a still video, and a hundred times faster
        return True
    return max(abs(a - b) for a, b in zip(first, pixels, strict=True)) < _CHANGE


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
    reformatter = av.video.reformatter.VideoReformatter()
    resampler = av.AudioResampler(format="s16", layout="mono", rate=8000)
    start = to_seconds(video.start_time, video)
    video.codec_context.options = dict(_DECODER)
    video.codec_context.skip_frame = "NONREF"
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
            evidence.packets += 1
            if evidence.skips_too_many:
                video.codec_context.skip_frame = "DEFAULT"
            for frame in packet.decode():
                evidence.add_frame(cast("VideoFrame", frame), reformatter)
