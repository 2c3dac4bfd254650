"""``python -m tests.bench [import] [generation] [waiting] [lost] ...``: how fast it is.

Everything is measured in one run, contenders in turns, so that ratios hold on a noisy machine
where the figures themselves do not.
"""

import argparse
import platform

import aiohttp

from tests.bench import (
    callbacks,
    detection,
    fleet,
    generation,
    hooks,
    imports,
    journal,
    lost,
    makespan,
    memory,
    shared,
    waiting,
)

PARTS = {
    "import": imports.main,
    "generation": generation.main,
    "hooks": hooks.main,
    "waiting": waiting.main,
    "lost": lost.main,
    "detection": detection.main,
    "makespan": makespan.main,
    "memory": memory.main,
    "journal": journal.main,
    "callbacks": callbacks.main,
    "shared": shared.main,
}

# These take minutes each, and are run if they are named.
LONG = {
    "fleet": fleet.main,
    "hundred-thousand": makespan.hundred_thousand,
    "million": memory.million,
    "shared-full": shared.full,
}


def main() -> None:
    """Run the parts asked for, or all but the long ones."""
    known = PARTS | LONG
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Print ratios.")
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(known))
    parts: list[str] = parser.parse_args().parts
    if unknown := set(parts) - set(known):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    print(f"Python {platform.python_version()}, aiohttp {aiohttp.__version__}")
    for name in parts or PARTS:
        known[name]()


if __name__ == "__main__":
    main()
