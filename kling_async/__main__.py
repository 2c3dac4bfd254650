"""``kling-async`` and ``python -m kling_async``: the command line."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; Ctrl-C while its modules are imported ends it without a traceback."""
    try:
        from kling_async.cli.main import main as run_command_line

        return run_command_line()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":  # pragma: no branch - it is only ever run
    sys.exit(main())
