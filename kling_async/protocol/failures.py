"""The meaning of the vendor's fail codes.

New codes may appear, and two styles of names coexist. So a code is looked up in a table of known
codes first, and then searched for known fragments. An unknown code is not an error.
"""

from __future__ import annotations

from kling_async.results import FailReason

_CODES = {
    "CONTENT_VIOLATION": FailReason.CONTENT,
    "NSFW_DETECTED": FailReason.CONTENT,
    "SensitiveContent": FailReason.CONTENT,
    "SensitiveContentDetected": FailReason.CONTENT,
    "InputImageSensitiveContentDetected": FailReason.CONTENT,
    "InputOutputSensitiveContentDetected": FailReason.CONTENT_OUTPUT,
    "NSFW": FailReason.CONTENT,
    "ProhibitedContentDetected": FailReason.CONTENT,
    "PROMPT_TOO_LONG": FailReason.PROMPT,
    "INVALID_PROMPT": FailReason.PROMPT,
    "PromptLengthExceeded": FailReason.PROMPT,
    "INVALID_IMAGE_URL": FailReason.IMAGE,
    "IMAGE_TOO_LARGE": FailReason.IMAGE,
    "UNSUPPORTED_FORMAT": FailReason.IMAGE,
    "IMAGE_DOWNLOAD_FAILED": FailReason.IMAGE,
    "PROCESSING_TIMEOUT": FailReason.TIMEOUT,
    "MODEL_UNAVAILABLE": FailReason.UNAVAILABLE,
    "GENERATION_FAILED": FailReason.GENERATION,
    "INSUFFICIENT_CREDITS": FailReason.BALANCE,
}

# For other codes: the first row whose fragments all occur in the code. Refusals of content come
# first, since it is pointless to repeat them. The inputs of this vendor's image-to-video models
# are images and texts, so sensitive video or audio is that of the output.
_REFUSED = ("sensitive", "nsfw", "prohibited", "violation")
_FRAGMENTS = (
    *(((word, "output"), FailReason.CONTENT_OUTPUT) for word in _REFUSED),
    *(((word, "input"), FailReason.CONTENT) for word in _REFUSED),
    *(
        ((word, media), FailReason.CONTENT_OUTPUT)
        for word in _REFUSED
        for media in ("video", "audio")
    ),
    *(((word,), FailReason.CONTENT) for word in _REFUSED),
    (("prompt",), FailReason.PROMPT),
    (("image",), FailReason.IMAGE),
    (("video",), FailReason.MEDIA),
    (("audio",), FailReason.MEDIA),
    (("lora",), FailReason.MEDIA),
    (("invalid", "url"), FailReason.MEDIA),
    (("credit",), FailReason.BALANCE),
    (("balance",), FailReason.BALANCE),
)

_ADVICE = {
    FailReason.CONTENT: "the content was refused; the same input will be refused again",
    FailReason.CONTENT_OUTPUT: (
        "the video that was made was refused; submitting again may succeed and costs again"
    ),
    FailReason.PROMPT: "change the prompt",
    FailReason.IMAGE: "check that the image is reachable, JPEG, PNG or WebP, at most 10 MB",
    FailReason.MEDIA: "check that the file behind each URL is reachable and of the right kind",
    FailReason.TIMEOUT: "the service took too long; submitting again may succeed and costs again",
    FailReason.UNAVAILABLE: "the model is unavailable; submit again later",
    FailReason.GENERATION: "the generation failed; submitting again may succeed and costs again",
    FailReason.BALANCE: "top up the account",
    FailReason.UNKNOWN: "the code is not a known one",
}


def advice_for(reason: FailReason) -> str:
    """Return what to do about a failure, for a message."""
    return _ADVICE[reason]


def reason_for(fail_code: str) -> FailReason:
    """Return the category of a vendor's fail code."""
    if known := _CODES.get(fail_code):
        return known
    folded = fail_code.casefold()
    return next(
        (reason for words, reason in _FRAGMENTS if all(word in folded for word in words)),
        FailReason.UNKNOWN,
    )
