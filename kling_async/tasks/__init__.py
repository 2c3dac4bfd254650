"""The life of a remote task: submit, poll or callback, result."""
