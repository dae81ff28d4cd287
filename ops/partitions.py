"""What lies in a job's source: its partitions, and the shards of one."""

from __future__ import annotations

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


def list_partitions(job: Job) -> list[str]:
    """Values of the partition key that the source has, sorted; none for an unpartitioned job."""
    if job.source.partition_key is None:
        return []
    prefix = f"{job.source.partition_key}="
    folders = storage.list_folders(job.source.uri)
    return [name.removeprefix(prefix) for name in folders if name.startswith(prefix)]
