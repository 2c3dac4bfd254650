"""Helpers that know nothing of the service."""
