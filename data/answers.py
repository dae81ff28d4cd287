"""The answers of a job as Polars frames, for notebooks and scripts: only what finished runs have written.

A plain glob over an output also finds the files of a run that has not ended; these functions read the manifests first.
Polars reads the files itself, as rows are asked for: local files, S3 and what else it knows, with the stores' own
environment variables (`AWS_ENDPOINT_URL`, ...; `AWS_ALLOW_HTTP=true` for a store without TLS).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import cast

import polars as pl

from docmill.data import dead_letters, storage
from docmill.data.errors import NoAnswers
from docmill.data.finished import READS_AT_ONCE, finished_partitions
from docmill.data.layout import Layout
from docmill.data.manifest import Manifest, read_manifest
from docmill.data.records import Partition

Day = date | str


def scan_answers(
    output_uri: str, task: str, *, first: Day | None = None, last: Day | None = None
) -> pl.LazyFrame:
    """All committed answers of a task, a row a document; the partition is a column (`dt`: of days dates, else text).

    `output_uri` is the job's `output.uri`. `first` and `last` are days or hours, both included. Columns that only some
    partitions have are null in the others. Raises `NoAnswers` where no finished run of these days has the task.
    """
    finished = finished_partitions(output_uri, first=_text(first), last=_text(last))
    return _together(_scans(output_uri, task, finished))


def scan_answers_of(output_uri: str, task: str, partition: Partition) -> pl.LazyFrame:
    """Those of one finished partition, without a column for it: rows that are not taken are then not read either."""
    manifest = read_manifest(Layout(output_uri, partition).manifest)
    [scan] = _scans(output_uri, task, {partition: manifest} if manifest else {}).values()
    return scan


def scan_dead_letters(output_uri: str, *, first: Day | None = None, last: Day | None = None) -> pl.LazyFrame:
    """Requests that failed for good in finished runs, see `data/dead_letters.py`; none is an empty frame.

    `prompt_token_ids` are the documents' text in another form.
    """
    partitions = list(finished_partitions(output_uri, first=_text(first), last=_text(last)))
    uris = [Layout(output_uri, partition).dead_letters for partition in partitions]
    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        there = list(pool.map(storage.exists, uris))
    scans = {
        partition: pl.scan_parquet(uri, hive_partitioning=False)
        for partition, uri, is_there in zip(partitions, uris, there, strict=True)
        if is_there
    }
    if not scans:
        return cast(pl.DataFrame, pl.from_arrow(dead_letters.SCHEMA.empty_table())).lazy()
    return _together(scans)


def _scans(
    output_uri: str, task: str, finished: Mapping[Partition, Manifest]
) -> dict[Partition, pl.LazyFrame]:
    """Of the task's files in each of these partitions that has some."""
    files = {
        partition: [
            Layout(output_uri, partition).answers(task, file.name) for file in manifest.tasks[task].files
        ]
        for partition, manifest in finished.items()
        if task in manifest.tasks
    }
    found = {partition: uris for partition, uris in files.items() if uris}
    if not found:
        raise NoAnswers(output_uri, task, sorted({name for each in finished.values() for name in each.tasks}))
    return {partition: pl.scan_parquet(uris, hive_partitioning=False) for partition, uris in found.items()}


def _together(scans: dict[Partition, pl.LazyFrame]) -> pl.LazyFrame:
    """One below the other, each with the value of its partition."""
    as_value = date.fromisoformat if _all_days(scans) else str
    frames = [
        scan
        if partition.key is None or partition.value is None
        else scan.with_columns(pl.lit(as_value(partition.value)).alias(partition.key))
        for partition, scan in scans.items()
    ]
    return pl.concat(frames, how="diagonal_relaxed")


def _all_days(partitions: Iterable[Partition]) -> bool:
    try:
        for partition in partitions:
            date.fromisoformat(partition.value or "")
    except ValueError:
        return False
    return True


def _text(day: Day | None) -> str | None:
    return None if day is None else str(day)
