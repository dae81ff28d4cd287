"""MinHash sketches of a partition's texts, by which near-duplicates are found. On the local disk, not in memory.

A text is the set of its runs of `RUN_BYTES` bytes, in small letters and with single blanks; two texts are as similar
as the share of runs that they have in common (Jaccard). Bytes and not words: languages without blanks count too, and
about the same content counts the same in any script. `rensa` makes of each set `NUM_HASHES` numbers, of which two
texts share about that part. Two texts are compared at all where a whole band of their numbers is equal.

What is sketched is what would be asked about: the text after `prepare`. Rows that are not asked about have no sketch.
"""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import xxhash

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SKETCH_VERSION = 1  # raise when a text's sketch changes: then near-duplicates may be others
RUN_BYTES = 8
NUM_HASHES = 128  # a similarity of 0.9 is estimated to within 0.027 (standard deviation)
MAX_BYTES_AT_ONCE = 1 << 20  # of text; the work on it takes about 20 times as much memory
SURE = 0.99  # how probably two texts that are just similar enough have at least one band in common
_SEED = 1


def num_bands(similarity: float) -> int:
    """As few as find `SURE` of the pairs that are just so similar: the longer bands are, the fewer pairs are false."""
    for num_hashes in (32, 16, 8, 4):
        bands = NUM_HASHES // num_hashes
        if 1 - (1 - similarity**num_hashes) ** bands >= SURE:
            return bands
    return NUM_HASHES // 2


@contextmanager
def open_sketches(similarity: float) -> Iterator[Sketches]:
    """Sketches for finding texts that are at least so similar."""
    sketches = Sketches(num_bands(similarity))
    try:
        yield sketches
    finally:
        sketches.close()


class Sketches:
    """One row after the other: 8 bytes of each are held in memory, 512 and 8 a band lie in files.

    The files have no name, so that they go with the process, however it ends.
    """

    def __init__(self, num_bands: int):
        self.num_bands = num_bands
        self.asked_keys = array("Q")  # of the texts as they are asked about; 0: the row is not
        self._signatures = tempfile.TemporaryFile()  # noqa: SIM115 - see `open_sketches`
        self._bands = [tempfile.TemporaryFile() for _ in range(num_bands)]  # noqa: SIM115

    @property
    def num_rows(self) -> int:
        """Rows so far."""
        return len(self.asked_keys)

    @property
    def num_bytes_in_files(self) -> int:
        """What lies on the local disk."""
        return sum(file.tell() for file in (self._signatures, *self._bands))

    def add(self, texts: Sequence[str | None]) -> None:
        """Sketch the next rows; None for a row that is not asked about."""
        start = num_bytes = 0
        for end, text in enumerate(texts):
            num_bytes += len(text or "")
            if num_bytes > MAX_BYTES_AT_ONCE:
                self._add(texts[start : end + 1])
                start, num_bytes = end + 1, 0
        self._add(texts[start:])

    def cut_back(self, num_rows: int) -> None:
        """Forget all rows but the first."""
        del self.asked_keys[num_rows:]
        for file, row_bytes in ((self._signatures, 4 * NUM_HASHES), *((band, 8) for band in self._bands)):
            file.truncate(num_rows * row_bytes)
            file.seek(num_rows * row_bytes)

    def signatures(self) -> NDArray[np.uint32]:
        """[num_rows, NUM_HASHES]; read from the file where it is looked at. Rows without a sketch are zero."""
        import numpy as np

        self._signatures.flush()
        if not self.num_rows:  # of which no map can be made
            return np.empty((0, NUM_HASHES), np.uint32)
        return np.memmap(self._signatures, np.uint32, "r", shape=(self.num_rows, NUM_HASHES))

    def band(self, number: int) -> NDArray[np.uint64]:
        """[num_rows]; equal where all numbers of the band are."""
        import numpy as np

        file = self._bands[number]
        file.seek(0)  # and by reading to its end back to where the next row is written
        return np.fromfile(file, np.uint64)

    def close(self) -> None:
        """Remove the files."""
        for file in (self._signatures, *self._bands):
            file.close()

    def _add(self, texts: Sequence[str | None]) -> None:
        import numpy as np

        asked = [row for row, text in enumerate(texts) if text is not None]
        signatures = np.zeros((len(texts), NUM_HASHES), np.uint32)
        if asked:
            signatures[asked] = sketch([text for text in texts if text is not None])
        self.asked_keys.extend(
            0 if text is None else xxhash.xxh3_64_intdigest(text.encode()) for text in texts
        )
        self._signatures.write(signatures.tobytes())
        keys = _band_keys(signatures, self.num_bands)
        for number, file in enumerate(self._bands):
            file.write(keys[:, number].tobytes())


def sketch(texts: Sequence[str]) -> NDArray[np.uint32]:
    """[len(texts), NUM_HASHES]; the same on every machine."""
    import numpy as np
    from rensa import RMinHash

    runs, borders = _runs(texts)
    rows = RMinHash.digest_matrix_from_flat_token_hashes(runs, borders, NUM_HASHES, _SEED).to_rows()
    return np.array(rows, np.uint32).reshape(len(texts), NUM_HASHES)


def _runs(texts: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """All runs of all texts, each as one number, and where those of each text begin (and the last end)."""
    import numpy as np

    # One that is shorter than a run is filled up: it has one run.
    contents = [" ".join(text.casefold().split()).encode().ljust(RUN_BYTES, b"\0") for text in texts]
    lengths = np.fromiter(map(len, contents), np.int64, len(contents))
    content = np.frombuffer(b"".join(contents) + bytes(RUN_BYTES), np.uint8)
    num_places = len(content) - RUN_BYTES
    runs = np.empty(num_places, np.uint64)
    for shift in range(RUN_BYTES):
        target = runs[shift::RUN_BYTES]
        target[:] = content[shift : shift + len(target) * RUN_BYTES].view("<u8")
    within_one_text: NDArray[np.bool_] = np.ones(num_places, np.bool_)
    ends = np.cumsum(lengths)
    for before_end in range(1, RUN_BYTES):
        within_one_text[ends - before_end] = False
    borders = np.zeros(len(texts) + 1, np.uint64)
    borders[1:] = np.cumsum(lengths - RUN_BYTES + 1)
    return runs[within_one_text], borders


def _band_keys(signatures: NDArray[np.uint32], num_bands: int) -> NDArray[Any]:
    """[rows, num_bands], 64 bits: equal bands have equal keys, others by a great accident only."""
    import numpy as np

    bands = signatures.reshape(len(signatures), num_bands, NUM_HASHES // num_bands).astype(np.uint64)
    keys = np.zeros(bands.shape[:2], np.uint64)
    for number in range(bands.shape[2]):
        keys = (keys ^ bands[:, :, number]) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
    return keys
