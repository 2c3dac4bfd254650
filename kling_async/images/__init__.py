"""Pictures of this machine as images of inputs: checked, and stored for the service to fetch."""

from kling_async.images.base import Image, ImageStore
from kling_async.images.fix import ImageFix
from kling_async.images.http_store import HttpImageStore
from kling_async.images.object_store import ObjectImageStore
from kling_async.images.opening import open_image_store
from kling_async.images.reading import read_images
from kling_async.inputs.local_image import LocalImage

__all__ = [
    "HttpImageStore",
    "Image",
    "ImageFix",
    "ImageStore",
    "LocalImage",
    "ObjectImageStore",
    "open_image_store",
    "read_images",
]
