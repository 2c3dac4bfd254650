"""Batches: many inputs, resumed after a crash."""

from kling_async.batch.batch import Batch
from kling_async.batch.decisions import Item

__all__ = ["Batch", "Item"]
