"""Whether a partition's answers are those of its present files and of the job as it is now."""

from __future__ import annotations

from collections.abc import Sequence

from docmill.data.layout import Layout
from docmill.data.manifest import read_manifest
from docmill.data.records import Partition, Shard
from docmill.ops.job import Job


def is_up_to_date(
    job: Job, partition: Partition, shards: Sequence[Shard], tasks: Sequence[str] | None = None
) -> bool:
    """By the manifest: the tasks finished with their present settings, from these very files, none of which failed.

    None: all tasks of the job. Another model under the same name does not count: days that are done would all be paid
    for again.
    """
    manifest = read_manifest(Layout(job.output.uri, partition).manifest)
    if manifest is None:
        return False
    versions = {shard.name: shard.version for shard in shards}
    for name in tasks or job.tasks:
        task = manifest.tasks.get(name)
        if task is None or task.failed_shards or task.settings != job.answers_hash(name):
            return False
        if {file.name: file.shard_version for file in task.files} != versions:
            return False
    return True
