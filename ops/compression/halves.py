"""Two samples of a partition that share no text: one to make a model on, one to judge it on.

Which half a text falls into is decided by its hash, so equal texts fall into the same. A model is never judged on what
it was calibrated on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import xxhash

from docmill.data.errors import SHARD_ERRORS
from docmill.data.records import Partition
from docmill.engine.compression.config import FEWEST_DOCUMENTS, CompressConfig
from docmill.ops.compression.quality import certainty_of, upper_bound
from docmill.ops.errors import JobError
from docmill.ops.job import Job
from docmill.ops.partitions import find_shards
from docmill.ops.sample import Sample, open_shard, sampled


@dataclass(frozen=True, slots=True)
class Halves:
    """Each a small job of its own, with the columns of right answers carried along."""

    calibration: Sample
    held_out: Sample


@contextmanager
def halves(job: Job, partition: Partition, config: CompressConfig) -> Iterator[Halves]:
    """Both are gone afterwards. Raises `JobError` where the partition has too few documents, or not the references."""
    references = sorted(set(config.references.values()))
    _check_columns(job, partition, references)
    with ExitStack() as stack:
        taken = [
            stack.enter_context(
                sampled(
                    job,
                    partition,
                    num_documents=config.sample,
                    carry=references,
                    takes=partial(_is_in, half),
                )
            )
            for half in (0, 1)
        ]
        found = Halves(*taken)
        _check(job, partition, config, found)
        yield found


def _check_columns(job: Job, partition: Partition, references: list[str]) -> None:
    """Raises `JobError` where no shard has them: a shard without them is left out as one that cannot be read."""
    missing: Exception | None = None
    for shard in find_shards(job, partition) if references else []:
        try:
            open_shard(job.source.model_copy(update={"carry": references}), shard).close()
        except SHARD_ERRORS as error:
            missing = missing or error
        else:
            return
    if missing is not None:
        raise JobError(job.name, [
            f"model.compress.references: no file of partition {partition} can be read with the columns "
            f"{', '.join(references)}: {missing}"
        ])  # fmt: skip


def _check(job: Job, partition: Partition, config: CompressConfig, found: Halves) -> None:
    numbers = {"make": found.calibration.num_documents, "judge": found.held_out.num_documents}
    for what, number in numbers.items():
        if number < FEWEST_DOCUMENTS:
            raise JobError(job.name, [
                f"model.compress: partition {partition} leaves {number} documents to {what} a model on, of "
                f"{found.held_out.num_documents_total}; {FEWEST_DOCUMENTS} with a text are the fewest. Choose a "
                "partition with more documents, or a larger `sample`"
            ])  # fmt: skip
    attempts = config.num_attempts
    least = upper_bound([0.0] * numbers["judge"], certainty_of(attempts - 1, attempts))
    if least > config.max_drop:
        total, needed = found.held_out.num_documents_total, (7 if attempts == 1 else 9) / config.max_drop
        enough = 50 * math.ceil(needed / 50)
        more = (
            f"Raise `sample` (now {config.sample:,}; about {enough:,} are enough)"
            if total > max(enough, config.sample)
            else f"Partition {partition} has {total:,} documents; choose one with about {enough:,} documents, and "
            "as large a `sample`"
        )
        raise JobError(job.name, [
            f"model.compress: on {numbers['judge']} held-out documents, answers that are all equal show a drop of less "
            f"than {least:.2%} and no less; `max_drop` asks for {config.max_drop:.2%}. {more}; or raise `max_drop`"
        ])  # fmt: skip


def is_held_out(text: str) -> bool:
    """Which half a text falls into."""
    return bool(xxhash.xxh3_64_intdigest(text.encode(errors="replace")) & 1)


def _is_in(half: int, text: str) -> bool:
    return bool(text.strip()) and is_held_out(text) == half
