"""The dynamic HPACK table of one peer (RFC 7541, sections 2.3.2 and 4): fields it may refer to by number."""

from hpack.table import HeaderTable


class DynamicTable(HeaderTable):
    """The table of the `hpack` library, with the largest size that we allow."""

    def __init__(self) -> None:
        super().__init__()
        self.limit = self.maxsize
        """Size that we allow in bytes, as far as the peer has acknowledged it."""

    def resize(self, size: int) -> None:
        """Change the size as the peer demands; raises ValueError if we do not allow it."""
        if size > self.limit:
            raise ValueError(f"a table of {size} bytes, {self.limit} are allowed")
        self.maxsize = size
