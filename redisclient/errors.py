"""Errors about Redis URLs; errors of Redis itself are redis-py's."""


class RedisURLError(ValueError):
    """A Redis URL that cannot be used; the message does not repeat its password."""
