"""Sample inputs for all four modes of ``kling-2-1`` and the other models, and their drawings.

The drawings are our own and come under the project's licence.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent / "samples"
"""Serve it: ``Emulator(samples=FOLDER)`` answers under ``/samples/fox.jpg`` and so on."""

DEMO: Final = FOLDER / "demo.jsonl"
"""Inputs as JSON Lines, in which ``{emulator}`` is replaced by the emulator's origin."""
