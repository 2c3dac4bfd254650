"""The inputs: one class for each mode of each model."""

from kling_async.inputs.base import Input, Provider, parse_input
from kling_async.inputs.kling_2_1 import (
    AspectRatio,
    Duration,
    MasterImageToVideo,
    MasterTextToVideo,
    ProImageToVideo,
    StandardImageToVideo,
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
