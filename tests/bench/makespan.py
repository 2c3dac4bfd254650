"""How long many tasks take at the account's cap, simulated, and what trouble does to it.

What is compared is a client that knows each end in the moment of it, needs no requests, and fills
a free slot at once. See `simulation`.
"""

from statistics import mean

from kling_async import Limits
from tests.bench import figures
from tests.bench.simulation import DURATION, Case, Figures, simulate, simulate_all

CAP = Case(20_000)
CASES = {
    "20,000 tasks": CAP,
    "times not reported": Case(5_000, reported=False),
    "tasks after 200 s take twice as long": Case(5_000, slow_after=200.0),
    "1 % take half an hour, waited for 10 min": Case(5_000, stuck=0.01, timeout=600.0),
    "10 requests a minute, 3 slots": Case(60, Limits(10, 3)),
}
MOST = 1.03


def head() -> None:
    """Print the names of the columns."""
    figures.row("", "makespan", "perfect", "ratio", "late, mean", "in 60 s", "at once", "over")


def show(name: str, figure: Figures) -> None:
    """Print one row."""
    figures.row(
        name,
        f"{figure.makespan:,.0f} s",
        f"{figure.perfect:,.0f} s",
        f"{figure.makespan / figure.perfect:.3f}",
        f"{mean(figure.late):.2f} s",
        f"{figure.fullest:,}",
        f"{figure.most:,}",
        f"{figure.over:,}",
    )


def show_bound(figure: Figures) -> None:
    """Print the ratio that the project has set itself, and what the simulation cost."""
    one = mean(DURATION)
    rounds = figure.case.tasks / figure.case.limits.concurrent_tasks
    ratio = (figure.makespan - one) / (rounds * one)
    figures.row("  less one duration, to tasks / slots x mean", f"{ratio:.3f} of {MOST}")
    speed = f"{figure.case.tasks / figure.cpu:.0f} tasks a second"
    figures.row("  CPU time of the simulation", f"{figure.cpu:.0f} s", speed)


def main() -> None:
    """Print the table."""
    figures.title("Simulated: makespan, at 1,000 slots unless stated otherwise")
    head()
    for name, figure in zip(CASES, simulate_all(CASES.values()), strict=True):
        show(name, figure)
        if figure.case == CAP:
            show_bound(figure)


def hundred_thousand() -> None:
    """Print the row of very many tasks."""
    figures.title("Simulated: makespan of 100,000 tasks at 1,000 slots")
    head()
    figure = simulate(Case(100_000))
    show("100,000 tasks", figure)
    show_bound(figure)


if __name__ == "__main__":
    main()
