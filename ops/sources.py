"""Make a job's generated source where it is not there yet, so that a job can run on a machine without any data."""

from __future__ import annotations

from docmill.data.demo.days import demo_shard_uris, write_demo_days
from docmill.data.distributions import installed_distributions, write_distributions
from docmill.data.layout import join
from docmill.data.storage import delete, exists, list_shards, put_bytes, read_bytes
from docmill.ops.errors import JobError
from docmill.ops.job import DemoCorpus, DistributionsCorpus, Job

UNFINISHED = b"unfinished "
MADE_WITH = "_made_with.json"  # hidden from shard listings by its name


def ensure_source(job: Job) -> bool:
    """Write the source of a job that has `source.generate`, unless it was written with the same settings.

    Returns whether anything was written. A job with a source of its own is left alone.
    """
    source = job.source
    if source.generate is None:
        return False
    marker_uri, marker = join(source.uri, MADE_WITH), source.generate.model_dump_json().encode()
    if isinstance(source.generate, DistributionsCorpus):
        marker = installed_distributions().encode()  # they come and go between runs
    made = read_bytes(marker_uri) if exists(marker_uri) else None
    if made == marker:
        return False
    if made is None and list_shards(source.uri):
        raise JobError(job.name, [
            f"source.generate: {source.uri} holds Parquet files that docmill did not make; leave `generate` out to use "
            "them, or choose an empty folder"
        ])  # fmt: skip
    put_bytes(marker_uri, UNFINISHED + marker)  # so that a run that dies here is begun anew, and not refused
    if isinstance(source.generate, DemoCorpus):
        _remove(source.uri, made or b"")
        corpus = source.generate
        write_demo_days(
            source.uri,
            seed=corpus.seed,
            days=corpus.days,
            documents_per_day=corpus.documents_per_day,
            shards_per_day=corpus.shards_per_day,
            duplicate_share=corpus.duplicate_share,
            hostile=corpus.hostile,
        )
    else:
        write_distributions(join(source.uri, "distributions.parquet"))
    put_bytes(marker_uri, marker)
    return True


def _remove(source_uri: str, marker: bytes) -> None:
    """Take away the shards of other settings: those that would not be overwritten would be documents too."""
    try:
        made = DemoCorpus.model_validate_json(marker.removeprefix(UNFINISHED))
    except ValueError:  # of another kind, or of an older docmill
        return
    for uri in demo_shard_uris(
        source_uri, days=made.days, shards_per_day=made.shards_per_day, hostile=made.hostile
    ):
        delete(uri)
