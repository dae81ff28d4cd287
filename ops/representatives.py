"""Decides once which rows are asked as which others, and lays that down beside the plan, for every worker to read.

    a run begins:  sketches --find_groups--> near-duplicates --settle--> one file a unit, and last the mark
    a unit opens:  its file (`ops.near_unit`): for each near-duplicate the text of its representative, which is asked in
                   its place; and what the representatives were answered in units that are done

A request about a representative's text is the representative's own to the last token, so it is spared like any other
duplicate: by the worker that has it in the engine or has had it lately, and, from unit to unit, by the answers that
finished units leave. What was decided stays, whoever is killed: the mark is written once.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING

from docmill.data import storage
from docmill.data.errors import SHARD_ERRORS, StorageNotFound
from docmill.data.layout import Layout, join
from docmill.data.near_rows import Representative, put_near_rows
from docmill.data.plan import Plan
from docmill.data.records import Document, Shard
from docmill.data.shards import ShardReader
from docmill.ops import reuse
from docmill.ops.job import Job
from docmill.ops.near_duplicates import Groups, find_groups
from docmill.ops.near_figures import NearDuplicates, NearExample
from docmill.ops.planning import Scanned, estimate_seconds
from docmill.ops.sketches import Sketches, open_sketches
from docmill.ops.tasks.task import Task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

MAX_BYTES_HELD = 128 << 20
MAX_EXAMPLES = 3
WRITERS = 8


@dataclass(frozen=True)
class Settled:
    """What was decided: the folder that workers read (None: every row is asked itself), and what there is to say."""

    folder: str | None = None
    figures: NearDuplicates | None = None


@dataclass(frozen=True)
class Found:
    """The near-duplicates of a plan."""

    groups: Groups
    figures: NearDuplicates


@contextmanager
def sketches_for(job: Job) -> Iterator[Sketches | None]:
    """Where the partition's texts are sketched; None where the job does not ask for near-duplicates."""
    if job.reuse.near_duplicates == "off":
        yield None
    else:
        with open_sketches(job.reuse.similarity) as sketches:
            yield sketches


def settle(
    job: Job,
    layout: Layout,
    plan: Plan,
    tasks: Mapping[str, Task],
    model_fingerprint: str,
    sketches: Sketches | None,
    scan: Callable[[], list[Scanned]],
) -> tuple[Settled, Callable[[], list[Scanned]]]:
    """Find the plan's near-duplicates, unless an earlier run has, and lay down what stands for what.

    `scan` reads the texts, and sketches them. Returned is also what to scan instead: the texts that are asked about.
    """
    if sketches is None or not plan.units:
        return Settled(), scan
    folder = layout.near_folder(plan.id)
    # What is only reported is not in the plan's fingerprint, and the mode may change between two runs.
    mark = join(folder, f"{job.reuse.near_duplicates}-{job.reuse.similarity}.json")
    settled, _ = _read_mark(folder, mark)
    if settled is not None:
        return settled, scan
    scans = scan()
    found = look(job, layout, plan, tasks, model_fingerprint, sketches, scans)
    assert found is not None
    groups, figures = found.groups, found.figures
    takes_answers = job.takes_answers_of_near_duplicates and len(groups.rows) > 0
    settled = Settled(join(folder, uuid.uuid4().hex) if takes_answers else None, figures)
    if settled.folder is not None:
        _lay_down(job, settled.folder, plan, groups, _offsets(plan, scans))
    log.info("job=%s partition=%s near-duplicates=%d groups=%d",
             job.name, plan.partition, figures.documents, figures.groups)  # fmt: skip
    decided = _write_mark(folder, mark, settled)
    if decided != settled and settled.folder is not None:  # another run has decided meanwhile
        storage.delete_folder(settled.folder)
    if decided.folder is None:
        return decided, scan
    asked = _asked(scans, groups)
    return decided, lambda: asked


def look(
    job: Job,
    layout: Layout,
    plan: Plan,
    tasks: Mapping[str, Task],
    model_fingerprint: str,
    sketches: Sketches | None,
    scans: Sequence[Scanned],
) -> Found | None:
    """The near-duplicates of a plan; None where the job does not ask for them. Nothing is written."""
    if sketches is None:
        return None
    import numpy as np

    offsets = _offsets(plan, scans)
    not_asked = [offsets[unit.shard] + row for unit in plan.units for row in unit.duplicate_rows]
    known = _known_texts(job, layout, tasks, model_fingerprint)
    stand_alone = np.isin(_text_keys(scans), known) if known is not None else None
    groups = find_groups(
        sketches, similarity=job.reuse.similarity, not_asked=not_asked, stand_alone=stand_alone
    )
    return Found(groups, _figures(job, groups, scans, tasks, _examples(job, plan, groups, offsets)))


def _known_texts(
    job: Job, layout: Layout, tasks: Collection[str], model_fingerprint: str
) -> NDArray[np.uint64] | None:
    """Texts that finished runs have answered for all tasks: they cost nothing, so nothing is to stand for them."""
    if not (job.takes_answers_of_near_duplicates and job.reuse.runs):
        return None
    import numpy as np

    known: NDArray[np.uint64] | None = None
    for name in tasks:
        for key in reuse.task_keys(job, [name], model_fingerprint):
            keys = reuse.known_texts(job, layout, key).to_numpy()
            known = keys if known is None else np.intersect1d(known, keys)
    return known


def _figures(
    job: Job,
    groups: Groups,
    scans: Sequence[Scanned],
    tasks: Mapping[str, Task],
    examples: list[NearExample],
) -> NearDuplicates:
    import numpy as np

    assert job.reuse.near_duplicates != "off"
    lengths = np.concatenate([np.array(scan.lengths, np.int64) for scan in scans])
    work, near_work = (
        sum(estimate_seconds(length, tasks) for length in lengths[rows].tolist())
        for rows in (groups.texts, groups.near_texts)
    )
    return NearDuplicates(
        reuse=job.reuse.near_duplicates,
        similarity=job.reuse.similarity,
        documents=len(groups.rows),
        groups=groups.num_groups,
        largest_group=groups.largest_group,
        work_share=near_work / work if work else 0.0,
        examples=examples,
    )


def _text_keys(scans: Sequence[Scanned]) -> NDArray[np.uint64]:
    import numpy as np

    return np.concatenate([np.array(scan.text_keys, np.uint64) for scan in scans])


def _offsets(plan: Plan, scans: Sequence[Scanned]) -> dict[str, int]:
    """How many rows stand before each shard."""
    ends = accumulate((len(scan.lengths) for scan in scans), initial=0)
    return {shard.name: offset for shard, offset in zip(plan.shards, ends, strict=False)}


def _asked(scans: Sequence[Scanned], groups: Groups) -> list[Scanned]:
    """The scans with the representatives' texts in the place of their near-duplicates'."""
    keys = _text_keys(scans)
    keys[groups.rows] = keys[groups.representatives]
    asked, start = [], 0
    for scan in scans:
        end = start + len(scan.text_keys)
        text_keys = scan.text_keys[:0]
        text_keys.frombytes(keys[start:end].tobytes())
        asked.append(replace(scan, text_keys=text_keys))
        start = end
    return asked


def _lay_down(job: Job, folder: str, plan: Plan, groups: Groups, offsets: Mapping[str, int]) -> None:
    """Read the representatives' texts, shard after shard, and write for each unit which of them it asks about."""
    import numpy as np

    units = [unit for unit in plan.units if unit.num_rows]
    units.sort(key=lambda unit: offsets[unit.shard] + unit.first_row)
    starts = np.array([offsets[unit.shard] + unit.first_row for unit in units])
    order = np.argsort(groups.representatives, kind="stable")
    rows, representatives = groups.rows[order], groups.representatives[order]
    held: defaultdict[int, list[tuple[int, Representative]]] = defaultdict(list)
    num_bytes_held = num_written = 0

    def write() -> None:
        nonlocal num_bytes_held, num_written
        with ThreadPoolExecutor(WRITERS) as writers:
            writing = [
                writers.submit(put_near_rows, join(folder, units[number].id), f"{num_written:06d}", found)
                for number, found in held.items()
            ]
            for done in writing:
                done.result()
        held.clear()
        num_bytes_held, num_written = 0, num_written + 1

    for shard, document in _documents(job, plan, offsets, representatives):
        row = offsets[shard] + document.row
        first, end = np.searchsorted(representatives, (row, row + 1))
        found = Representative(shard, document)
        numbers = np.searchsorted(starts, rows[first:end], side="right") - 1
        for near, number in zip(rows[first:end].tolist(), numbers.tolist(), strict=True):
            held[number].append((near - offsets[units[number].shard], found))
        num_bytes_held += len(document.text or "") * len(np.unique(numbers)) + 100 * int(end - first)
        if num_bytes_held > MAX_BYTES_HELD:
            write()
    write()


def _documents(
    job: Job, plan: Plan, offsets: Mapping[str, int], rows: NDArray[np.int64]
) -> Iterator[tuple[str, Document]]:
    """The documents of rows that are counted through all shards, rising. What cannot be read is left out."""
    import numpy as np

    source = job.source
    for planned in plan.shards:
        offset = offsets[planned.name]
        first, end = np.searchsorted(rows, (offset, offset + planned.num_rows))
        wanted = set((rows[first:end] - offset).tolist())
        if not wanted:
            continue
        shard = Shard(planned.name, planned.uri, planned.num_bytes, planned.version)
        try:
            with ShardReader(
                shard, id_column=source.id_column, text_column=source.text_column, carry=[]
            ) as reader:
                for batch in reader.rows(min(wanted), max(wanted) + 1):
                    for document in batch.documents:
                        if document.row in wanted:
                            yield planned.name, document
        except SHARD_ERRORS as error:  # those that are like them are asked themselves
            log.warning("shard not read for near-duplicates: %s", error)


def _examples(job: Job, plan: Plan, groups: Groups, offsets: Mapping[str, int]) -> list[NearExample]:
    """The first few pairs, of different groups."""
    import numpy as np

    _, first = np.unique(groups.representatives, return_index=True)
    chosen = np.sort(first)[:MAX_EXAMPLES]
    wanted = np.unique(np.concatenate([groups.rows[chosen], groups.representatives[chosen]]))
    ids = {
        offsets[shard] + document.row: document.doc_id
        for shard, document in _documents(job, plan, offsets, wanted)
    }
    examples = []
    for number in chosen.tolist():
        near, representative = ids.get(groups.rows[number]), ids.get(groups.representatives[number])
        if near is not None and representative is not None:
            similarity = float(groups.similarities[number])
            examples.append(NearExample(document=near, representative=representative, similarity=similarity))
    return examples


def _read_mark(folder: str, uri: str) -> tuple[Settled | None, str | None]:
    """What was decided, and the version of the file; the first is None where it is torn or not there."""
    try:
        content, version = storage.read_versioned(uri)
    except StorageNotFound:
        return None, None
    try:
        mark = json.loads(content)
        rows = join(folder, mark["name"]) if mark["rows"] else None
        return Settled(rows, NearDuplicates.model_validate(mark["figures"])), version
    except (ValueError, LookupError, TypeError):
        return None, version


def _write_mark(folder: str, uri: str, settled: Settled) -> Settled:
    """Write it, unless another run has meanwhile; returns what lies there."""
    assert settled.figures is not None
    name = settled.folder.rpartition("/")[2] if settled.folder else uuid.uuid4().hex
    mark = {
        "name": name,  # also where it names no folder: nobody else writes the same
        "rows": settled.folder is not None,
        "figures": settled.figures.model_dump(),
    }
    while True:
        there, version = _read_mark(folder, uri)
        if there is not None:
            return there
        if storage.replace_bytes(uri, json.dumps(mark).encode(), version=version):
            return settled
