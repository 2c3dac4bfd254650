"""``python -m kling_async`` is the command ``kling-async``."""

import sys

from kling_async.cli.main import main

if __name__ == "__main__":  # pragma: no branch - it is only ever run
    sys.exit(main())
