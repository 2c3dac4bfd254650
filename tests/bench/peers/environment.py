"""The other clients, in an environment of their own."""

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

PEERS = ("runwayml==5.24.0", "openai==3.54.0", "replicate==1.0.7", "fal-client==1.0.3")

# What they speak HTTP with, as it comes.
BELOW = ("httpx", "httpx2")

# What the clients would read their settings from. They must have their defaults.
SETTINGS = ("APIXO_", "FAL_", "OPENAI_", "REPLICATE_", "RUNWAYML_")

_VERSIONS = "import sys, importlib.metadata as m; print(*map(m.version, sys.argv[1:]))"


def build(folder: Path) -> str:
    """Install the other clients into a new environment; return its Python."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", *PEERS], check=True)
    return python


def plain() -> dict[str, str]:
    """Return the variables that a client may see: no settings, no proxies."""
    return {
        name: value
        for name, value in os.environ.items()
        if not (name.startswith(SETTINGS) or name.lower().endswith("_proxy"))
    }


def versions(python: str) -> Sequence[str]:
    """Return what is compared, as installed."""
    names = [*(peer.partition("==")[0] for peer in PEERS), *BELOW]
    reported = subprocess.run(
        [python, "-c", _VERSIONS, *names], check=True, stdout=subprocess.PIPE, text=True
    ).stdout.split()
    ours = [("kling_async", version("kling-async")), ("aiohttp", version("aiohttp"))]
    return [f"{name} {number}" for name, number in (*ours, *zip(names, reported, strict=True))]
