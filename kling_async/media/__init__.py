"""What a saved video contains, and whether it fits its input. Needs the extra ``media``."""

from kling_async.media.inspection import inspect_video, save_poster
from kling_async.media.verdict import find_problems

__all__ = ["find_problems", "inspect_video", "save_poster"]
