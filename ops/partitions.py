"""What lies in a job's source: its partitions, and the shards of one."""

from __future__ import annotations

from collections.abc import Sequence

import xxhash

from docmill.data import storage
from docmill.data.layout import source_folder
from docmill.data.records import Partition, Shard
from docmill.ops.errors import NoShards
from docmill.ops.job import Job


def find_shards(job: Job, partition: Partition) -> list[Shard]:
    """The partition's shards, sorted by name. Raises `NoShards`, naming the partitions that exist."""
    folder = source_folder(job.source.uri, partition)
    shards = storage.list_shards(folder)
    if not shards:
        raise NoShards(folder, list_partitions(job))
    return shards


def version_of(shards: Sequence[Shard]) -> str:
    """16 hex digits that change when a file comes, goes or changes."""
    listing = "\n".join(f"{shard.name}|{shard.num_bytes}|{shard.version}" for shard in shards)
    return xxhash.xxh3_64_hexdigest(listing.encode())


def list_partitions(job: Job) -> list[str]:
    """Values of the partition key that the source has, sorted; none for an unpartitioned job."""
    if job.source.partition_key is None:
        return []
    prefix = f"{job.source.partition_key}="
    folders = storage.list_folders(job.source.uri)
    return [name.removeprefix(prefix) for name in folders if name.startswith(prefix)]
