"""Connections to PostgreSQL, for the shared limits, the journal, the queue and the relay."""
