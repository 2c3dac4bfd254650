"""A server that behaves as the contract says."""

from kling_async.testing.emulator.emulator import PRICES, Arrival, Delivery, Emulator, Submission

__all__ = ["PRICES", "Arrival", "Delivery", "Emulator", "Submission"]
