"""The fields that several models share: their types, and their rules as attrs metadata."""

from __future__ import annotations

from typing import Literal

from kling_async.inputs.base import ruled
from kling_async.inputs.rules import WEB_URL, one_of, or_none, tenths

Duration = Literal[5, 10]
AspectRatio = Literal["16:9", "9:16", "1:1"]
Provider = Literal["auto", "value", "official"]

IMAGE = ruled(WEB_URL)
END_IMAGE = ruled(or_none(WEB_URL))
VIDEO = ruled(WEB_URL)
DURATION = ruled(one_of(5, 10))
CFG_SCALE = ruled(or_none(tenths(0, 1)))
ASPECT_RATIO = ruled(one_of("16:9", "9:16", "1:1"))
PROVIDER = ruled(or_none(one_of("auto", "value", "official")))
