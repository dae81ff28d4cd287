"""Never pay twice for the same text: finished runs leave their requests, later plans take over what they know.

    a run ends:    requests of its units --keep--> one file below `_docmill/answers`; those of the oldest runs go
    a run begins:  texts of its plan --take_over: joined with the files--> one file a unit, read when it is opened

The join is by the hash of the whole text, and only finds candidates: an answer counts where the request is the same
to the last token, with the same model, sampling and settings. Memory: some 50 bytes a row of the plan while it is
made, and `MAX_BYTES_HELD` of answers.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import TYPE_CHECKING

import pyarrow as pa
import xxhash

from docmill.data import storage
from docmill.data.errors import StorageError, StorageNotFound
from docmill.data.kept_answers import REQUESTS, SCHEMA, open_kept, read_part, schema_of
from docmill.data.layout import Layout, join
from docmill.data.ledger import Ledger
from docmill.data.listings import FoundFile
from docmill.data.plan import Plan
from docmill.data.segments import put_segment
from docmill.data.shards import ShardWriter
from docmill.ops.job import Job
from docmill.ops.planning import Scanned

if TYPE_CHECKING:
    import polars as pl

log = logging.getLogger(__name__)

MAX_BYTES_HELD = 32 << 20
WRITERS = 8
MARK = "found.json"


def task_keys(job: Job, tasks: Collection[str], model_fingerprint: str) -> set[str]:
    """16 hex digits a task that change when something other than the documents changes what it answers."""
    return {
        xxhash.xxh3_64_hexdigest(f"{job.settings_hash(name)}|{model_fingerprint}".encode()) for name in tasks
    }


def take_over(
    job: Job, layout: Layout, plan: Plan, keys: Collection[str], scan: Callable[[], list[Scanned]]
) -> str | None:
    """Put what finished runs know of the plan's texts where its units find it; the folder, None where it is nothing.

    A run that goes on with the plan finds it done. `scan` reads the texts; it is called only where there is something
    to compare with. `keys` are the tasks' (`task_keys`).
    """
    if not job.reuse.runs or not plan.units:
        return None
    folder = layout.reused_folder(plan.id)
    try:
        found = json.loads(storage.read_bytes(join(folder, MARK)))
        return folder if found["requests"] else None
    except (StorageNotFound, ValueError, LookupError, TypeError):  # or torn by a power cut
        pass
    files = _newest_first(layout)[: job.reuse.runs]
    if not files:
        return None
    seeker = _Seeker(folder, plan, scan())
    for file in files:
        try:
            with open_kept(file.uri) as kept:
                if not kept.tasks.isdisjoint(keys):
                    seeker.seek(kept.groups(), finally_found=kept.tasks.issuperset(keys))
        except StorageNotFound:  # another run has finished, and this one has become too old
            continue
        # A damaged page may reach us as an error of the store; one that is really down fails with the next write.
        except (StorageError, pa.ArrowException, OSError, LookupError, ValueError) as error:
            log.warning("%s cannot be read and is left out: %s", file.uri, type(error).__name__)
    seeker.write()
    storage.put_bytes(join(folder, MARK), json.dumps({"requests": seeker.num_found}).encode())
    log.info("job=%s partition=%s requests known from finished runs: up to %d",
             job.name, plan.partition, seeker.num_found)  # fmt: skip
    return folder if seeker.num_found else None


def known_texts(job: Job, layout: Layout, key: str) -> pl.Series:
    """Hashes of the texts about which finished runs have answers for the task of this key (`task_keys`)."""
    import polars as pl

    known = pl.Series("key", [], dtype=pl.UInt64)
    for file in _newest_first(layout)[: job.reuse.runs]:
        try:
            with open_kept(file.uri) as kept:
                if key in kept.tasks:
                    for keys in kept.text_keys():  # a key stands there once a request: not all at once
                        known = pl.concat([known, pl.Series("key", keys).unique()]).unique()
        except (StorageError, pa.ArrowException, OSError, LookupError, ValueError) as error:
            log.warning("%s cannot be read and is left out: %s", file.uri, type(error).__name__)
    return known


class _Seeker:
    """The texts of a plan, and what was found about them."""

    def __init__(self, folder: str, plan: Plan, scans: list[Scanned]):
        import polars as pl  # half a second that Dagster's loading of the definitions does without

        self.num_found = 0
        self._folder, self._names = folder, [unit.id for unit in plan.units]
        texts = {shard.name: scan.text_keys for shard, scan in zip(plan.shards, scans, strict=True)}
        units = [
            pl.DataFrame({"text_key": pl.Series(texts[unit.shard][unit.first_row : unit.end_row], dtype=pl.UInt64)})
            .select(pl.col("text_key"), pl.lit(number, pl.UInt32).alias("unit"))
            for number, unit in enumerate(plan.units)
        ]  # fmt: skip
        self._wanted = pl.concat(units).filter(pl.col("text_key") != 0).unique()
        self._held: list[pl.DataFrame] = []
        self._num_bytes_held = 0
        self._numbers = count()

    def seek(self, groups: Iterable[pa.Table], *, finally_found: bool) -> None:
        """Look for the texts in one file; where it is of the same tasks, what it has need not be looked for again."""
        import polars as pl

        seen: list[pl.Series] = []
        for group in groups:
            # Once: a text that many rows share stands there many times, and is wanted by many units.
            known = pl.DataFrame(group).unique(["text_key", "request_key"]).join(self._wanted, on="text_key")
            if known.is_empty():
                continue
            self._held.append(known)
            self._num_bytes_held += int(known.estimated_size())
            self.num_found += len(known)
            if finally_found:
                seen.append(known["text_key"].unique())
            if self._num_bytes_held > MAX_BYTES_HELD:
                self.write()
        if seen:
            self._wanted = self._wanted.join(
                pl.DataFrame({"text_key": pl.concat(seen)}), on="text_key", how="anti"
            )

    def write(self) -> None:
        """What is held, a file a unit."""
        import polars as pl

        if not self._held:
            return
        held, self._held, self._num_bytes_held = pl.concat(self._held), [], 0
        # What it costs this run: nothing was computed.
        held = held.unique(["unit", "request_key"]).with_columns(cached_tokens="prompt_tokens")
        name = f"{next(self._numbers):06d}"

        def put(unit: int, rows: pl.DataFrame) -> None:
            put_segment(join(self._folder, self._names[unit]), name, rows.to_arrow())

        with ThreadPoolExecutor(WRITERS) as writers:
            by_unit = held.partition_by("unit", as_dict=True).items()
            for done in [writers.submit(put, unit, rows) for (unit,), rows in by_unit]:
                done.result()


def keep(job: Job, ledger: Ledger, keys: Collection[str]) -> None:
    """Keep the requests of a run whose units are done, and remove those of runs that are too old by now.

    With `reuse.runs: 0` all are removed: whoever wants everything computed again does not want them back later.
    Never raises because of the store: the answers are written, and the next run pays more at worst.
    """
    try:
        if job.reuse.runs:
            _keep(ledger, keys)
        for file in _newest_first(ledger.layout)[job.reuse.runs :]:
            storage.delete(file.uri)
    except (StorageError, OSError) as error:  # or the local disk is full, where the file is put together
        log.warning("partition=%s requests not kept for later runs: %s", ledger.plan.partition, error)


def _newest_first(layout: Layout) -> list[FoundFile]:
    files = storage.list_files(layout.kept_answers_folder)
    files = [file for file in files if file.name.endswith(".parquet")]
    return sorted(files, key=lambda file: file.modified, reverse=True)


def _keep(ledger: Ledger, keys: Collection[str]) -> None:
    layout, schema = ledger.layout, schema_of(keys)
    units = ledger.units(ledger.view())
    marks = ledger.read_done(unit.id for unit in units)
    if len(marks) != len(units):  # another run has finished, kept them, and cleans up
        return
    with ShardWriter(layout.kept_answers(ledger.plan.id), schema) as writer:
        for mark in marks:
            if REQUESTS not in mark.parts:  # its shard cannot be used
                continue
            try:
                table = read_part(mark.parts[REQUESTS])
            except (StorageNotFound, pa.ArrowException, OSError):  # as above
                return
            for batch in table.select(SCHEMA.names).cast(SCHEMA).to_batches():
                writer.write(batch)
        if writer.num_rows:
            writer.commit()
