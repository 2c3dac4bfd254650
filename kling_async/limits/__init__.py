"""Limits of an account: how many requests and tasks it may have at a time."""

from kling_async.limits.base import Limiter, Limits, Permit, Slot

__all__ = ["Limiter", "Limits", "Permit", "Slot"]
