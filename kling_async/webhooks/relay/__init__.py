"""Sends callbacks to the process that waits for them."""

from kling_async.webhooks.relay.relay import Relay, RelayCounts

__all__ = ["Relay", "RelayCounts"]
