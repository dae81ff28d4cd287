"""Where everything lies: the only file that puts paths together.

What lies below `_docmill` is docmill's own, the rest is for readers.

{output}/{task}/dt=2026-11-20/{shard}                 answers, one file per input shard, same relative name
{output}/_docmill/dt=2026-11-20/plan.parquet          the work units of the last run
                               /segments/{unit}/...   finished requests of units under way, small and immutable
                               /ledger/{settings}/... who works on which unit, and which are done
                               /parts/{settings}/...  answers of finished units, until all are done
                               /reused/{plan}/...     what units find answered in earlier runs over equal texts
                               /near/{plan}/...       rows that are asked as others, which they are like
                               /dead_letters.parquet  what failed for good, and why
                               /report.json           figures of the last run
                               /report.html           the same as a page with pictures
                               /manifest.json         written last: files, counts, fingerprints
{output}/_docmill/answers/{partition}.{plan}.parquet  requests of the last finished runs, for those to come
                 /profile.json                        how fast engines are, and how long answers: for `docmill plan`
                 /tuning.json                         the engine's settings that `docmill tune` has found
                 /models/{key}/...                    compressed models, see `engine/compressed_models.py`

Segments, ledger, parts, what is reused and what is near are gone when the manifest is written.
"""

from __future__ import annotations

from dataclasses import dataclass

from docmill.data.records import Partition

INTERNAL = (
    "_docmill"  # readers that glob `{output}/{task}` never see it; engines skip names that start with "_"
)


@dataclass(frozen=True, slots=True)
class Layout:
    """All URIs of one partition of one job's output."""

    output_uri: str
    partition: Partition

    def answers_folder(self, task: str) -> str:
        """Folder of this partition's answer files of one task."""
        return join(self.output_uri, task, self.partition.folder)

    def answers(self, task: str, shard_name: str) -> str:
        """The answer file of one task for one input shard."""
        return join(self.answers_folder(task), shard_name)

    @property
    def internal_folder(self) -> str:
        """Folder of what docmill writes for itself about this partition."""
        return join(self.output_uri, INTERNAL, str(self.partition))

    @property
    def plan(self) -> str:
        """The work units of the last run."""
        return join(self.internal_folder, "plan.parquet")

    @property
    def dead_letters(self) -> str:
        """Requests that failed for good."""
        return join(self.internal_folder, "dead_letters.parquet")

    @property
    def segments_folder(self) -> str:
        """Folder of the segments of all units."""
        return join(self.internal_folder, "segments")

    def segments(self, unit_id: str) -> str:
        """Folder of one unit's segments. Requests are known by their content, whatever the run's settings."""
        return join(self.segments_folder, unit_id)

    @property
    def ledgers_folder(self) -> str:
        """Folder of all ledgers: one for each combination of tasks and settings."""
        return join(self.internal_folder, "ledger")

    def ledger(self, fingerprint: str) -> str:
        """Folder of claims, beats, splits and done marks of runs with the same settings."""
        return join(self.ledgers_folder, fingerprint)

    @property
    def all_parts_folder(self) -> str:
        """Folder of the parts of all ledgers."""
        return join(self.internal_folder, "parts")

    def parts_folder(self, fingerprint: str) -> str:
        """Folder of the answers of finished units."""
        return join(self.all_parts_folder, fingerprint)

    def reused_folder(self, plan_id: str) -> str:
        """Folder of earlier runs' answers for one plan."""
        return join(self.all_reused_folder, plan_id)

    @property
    def all_reused_folder(self) -> str:
        """Folder of earlier runs' answers for all plans under way."""
        return join(self.internal_folder, "reused")

    def near_folder(self, plan_id: str) -> str:
        """Folder of the near-duplicates of one plan."""
        return join(self.all_near_folder, plan_id)

    @property
    def all_near_folder(self) -> str:
        """Folder of the near-duplicates of all plans under way."""
        return join(self.internal_folder, "near")

    @property
    def kept_answers_folder(self) -> str:
        """Folder of the finished requests of the last runs, over all partitions."""
        return join(self.output_uri, INTERNAL, "answers")

    def kept_answers(self, plan_id: str) -> str:
        """The finished requests of this partition's run by one plan."""
        return join(self.kept_answers_folder, f"{self.partition}.{plan_id}.parquet")

    @staticmethod
    def profile(output_uri: str) -> str:
        """What runs over all partitions have taught about speed and answer lengths."""
        return join(output_uri, INTERNAL, "profile.json")

    @staticmethod
    def tuning(output_uri: str) -> str:
        """Settings of the engine that were measured to be faster, by model and device."""
        return join(output_uri, INTERNAL, "tuning.json")

    @staticmethod
    def models(output_uri: str) -> str:
        """Folder of the compressed models that were made for the job."""
        return join(output_uri, INTERNAL, "models")

    @staticmethod
    def probe(output_uri: str, name: str) -> str:
        """Folder of one small run that measures, removed after it."""
        return join(output_uri, INTERNAL, f"probe-{name}")

    @property
    def estimate(self) -> str:
        """What the last `docmill plan` expected of the partition."""
        return join(self.internal_folder, "estimate.json")

    @property
    def report(self) -> str:
        """Figures of the partition's last run."""
        return join(self.internal_folder, "report.json")

    @property
    def report_page(self) -> str:
        """The same for people, as a page of its own."""
        return join(self.internal_folder, "report.html")

    @property
    def manifest(self) -> str:
        """Written last; no manifest means the partition was never finished."""
        return join(self.internal_folder, "manifest.json")


def answers_glob(output_uri: str, task: str) -> str:
    """A plain glob over all answers of a task, as Polars, DuckDB and pyarrow take it."""
    return join(output_uri, task, "**", "*.parquet")


def partitions_folder(output_uri: str) -> str:
    """The folder that holds a folder for each partition that was run, among others, see `partition_of`."""
    return join(output_uri, INTERNAL)


def partition_of(folder: str) -> Partition | None:
    """The partition whose own folder has this name; None for a folder of another kind."""
    key, is_one, value = folder.partition("=")
    if is_one:
        return Partition(key, value)
    return Partition() if folder == str(Partition()) else None


def source_folder(source_uri: str, partition: Partition) -> str:
    """Folder of the input shards of one partition."""
    return join(source_uri, partition.folder)


def join(base: str, *parts: str) -> str:
    """Put a URI together with single slashes; empty parts are left out."""
    return "/".join([base.rstrip("/"), *(part.strip("/") for part in parts if part)])
