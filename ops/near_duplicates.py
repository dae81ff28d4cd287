"""Finds near-duplicates: which rows of a partition are so like an earlier one that one answer might do for both.

Row after row, in the order of the plan: it joins the most similar representative before it, if that is similar enough;
else it is a representative itself, for those to come. So every row of a group is like its representative, whatever the
others are (no chains), and nothing but the texts and their order decides. Rows with the very same text are one here.

Memory, while it lasts: about 90 bytes a row, and 16 for each band that two texts or more have in common. The sketches
lie in files, see `ops.sketches`; of those one band is read at a time. (What of the signatures is compared counts as
resident memory too, as long as nobody else wants it: it is mapped.)
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from docmill.ops.sketches import NUM_HASHES, Sketches

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Of those that share a band, the latest so many are compared: what is alike often stands near, and where thousands
# share a band (a form letter), to compare all would take the square of their number.
MAX_COMPARED_A_BAND = 4
ROWS_AT_ONCE = 4_096


@dataclass(frozen=True)
class Groups:
    """Near-duplicates of a partition. Rows are counted through all of its shards.

    `rows` are those that a representative may stand for, rising; `representatives` and `similarities` belong to them.
    """

    rows: NDArray[np.int64]
    representatives: NDArray[np.int64]
    similarities: NDArray[np.float64]
    num_groups: int
    largest_group: int  # rows, its representative and those with the same text included
    texts: NDArray[np.int64]  # the first row of each text that is asked about
    near_texts: NDArray[np.int64]  # of them, those in `rows`


def find_groups(
    sketches: Sketches,
    *,
    similarity: float,
    not_asked: Collection[int] = (),
    stand_alone: NDArray[np.bool_] | None = None,
) -> Groups:
    """The groups of all rows that are sketched, but those `not_asked`.

    `stand_alone`, by row: texts that no other is to stand for, though they may stand for others.
    """
    import numpy as np

    keys = np.array(sketches.asked_keys, np.uint64)
    keys[list(not_asked)] = 0
    first_rows = _first_rows(keys)
    texts = np.flatnonzero((first_rows == np.arange(len(keys))) & (keys != 0))
    joined, matches = _join(sketches, texts, similarity, stand_alone)
    near = np.flatnonzero(joined >= 0)
    representative_of = np.full(len(keys), -1, np.int64)
    representative_of[texts[near]] = texts[joined[near]]
    matches_of = np.zeros(len(keys), np.uint8)
    matches_of[texts[near]] = matches[near]
    # Each row as its text: one with the very text of a near-duplicate is asked as this is.
    representative_of, matches_of = representative_of[first_rows], matches_of[first_rows]
    rows = np.flatnonzero((representative_of >= 0) & (keys != 0))
    groups = np.unique(representative_of[rows])
    largest = 0
    if len(groups):
        members = np.where(representative_of >= 0, representative_of, first_rows)[keys != 0]
        largest = int(np.bincount(members)[groups].max())
    return Groups(
        rows=rows,
        representatives=representative_of[rows],
        similarities=matches_of[rows] / NUM_HASHES,
        num_groups=len(groups),
        largest_group=largest,
        texts=texts,
        near_texts=texts[near],
    )


def _first_rows(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """For each row the first one with the same key."""
    import numpy as np

    order = np.argsort(keys, kind="stable")
    is_first = _differs(keys[order])
    first_rows = np.empty(len(keys), np.int64)
    first_rows[order] = order[is_first][np.cumsum(is_first) - 1]
    return first_rows


def _join(
    sketches: Sketches,
    texts: NDArray[np.int64],
    similarity: float,
    stand_alone: NDArray[np.bool_] | None,
) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """For each text the number of the text that it joins, -1 for none; and how many hashes they share."""
    import numpy as np

    joined = np.full(len(texts), -1, np.int32)
    matches = np.zeros(len(texts), np.uint8)
    shared, num_shared = _shared_bands(sketches, texts)
    # Of each band that is shared: representatives, the latest in the place of the oldest.
    latest = np.full((num_shared + 1, MAX_COMPARED_A_BAND), -1, np.int32)
    counts = np.zeros(num_shared + 1, np.uint32)
    signatures = sketches.signatures()
    fewest = int(np.ceil(round(similarity * NUM_HASHES, 6)))
    for start in range(0, len(texts), ROWS_AT_ONCE):
        part = np.array(shared[start : start + ROWS_AT_ONCE])
        for offset in np.flatnonzero(part.any(axis=1)):
            number = start + int(offset)
            bands = part[offset][part[offset] > 0]
            candidates = np.unique(latest[bands])
            candidates = candidates[candidates >= 0]
            row = texts[number]
            if len(candidates) and (stand_alone is None or not stand_alone[row]):
                same = (signatures[texts[candidates]] == signatures[row]).sum(axis=1)
                best = int(same.argmax())  # the earliest of equals
                if same[best] >= fewest:
                    joined[number], matches[number] = candidates[best], same[best]
                    continue
            latest[bands, counts[bands] % MAX_COMPARED_A_BAND] = number
            counts[bands] += 1
    return joined, matches


def _shared_bands(sketches: Sketches, texts: NDArray[np.int64]) -> tuple[NDArray[np.uint32], int]:
    """[len(texts), num_bands], in a file: 0, or a number for the band where other texts have the same; how many."""
    import numpy as np

    if not len(texts):
        return np.empty((0, sketches.num_bands), np.uint32), 0
    with tempfile.TemporaryFile() as file:  # which is there as long as its map
        shared = np.memmap(file, np.uint32, "w+", shape=(len(texts), sketches.num_bands))
    num_shared = 0
    for band in range(sketches.num_bands):
        keys = sketches.band(band)[texts]
        order = np.argsort(keys, kind="stable")
        groups = np.cumsum(_differs(keys[order])) - 1
        is_shared = np.bincount(groups) > 1
        numbers = np.where(is_shared, np.cumsum(is_shared) + num_shared, 0)
        shared[order, band] = numbers[groups]
        num_shared += int(is_shared.sum())
    return shared, num_shared


def _differs(values: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Whether each differs from the one before; the first does."""
    import numpy as np

    differs: NDArray[np.bool_] = np.ones(len(values), np.bool_)
    differs[1:] = values[1:] != values[:-1]
    return differs
