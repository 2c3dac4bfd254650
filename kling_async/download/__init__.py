"""Saves the files of results: streamed to a part file, checked, and then given their name."""

from kling_async._network.proxies import Proxies
from kling_async.download.files import check_folder
from kling_async.download.names import file_name
from kling_async.download.save import download
from kling_async.download.source import MAX_BYTES

__all__ = ["MAX_BYTES", "Proxies", "check_folder", "download", "file_name"]
