"""How long tests wait for another program."""

from typing import Final

HANGS: Final = 600.0
"""Seconds after which a program is taken to hang. On a loaded machine, one that does not hang may
need a minute only to start."""

STARTS: Final = 120.0
"""Seconds after which a server is taken to be unable to start."""
