"""The pictures and the sound of a file that is joined from several."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Final, cast

from kling_async.media.clips import SAMPLE_RATE
from kling_async.media.containers import open_video

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from av.audio.frame import AudioFrame
    from av.container import OutputContainer
    from av.filter import Graph
    from av.video.frame import VideoFrame

    from kling_async.media.clips import Clip, EncodedPacket, Picture

# The codec that every player of MP4 knows.
_COPIED: Final = "h264"

# Of libx264: no loss that can be seen.
_QUALITY: Final = {"crf": "18"}

# BT.709 and its limited range, as FFmpeg numbers them; the colours of other videos are converted.
_COLOUR: Final = {"out_color_matrix": "bt709", "out_range": "tv"}
_BT709, _LIMITED = 1, 1

# Filters that turn a frame upright, by its rotation in degrees.
_TURNS: Final = {90: "transpose=cclock", -90: "transpose=clock", 180: "hflip,vflip"}

_SOUND_BITS: Final = 192_000  # per second

# Samples of one frame of AAC, and bytes of one sample: 16 bits for each of two channels.
_FRAME_SAMPLES: Final = 1024
_SAMPLE_BYTES: Final = 4

# Samples are moved only if their time differs by more: the times of most files are rounded.
_TOLERANCE: Final = SAMPLE_RATE // 50


def have_same_form(clips: list[Clip]) -> bool:
    """Return whether the frames of all clips can be copied into one file."""
    form = clips[0].form
    return form[:1] == (_COPIED,) and all(clip.form == form for clip in clips)


class Pictures:
    """The frames of the joined file."""

    def __init__(self) -> None:
        self._shift = Fraction(0)  # from the times of the clip to those of the joined file
        self._end = Fraction(0)  # of the clip, in the joined file

    def begin(self, clip: Clip, start: Fraction) -> None:
        """Begin with the frames of a clip, whose place in the joined file is given in seconds."""
        self._shift = start - clip.start
        self._end = start + clip.length

    def add(self, picture: Picture) -> Iterator[EncodedPacket]:
        """Yield the packets of a frame, at its place."""
        raise NotImplementedError

    def end_clip(self) -> Iterator[EncodedPacket]:
        """Yield what remains of the clip."""
        yield from ()

    def flush(self) -> Iterator[EncodedPacket]:
        """Yield what remains at the end."""
        yield from ()


class CopiedPictures(Pictures):
    """Frames that are copied as they are.

    Args:
        av: PyAV.
        file: The joined file.
        first: The first clip. The others have the same form.
    """

    def __init__(self, av: ModuleType, file: OutputContainer, first: Clip) -> None:
        super().__init__()
        with open_video(av, first.path) as container:
            self._stream = file.add_stream_from_template(container.streams.video[0])

    def add(self, picture: Picture) -> Iterator[EncodedPacket]:
        """Yield the packet of a frame, at its place."""
        packet = cast("EncodedPacket", picture)
        shift = round(self._shift / packet.time_base)
        packet.pts = cast("int", packet.pts) + shift
        packet.dts = cast("int", packet.dts) + shift
        packet.stream = self._stream
        yield packet


class EncodedPictures(Pictures):
    """Frames that are encoded again, with the size and the rate of the first clip.

    Args:
        av: PyAV.
        file: The joined file.
        first: The first clip.
    """

    def __init__(self, av: ModuleType, file: OutputContainer, first: Clip) -> None:
        super().__init__()
        self._av = av
        self._rate = first.rate
        self._size = [max(2, side // 2 * 2) for side in first.size]
        self._stream = file.add_stream("libx264", rate=first.rate, options=dict(_QUALITY))
        self._stream.width, self._stream.height = self._size
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED
        self._graph: Graph | None = None
        self._form: tuple[object, ...] = ()  # of the frames that it accepts
        self._latest: VideoFrame | None = None
        self._count = 0  # of frames that were encoded

    def add(self, picture: Picture) -> Iterator[EncodedPacket]:
        """Yield the packets of the frame before this one, which is shown until this one is."""
        frame = cast("VideoFrame", picture)
        if frame.pts is None:
            return
        yield from self._repeat_until(frame.pts * Fraction(frame.time_base or 1) + self._shift)
        form = frame.width, frame.height, frame.format.name, frame.rotation, frame.time_base
        if self._graph is None or self._form != form:
            self._graph, self._form = self._fitting(frame), form
        self._graph.vpush(frame)
        self._latest = self._graph.vpull()

    def end_clip(self) -> Iterator[EncodedPacket]:
        """Yield the packets of the clip's last frame."""
        yield from self._repeat_until(self._end)

    def flush(self) -> Iterator[EncodedPacket]:
        """Yield the last packets."""
        yield from self._stream.encode()

    def _repeat_until(self, end: Fraction) -> Iterator[EncodedPacket]:
        """Encode the latest frame, as often as the rate requires."""
        while self._latest is not None and self._count < round(end * self._rate):
            self._latest.pts, self._latest.time_base = self._count, 1 / self._rate
            self._latest.pict_type = 0  # the encoder decides which frames are key frames
            self._count += 1
            yield from self._stream.encode(self._latest)

    def _fitting(self, frame: VideoFrame) -> Graph:
        """Return filters that make frames of one form fit."""
        graph: Graph = self._av.filter.Graph()
        across, down = self._size
        scale = {"force_original_aspect_ratio": "decrease", "force_divisible_by": "2", **_COLOUR}
        turn = _TURNS.get(frame.rotation, "null")
        graph.link_nodes(
            graph.add_buffer(
                width=frame.width,
                height=frame.height,
                format=frame.format,
                time_base=frame.time_base,
            ),
            *(graph.add(*name.split("=")) for name in turn.split(",")),
            graph.add("scale", w=str(across), h=str(down), **scale),
            graph.add("pad", f"{across}:{down}:-1:-1"),
            graph.add("setsar", "1"),
            graph.add("format", "yuv420p"),
            graph.add("buffersink"),
        ).configure()
        return graph


class Sound:
    """The sound of all clips. Each one's is cut, or continued with silence, to its length."""

    def __init__(self, av: ModuleType, file: OutputContainer) -> None:
        self._av = av
        self._stream = file.add_stream("aac", rate=SAMPLE_RATE, layout="stereo")
        self._stream.bit_rate = _SOUND_BITS
        self._samples = bytearray()  # that are not encoded yet
        self._count = 0  # of those that are encoded

    def add(self, frame: AudioFrame, shift: Fraction, end: Fraction) -> Iterator[EncodedPacket]:
        """Add samples of a clip.

        Args:
            frame: The samples.
            shift: What is added to their time, in seconds.
            end: Where the clip ends.
        """
        samples = bytes(frame.planes[0])[: frame.samples * _SAMPLE_BYTES]
        if frame.pts is not None:
            time = frame.pts * Fraction(frame.time_base or 1) + shift
            ahead = round(time * SAMPLE_RATE) - self._position
            if ahead > _TOLERANCE:
                yield from self.fill(min(time, end))
            elif ahead < -_TOLERANCE:
                samples = samples[-ahead * _SAMPLE_BYTES :]
        room = max(0, round(end * SAMPLE_RATE) - self._position)
        self._samples += samples[: room * _SAMPLE_BYTES]
        yield from self._encoded()

    def fill(self, end: Fraction) -> Iterator[EncodedPacket]:
        """Add silence until a time in seconds."""
        until = round(end * SAMPLE_RATE)
        while (missing := until - self._position) > 0:
            self._samples += bytes(min(missing, SAMPLE_RATE) * _SAMPLE_BYTES)
            yield from self._encoded()

    def flush(self) -> Iterator[EncodedPacket]:
        """Yield the last packets."""
        self._samples += bytes(-len(self._samples) % (_FRAME_SAMPLES * _SAMPLE_BYTES))
        yield from self._encoded()
        yield from self._stream.encode()

    @property
    def _position(self) -> int:
        return self._count + len(self._samples) // _SAMPLE_BYTES

    def _encoded(self) -> Iterator[EncodedPacket]:
        """Encode whole frames; samples that are left wait for the next ones."""
        size = _FRAME_SAMPLES * _SAMPLE_BYTES
        while len(self._samples) >= size:
            frame = self._av.AudioFrame(format="s16", layout="stereo", samples=_FRAME_SAMPLES)
            frame.planes[0].update(bytes(self._samples[:size]))
            frame.sample_rate, frame.pts = SAMPLE_RATE, self._count
            frame.time_base = Fraction(1, SAMPLE_RATE)
            del self._samples[:size]
            self._count += _FRAME_SAMPLES
            yield from self._stream.encode(frame)
