"""Limits that several processes share, by way of Redis or PostgreSQL."""

from kling_async.limits.shared.limiter import SharedLimiter

__all__ = ["SharedLimiter"]
