"""How figures are made: contenders take turns, and what is compared was measured side by side."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from statistics import median, quantiles


async def take_turns(
    contenders: Mapping[str, Callable[[], Awaitable[float]]], rounds: int
) -> dict[str, list[float]]:
    """Measure each contender once a round, every other round in the reverse order."""
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(-1, rounds):
        names = list(contenders)
        for name in names if number % 2 else reversed(names):
            figure = await contenders[name]()
            if number >= 0:  # the first round warms up
                figures[name].append(figure)
    return figures


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the ratios within each round: noise that lasts hits both."""
    return median(one / other for one, other in zip(ours, theirs, strict=True))


def quartiles(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Return how far the ratios of single rounds lie apart."""
    low, _, high = quantiles([one / other for one, other in zip(ours, theirs, strict=True)], n=4)
    return f"{low:.2f}-{high:.2f}"


def title(text: str) -> None:
    """Print the heading of one measurement."""
    print(f"\n{text}")


def row(name: str, *figures: str) -> None:
    """Print one line of a table."""
    print(f"  {name:<48}", *(f"{figure:>16}" for figure in figures), flush=True)
