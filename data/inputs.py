"""A file open for reading, of which each read is tried again at its position until it works.

`storage.open_input` gives it to pyarrow, which reads a Parquet file by ranges; resets and torn downloads in the middle
then cost a block, not the file.
"""

from __future__ import annotations

import io
from typing import BinaryIO

from docmill.data.retries import with_retries


class RetriedInput(io.RawIOBase):
    """Wraps a driver's stream. That the file was replaced meanwhile is for the driver to notice; it is passed on."""

    def __init__(self, uri: str, stream: BinaryIO):
        self._uri = uri
        self._stream = stream
        self._position = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """At most `size` bytes from here on; all that is left for -1."""

        def read() -> bytes:
            # A failed read may leave the stream anywhere.
            self._stream.seek(self._position)
            return self._stream.read(-1 if size is None else size)

        content = with_retries(self._uri, read)
        self._position += len(content)
        return content

    def readall(self) -> bytes:
        """All that is left."""
        return self.read(-1)

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]  # typeshed's Buffer has no len
        """Fill `buffer`; the number of bytes, fewer at the end of the file."""
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go there; nothing is read."""
        self._position = self._stream.seek(offset + (self._position if whence == io.SEEK_CUR else 0),
                                           io.SEEK_SET if whence == io.SEEK_CUR else whence)  # fmt: skip
        return self._position

    def tell(self) -> int:
        """Where the next read starts."""
        return self._position

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def close(self) -> None:
        """Give the driver's stream back."""
        self._stream.close()
        super().close()
