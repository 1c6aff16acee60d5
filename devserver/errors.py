"""Errors of the development gateway."""


class DevError(Exception):
    """`tykpy dev` cannot use what it was given; the message says where, why, and what to do."""


class DefinitionError(DevError):
    """A file with an API definition, a manifest, keys or policies cannot be used."""

    def __init__(self, message: str, file: str, line: int = 0) -> None:
        super().__init__(f"{file}:{line}: {message}" if line else f"{file}: {message}")
        self.message = message
        self.file = file
        self.line = line
        """0 if the whole file is meant."""


class HooksError(DevError):
    """The process that runs the hooks cannot be used."""
