"""Draw docs/explanation/polling.svg: python docs/explanation/draw_polling.py.

The moments of our own schedule are computed by the policy itself.
The picture is inserted into a page, and uses the colour of the text around it, light or dark.
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from kling_async import Polling
from kling_async.policy.durations import Durations, Kind, expected

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FILE = Path(__file__).with_name("polling.svg")

# Tasks end evenly between these ages, in seconds.
FIRST, LAST = 60.0, 90.0
DURATIONS = [FIRST + (LAST - FIRST) * (n + 0.5) / 3000 for n in range(3000)]

UNTIL = 240.0  # seconds that are shown
LEFT, RIGHT, TOP, ROW = 16, 704, 48, 54
WIDTH = RIGHT + LEFT


def ages(first: float, wait: Callable[[float], float]) -> list[float]:
    """Return the ages at which a task that never ends is polled."""
    moments = [first]
    while moments[-1] <= UNTIL:
        moments.append(moments[-1] + wait(moments[-1]))
    return moments


def ours(known: Durations | None) -> list[float]:
    """Return the moments of our own schedule."""
    polling = Polling()
    return ages(polling.first_wait(known), lambda age: polling.next_wait(age, known))


def schedules() -> dict[str, list[float]]:
    """Return the moments of each schedule."""
    learned = Durations(tuple(FIRST + (LAST - FIRST) * (n + 0.5) / 40 for n in range(40)))
    backoff = [5.0]
    while backoff[-1] <= UNTIL:
        backoff.append(backoff[-1] + min(30.0, 5.0 * 1.5 ** len(backoff)))
    return {
        "this one, from the vendor's figures": ours(expected(Kind("kling-2-1", duration=5))),
        "this one, learned from forty tasks": ours(learned),
        "this one, where nothing is known": ours(None),
        "60 s, then every 5 s": ages(60.0, lambda _: 5.0),
        "5 s, then ×1.5, at most 30 s": backoff,
        "every 3 s": ages(3.0, lambda _: 3.0),
    }


def figures(moments: Sequence[float]) -> tuple[float, float]:
    """Return the mean time from a task's end to its discovery, and the mean number of polls."""
    found = [next(n for n, at in enumerate(moments) if at >= one) for one in DURATIONS]
    late = mean(moments[n] - one for n, one in zip(found, DURATIONS, strict=True))
    return late, mean(n + 1 for n in found)


def x(age: float) -> str:
    """Return the place of an age in the picture."""
    return f"{LEFT + (RIGHT - LEFT) * age / UNTIL:.1f}"


def draw() -> str:
    """Draw the picture."""
    rows = schedules()
    bottom = TOP + ROW * len(rows)
    label = "Moments at which a task is polled, by its age, for six schedules"
    band = (RIGHT - LEFT) * (LAST - FIRST) / UNTIL
    middle = (FIRST + LAST) / 2
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 44}"',
        f' role="img" aria-label="{label}" fill="currentColor" font-family="sans-serif"',
        ' font-size="13" style="width: 100%; height: auto">',
        f'<rect x="{x(FIRST)}" y="{TOP - 14}" width="{band:.1f}" height="{bottom - TOP + 14}"',
        ' fill="#2a9d6f" fill-opacity="0.22"/>',
        f'<text x="{x(middle)}" y="{TOP - 22}" text-anchor="middle">tasks end here</text>',
    ]
    for number, (name, moments) in enumerate(rows.items()):
        y = TOP + ROW * number
        late, polls = figures(moments)
        own = name.startswith("this one")
        weight, color = ("bold", "#2f7de1") if own else ("normal", "#d9722e")
        path = "".join(f"M{x(at)} {y + 22}v14" for at in moments if at <= UNTIL)
        lines += [
            f'<text x="{LEFT}" y="{y + 12}" font-weight="{weight}">{name}</text>',
            f'<text x="{RIGHT}" y="{y + 12}" text-anchor="end">',
            f"found {late:.1f} s late, {polls:.1f} polls</text>",
            f'<path d="M{LEFT} {y + 36}H{RIGHT}" stroke="currentColor" stroke-opacity="0.3"/>',
            f'<path d="{path}" stroke="{color}" stroke-width="1.5"/>',
        ]
    lines += [
        f'<text x="{x(age)}" y="{bottom + 16}" text-anchor="middle">{age}</text>'
        for age in range(0, int(UNTIL) + 1, 30)
    ]
    lines += [
        f'<text x="{x(UNTIL / 2)}" y="{bottom + 36}" text-anchor="middle">',
        "age of the task, seconds</text>",
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the picture, and print the lateness and the polls of each schedule."""
    FILE.write_text(draw(), encoding="utf-8")
    for name, moments in schedules().items():
        late, polls = figures(moments)
        print(f"{name:<40} {late:5.2f} s late {polls:5.1f} polls a task")
    print(f"{FILE.name}: {FILE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
