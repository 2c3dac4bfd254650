"""Text for people."""

from __future__ import annotations

from kling_async._utils.urls import redact_signatures

_TEN, _MINUTE, _HOUR = 10, 60, 3600
_KILO = 1000

# A shorter secret is no real key, and replacing it would garble the text.
_SHORTEST_SECRET = 8

_LONGEST_VALUE = 80


def format_duration(seconds: float) -> str:
    """Return a duration in at most two units, such as ``1 h 5 min``, ``42 s`` or ``0.5 s``."""
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{round(seconds, 1) if seconds < _TEN else whole:g} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s".removesuffix(" 0 s")
    return f"{whole // _HOUR:,} h {whole % _HOUR // _MINUTE} min".removesuffix(" 0 min")


def format_size(size_bytes: int) -> str:
    """Return a size in bytes, kilobytes, megabytes or gigabytes, such as ``4.2 MB``."""
    if size_bytes < _KILO:
        return format_count(size_bytes, "byte")
    size = size_bytes / _KILO
    if round(size) < _KILO:
        return f"{size:.0f} kB"
    size /= _KILO
    return f"{size:.1f} MB" if round(size, 1) < _KILO else f"{size / _KILO:.1f} GB"


def format_count(count: int, noun: str, plural: str = "") -> str:
    """Return a number of things, such as ``1 row`` or ``1,200 rows``."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def printable(text: str) -> str:
    """Escape control characters: text of the service or of a user may contain any."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def redact(text: str, secret: str) -> str:
    """Replace the API key, and the signatures of URLs, in a text that will be shown."""
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
