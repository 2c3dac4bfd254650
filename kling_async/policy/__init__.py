"""When, never how: decisions as functions of values."""
