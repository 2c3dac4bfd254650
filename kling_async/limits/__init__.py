"""The limits of an account, and what keeps them."""

from kling_async.limits.base import Limiter, Limits, Permit, Slot

__all__ = ["Limiter", "Limits", "Permit", "Slot"]
