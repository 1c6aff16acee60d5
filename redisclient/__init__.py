"""Parse Redis URLs and build clients, for event streams and for storage."""
