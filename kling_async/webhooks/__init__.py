"""Callbacks of the service: the inbox, and adapters for web frameworks."""

from kling_async.webhooks.inbox import Counts, Inbox

__all__ = ["Counts", "Inbox"]
