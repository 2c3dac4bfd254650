import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kling_async.protocol.failures import advice_for, reason_for
from kling_async.results import FailReason

# No property depends on how fast the machine is, or on luck.
FREELY = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize(
    ("reason", "codes"),
    [
        (
            "content",
            """CONTENT_VIOLATION NSFW_DETECTED SensitiveContent SensitiveContentDetected
            InputImageSensitiveContentDetected NSFW ProhibitedContentDetected""",
        ),
        ("content_output", "InputOutputSensitiveContentDetected"),
        ("prompt", "PROMPT_TOO_LONG INVALID_PROMPT PromptLengthExceeded"),
        ("image", "INVALID_IMAGE_URL IMAGE_TOO_LARGE UNSUPPORTED_FORMAT IMAGE_DOWNLOAD_FAILED"),
        ("timeout", "PROCESSING_TIMEOUT"),
        ("unavailable", "MODEL_UNAVAILABLE"),
        ("generation", "GENERATION_FAILED"),
        ("balance", "INSUFFICIENT_CREDITS"),
    ],
)
def test_codes_of_the_contract(reason: str, codes: str) -> None:
    """Every fail code that the contract names has the reason that it says."""
    assert {code: str(reason_for(code)) for code in codes.split()} == dict.fromkeys(
        codes.split(), reason
    )


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("OutputVideoSensitiveContentDetected", FailReason.CONTENT_OUTPUT),
        ("OutputAudioSensitiveContentDetected", FailReason.CONTENT_OUTPUT),
        ("AudioSensitiveContentDetected", FailReason.CONTENT_OUTPUT),
        ("NSFW_OUTPUT", FailReason.CONTENT_OUTPUT),
        ("InputVideoSensitiveContentDetected", FailReason.CONTENT),
        ("InputTextSensitiveContentDetected", FailReason.CONTENT),
        ("INVALID_VIDEO_URL", FailReason.MEDIA),
        ("VIDEO_TOO_LONG", FailReason.MEDIA),
        ("AudioTooLong", FailReason.MEDIA),
        ("INVALID_LORA_URL", FailReason.MEDIA),
        ("INVALID_MASK_URL", FailReason.MEDIA),
        ("INVALID_TAIL_IMAGE_URL", FailReason.IMAGE),
        ("nsfw_image", FailReason.CONTENT),
        ("PROHIBITED_PROMPT", FailReason.CONTENT),
        ("PolicyViolation", FailReason.CONTENT),
        ("PROMPT_EMPTY", FailReason.PROMPT),
        ("ImageTooSmall", FailReason.IMAGE),
        ("not_enough_credits", FailReason.BALANCE),
        ("BALANCE_LOW", FailReason.BALANCE),
    ],
)
def test_codes_of_tomorrow(code: str, reason: FailReason) -> None:
    """A code that is not known is sorted by what it speaks of, a refusal of content first."""
    assert reason_for(code) is reason


@pytest.mark.parametrize("code", ["", "E1234", "processing_timeouts", "🦊", "\ud800"])
def test_unknown_codes(code: str) -> None:
    """A code that says nothing is unknown, and no error."""
    assert reason_for(code) is FailReason.UNKNOWN


@FREELY
@given(st.text(st.characters()))
def test_any_text_has_a_reason(code: str) -> None:
    """Whatever the service calls it, there is a reason and advice on it."""
    assert advice_for(reason_for(code))


def test_advice() -> None:
    """Each reason has advice of its own, and only where it may help speaks of repeating."""
    said = {reason: advice_for(reason) for reason in FailReason}
    assert len(set(said.values())) == len(FailReason)
    again = {reason for reason, words in said.items() if "submit" in words}
    assert again == {
        FailReason.CONTENT_OUTPUT,
        FailReason.TIMEOUT,
        FailReason.UNAVAILABLE,
        FailReason.GENERATION,
    }


_PARTS = (
    *("Input", "Output", "Sensitive", "NSFW", "PROHIBITED", "Violation", "Video", "AUDIO"),
    *("Image", "Prompt", "lora", "invalid", "url", "credit", "_", "x", "É"),
)
WORDS = st.lists(st.sampled_from(_PARTS)).map("".join)


@FREELY
@given(WORDS)
def test_a_refused_output_is_never_taken_for_the_input(code: str) -> None:
    """Only a refusal that does not mention the output will be repeated for the same input."""
    folded, reason = code.casefold(), reason_for(code)
    refused = any(word in folded for word in ("sensitive", "nsfw", "prohibited", "violation"))
    assert refused is (reason in {FailReason.CONTENT, FailReason.CONTENT_OUTPUT})
    if refused and "output" in folded:
        assert reason is FailReason.CONTENT_OUTPUT
    if refused and "input" in folded and "output" not in folded:
        assert reason is FailReason.CONTENT
