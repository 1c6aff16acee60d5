"""Where a Redis is and how it is reached, in every form that a URL has: for event streams and for storage."""
