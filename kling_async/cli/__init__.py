"""The command line: ``kling-async``, and ``python -m kling_async``."""
