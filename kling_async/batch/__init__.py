"""Batches: many inputs, resumed after a crash."""

from kling_async.batch.batch import Batch
from kling_async.batch.decisions import Item
from kling_async.batch.options import BatchOptions

__all__ = ["Batch", "BatchOptions", "Item"]
