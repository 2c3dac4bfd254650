"""A server that behaves as the contract says."""

from kling_async.testing.emulator.emulator import Emulator
from kling_async.testing.emulator.records import Arrival, Delivery, Submission
from kling_async.testing.emulator.service import PRICES

__all__ = ["PRICES", "Arrival", "Delivery", "Emulator", "Submission"]
