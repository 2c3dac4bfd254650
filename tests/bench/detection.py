"""How long after a task's end the client knows of it, simulated: see `simulation`.

Beside it stand fixed schedules, with the same model: once without a limit, to see what they need,
and once within the client's limiter, to see what they get.
"""

from statistics import mean, quantiles

from kling_async import Limits
from tests.bench import figures
from tests.bench.simulation import SCHEDULES, Case, Figures, simulate_all

FULL, TENTH = Limits(), Limits(concurrent_tasks=100)
AT_ONCE = (0.0, 0.0)

# The rows, and the most that the mean may be, in seconds.
OURS: dict[str, tuple[Case, float | None]] = {
    "1,000 running": (Case(8_000, FULL, staggered=True), 0.8),
    "1,000 running, submitted together": (Case(8_000, FULL), None),
    "1,000 running, answered at once": (Case(8_000, FULL, latency=AT_ONCE, staggered=True), None),
    "1,000 running, times not reported": (Case(8_000, FULL, reported=False, staggered=True), None),
    "100 running": (Case(3_000, TENTH), 0.6),
    "100 running, answered at once": (Case(3_000, TENTH, latency=AT_ONCE), None),
    "100 running, times not reported": (Case(3_000, TENTH, reported=False), None),
}
FIXED = {
    f"{name}{', within the limit' * kept}": Case(4_000, schedule=name, unlimited=not kept)
    for name in SCHEDULES
    for kept in (False, True)
}


def show(name: str, figure: Figures, target: float | None = None) -> None:
    """Print one row."""
    late = mean(figure.steady)
    figures.row(
        name,
        f"{late:.2f} s",
        f"{quantiles(figure.steady, n=20)[-1]:.1f} s",
        f"{mean(figure.late):.2f} s",
        f"{figure.requests / figure.case.tasks:.1f}",
        f"{figure.fullest:,}",
        f"{figure.over:,}",
        f"{late / target:.2f} of {target} s" if target else "",
    )


def main() -> None:
    """Print the table."""
    figures.title("Simulated: from a task's end until the client knows; tasks of 60-90 s")
    figures.row("", "mean", "95 %", "with the start", "requests a task", "in 60 s", "over", "")
    cases = [*(case for case, _ in OURS.values()), *FIXED.values()]
    results = simulate_all(cases)
    for name, (_, target) in OURS.items():
        show(name, next(results), target)
    for name in FIXED:
        show(name, next(results))


if __name__ == "__main__":
    main()
