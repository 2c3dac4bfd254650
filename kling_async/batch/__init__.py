"""Batches: many inputs, resumed after a crash."""

from kling_async.batch.batch import Batch, Item

__all__ = ["Batch", "Item"]
