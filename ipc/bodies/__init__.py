"""Bodies that are too large for a ring record."""
