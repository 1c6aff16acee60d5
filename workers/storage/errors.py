"""What is wrong with a storage's settings; a storage at work raises nothing, it logs."""


class StorageError(Exception):
    """Root of the storage's errors."""


class StorageURLError(StorageError, ValueError):
    """A Redis URL that cannot be used; the message does not repeat its password."""
