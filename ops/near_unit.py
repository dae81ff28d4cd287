"""What a worker reads of near-duplicates when it opens a unit: whose texts to ask about, and answers there are already.

`ops.representatives` has decided the first; the second are the requests that units leave when they are done.
"""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc

from docmill.data.errors import StorageNotFound
from docmill.data.kept_answers import REQUESTS, read_part
from docmill.data.layout import join
from docmill.data.ledger import Ledger
from docmill.data.near_rows import Representative, read_near_rows
from docmill.data.plan import Unit
from docmill.data.segments import FinishedRequest, from_table
from docmill.data.utf8 import text_key

READERS = 8


def open_near(
    folder: str, ledger: Ledger, unit: Unit
) -> tuple[dict[int, Representative], dict[str, FinishedRequest]]:
    """Of a unit's rows those that are asked as another, and what is known of these others from units that are done."""
    rows = read_near_rows(join(folder, name) for name in (unit.id, *unit.ancestors))
    rows = {row: found for row, found in rows.items() if unit.first_row <= row < unit.end_row}
    if not rows:
        return {}, {}
    places: defaultdict[str, set[int]] = defaultdict(set)
    for found in rows.values():
        places[found.shard].add(found.document.row)
    view = ledger.view()
    done = [
        other.id
        for other in ledger.units(view)
        if other.id in view.done
        and any(other.first_row <= row < other.end_row for row in places.get(other.shard, ()))
    ]
    keys = {text_key(found.document.text or "") for found in rows.values()}
    wanted = pa.array(sorted(keys), pa.uint64())
    parts = [mark.parts[REQUESTS] for mark in ledger.read_done(done) if REQUESTS in mark.parts]
    answers: dict[str, FinishedRequest] = {}
    with ThreadPoolExecutor(READERS) as readers:
        for table in readers.map(lambda uri: _read_answers(uri, wanted), parts):
            if table is not None:
                answers |= {finished.request_key: finished for finished in from_table(table)}
    return rows, answers


def _read_answers(uri: str, text_keys: pa.Array) -> pa.Table | None:
    try:
        table = read_part(uri)
    except (StorageNotFound, pa.ArrowException, OSError):  # another run has finished, or half of it is there
        return None
    return table.filter(pc.is_in(table["text_key"], value_set=text_keys))
