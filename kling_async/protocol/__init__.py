"""The API as pure functions: values to requests, answers to values."""
