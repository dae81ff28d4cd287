"""Which partitions of an output are finished: those with a manifest, and what it says.

What lies in the output without one belongs to a run that has not ended; readers who ask here never see it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from docmill.data import storage
from docmill.data.layout import Layout, partition_of, partitions_folder
from docmill.data.manifest import Manifest, read_manifest
from docmill.data.records import Partition

READS_AT_ONCE = 16  # a store takes its time for each


def list_run_partitions(
    output_uri: str, *, first: str | None = None, last: str | None = None
) -> list[Partition]:
    """Partitions that were run, finished or not, sorted.

    `first` and `last` are values of the partition key, both included, see `is_within`. With either, an output that is
    not cut into partitions has none.
    """
    found = map(partition_of, storage.list_folders(partitions_folder(output_uri)))
    return sorted(
        (partition for partition in found if partition is not None and _is_within(partition, first, last)),
        key=str,
    )


def finished_partitions(
    output_uri: str, *, first: str | None = None, last: str | None = None
) -> dict[Partition, Manifest]:
    """Those of them that are finished, with their manifests."""
    partitions = list_run_partitions(output_uri, first=first, last=last)
    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        manifests = list(pool.map(lambda each: read_manifest(Layout(output_uri, each).manifest), partitions))
    return {
        partition: manifest
        for partition, manifest in zip(partitions, manifests, strict=True)
        if manifest is not None
    }


def is_within(value: str, first: str | None, last: str | None) -> bool:
    """Whether a value of the partition key lies between these, both included, compared as text.

    What begins as `last` does belongs to it: all hours of that day, as 2026-11-20-05 of 2026-11-20.
    """
    return (first is None or first <= value) and (last is None or value[: len(last)] <= last)


def _is_within(partition: Partition, first: str | None, last: str | None) -> bool:
    if partition.value is None:
        return first is None and last is None
    return is_within(partition.value, first, last)
