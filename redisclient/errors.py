"""What is wrong with a Redis URL; what goes wrong with Redis itself is said by redis-py's errors."""


class RedisURLError(ValueError):
    """A Redis URL that cannot be used; the message does not repeat its password."""
