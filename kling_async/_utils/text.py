"""Text for people."""

from __future__ import annotations

_MINUTE, _HOUR = 60, 3600
_KILO = 1000

# A shorter secret is no real key, and replacing it would garble the text.
_SHORTEST_SECRET = 8

_LONGEST_VALUE = 80


def format_duration(seconds: float) -> str:
    """Return a duration in at most two units, such as ``1 h 5 min`` or ``42 s``."""
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s".removesuffix(" 0 s")
    return f"{whole // _HOUR:,} h {whole % _HOUR // _MINUTE} min".removesuffix(" 0 min")


def format_size(size_bytes: int) -> str:
    """Return a size in kilobytes or megabytes."""
    kilobytes = size_bytes / _KILO
    return f"{kilobytes:.0f} kB" if kilobytes < _KILO else f"{kilobytes / _KILO:.1f} MB"


def printable(text: str) -> str:
    """Escape control characters: text of the service or of a user may contain any."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def redact(text: str, secret: str) -> str:
    """Replace the API key, and the signatures of URLs, in a text that will be shown."""
    from kling_async._utils.signatures import redact_signatures

    shown = redact_signatures(text)
    return shown.replace(secret, "[API key]") if len(secret) >= _SHORTEST_SECRET else shown


def one_line(text: str, secret: str) -> str:
    """Return a text as one printable line without the API key."""
    # Lone surrogates cannot be printed, and terminals interpret escape sequences.
    line = text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)
    return redact(line, secret)


def format_value(value: object) -> str:
    """Return the repr of a value for a message, shortened to about 80 characters."""
    if isinstance(value, str):
        start = repr(value[:_LONGEST_VALUE])
        return start if len(value) <= _LONGEST_VALUE else f"{start}… ({len(value)} characters)"
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, a deep nesting
        text = f"{type(value).__name__} too large to show"
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"
