"""Saved videos: their facts, their frames, and several as one. Needs the extra ``media``."""

from kling_async.media.frames import FrameTime, save_frame, save_poster
from kling_async.media.inspection import inspect_video
from kling_async.media.joining import join_videos
from kling_async.media.verdict import find_problems

__all__ = [
    "FrameTime",
    "find_problems",
    "inspect_video",
    "join_videos",
    "save_frame",
    "save_poster",
]
