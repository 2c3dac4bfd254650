"""The inputs: one class for each mode of each model."""

from kling_async.inputs.parse import (
    AspectRatio,
    Duration,
    Input,
    MasterImageToVideo,
    MasterTextToVideo,
    ProImageToVideo,
    Provider,
    StandardImageToVideo,
    parse_input,
)

__all__ = [
    "AspectRatio",
    "Duration",
    "Input",
    "MasterImageToVideo",
    "MasterTextToVideo",
    "ProImageToVideo",
    "Provider",
    "StandardImageToVideo",
    "parse_input",
]
