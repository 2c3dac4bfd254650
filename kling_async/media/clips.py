"""Reads a video that is to be joined with others."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Final, TypeAlias, cast

from attrs import frozen

from kling_async.media.containers import (
    NO_FRAMES,
    find_video,
    is_truncated,
    open_video,
    stated_duration,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path  # noqa: TC004 - attrs evaluates no annotation
    from types import ModuleType

    from av.audio.frame import AudioFrame
    from av.container import InputContainer
    from av.packet import Packet
    from av.stream import Stream
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

    EncodedPacket: TypeAlias = Packet[Stream]
    Picture: TypeAlias = EncodedPacket | VideoFrame

SAMPLE_RATE: Final = 48_000
"""Samples of sound per second, of two channels with 16 bits each."""

# Frames are repeated over gaps, so a wrong time could fill a disk. Models make seconds.
_LONGEST: Final = 3600

_MOST_FRAMES: Final = 500_000

# Frames per second. Some files state their time base in place of the rate.
_RATES: Final = (1, 120)
_USUAL_RATE: Final = Fraction(24)

# Sound that a video has beside its pictures, in a form that the joined file needs.
_SAMPLES: Final = {"format": "s16", "layout": "stereo", "rate": SAMPLE_RATE}


@frozen
class Clip:
    """What was found out about a video.

    Attributes:
        path: Where it is.
        start: The time of its first frame, in seconds.
        length: From there to the end of its last frame, in seconds.
        size: Width and height, in pixels, as it is shown.
        rate: Frames per second.
        has_sound: Whether it has sound, silent or not.
        form: Clips of equal forms can be in one file without encoding them again. Empty: this one
            must be encoded.
    """

    path: Path
    start: Fraction
    length: Fraction
    size: tuple[int, int]
    rate: Fraction
    has_sound: bool
    form: tuple[object, ...]


def read_clip(av: ModuleType, path: Path) -> Clip:
    """Read a video, and decode its first frame. This blocks.

    Raises:
        DownloadError: It cannot be decoded, its end is missing, or it is too long.
        OSError: The file cannot be read.
    """
    with open_video(av, path) as container:
        video = find_video(container)
        first, packets = _read_packets(container, video)
        base = video.time_base or Fraction(1)
        rate = video.average_rate or _USUAL_RATE
        rate = Fraction(rate) if _RATES[0] <= rate <= _RATES[1] else _USUAL_RATE
        usual = round(1 / (rate * base))  # for packets that do not state their duration
        start = min(pts for pts, _, _ in packets)
        end = max(pts + (duration or usual) for pts, _, duration in packets)
        length = (end - start) * base
        if length > _LONGEST or len(packets) > _MOST_FRAMES:
            raise ValueError(f"it is longer than {_LONGEST:,} seconds")
        if is_truncated(float(length), stated_duration(container, video)):
            raise ValueError("its end is missing")
        across, down = video.width, video.height
        return Clip(
            path,
            start * base,
            length,
            (down, across) if first.rotation % 180 else (across, down),
            rate,
            has_sound=bool(container.streams.audio),
            form=() if first.rotation else clip_form(video, packets, end - start),
        )


def read_parts(av: ModuleType, clip: Clip, *, decoding: bool) -> Iterator[Picture | AudioFrame]:
    """Yield the frames of a video, decoded or as packets, and its samples, as they are in the file.

    Raises:
        DownloadError: They cannot be decoded.
    """
    with open_video(av, clip.path) as container:
        video, sound = container.streams.video[0], container.streams.audio[:1]
        resampler = av.AudioResampler(**_SAMPLES)
        for packet in container.demux(video, *sound):
            if packet.stream is not video:
                for frame in packet.decode():
                    yield from resampler.resample(frame)
            elif decoding:
                yield from cast("list[VideoFrame]", packet.decode())
            elif packet.pts is not None:  # the packet at the end has no time, and is empty
                yield packet
        if sound:
            yield from resampler.resample(None)


# The times of a packet: when it is shown, when it is decoded, and for how long it is shown.
_Times = tuple[int, int | None, int | None]


def _read_packets(container: InputContainer, video: VideoStream) -> tuple[VideoFrame, list[_Times]]:
    """Return the first frame, and the times of all packets; `ValueError` unless there are any."""
    first: VideoFrame | None = None
    times: list[_Times] = []
    for packet in container.demux(video):
        if first is None:
            first = next(iter(packet.decode()), None)
        if packet.pts is not None:
            times.append((packet.pts, packet.dts, packet.duration))
        if len(times) > _MOST_FRAMES:
            break
    if first is None or not times:
        raise ValueError(NO_FRAMES)
    return first, times


def clip_form(video: VideoStream, packets: list[_Times], length: int) -> tuple[object, ...]:
    """Return the form of a video. The times at which packets are decoded must increase."""
    decoded = [dts for _, dts, _ in packets if dts is not None]
    increasing = all(a < b for a, b in pairwise(decoded))
    if len(decoded) < len(packets) or not increasing or decoded[-1] - decoded[0] >= length:
        return ()
    context = video.codec_context
    lead = packets[0][0] - decoded[0]  # the first frame is decoded before it is shown
    return (
        context.name,
        context.extradata,
        context.pix_fmt,
        context.sample_aspect_ratio,
        video.width,
        video.height,
        video.time_base,
        lead,
    )
