"""What one job is: source, model, engine, tasks, output, prices. One YAML file says all of it (`pipelines.job_files`).

Every model forbids unknown keys, so a typo is an error that names the key. The texts below the keys are what `dg` and
editors show of them.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Literal

import xxhash
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from docmill.data.layout import Layout
from docmill.data.records import Partition
from docmill.data.schemas import COMMON_COLUMNS, NEAR_DUPLICATE_OF
from docmill.engine.config import EngineConfig, ModelConfig
from docmill.engine.pool.config import PoolConfig
from docmill.ops.check_limits import CheckLimits
from docmill.ops.on_failure import OnFailure
from docmill.ops.periods import DAY, HOUR, Period
from docmill.ops.prepare import Prepare
from docmill.ops.prompts import SYSTEM_PROMPT
from docmill.ops.sketches import SKETCH_VERSION
from docmill.ops.tasks import AnyTask
from docmill.ops.timetable import Arrival, Freshness, Schedule

# Of assets and files beside the tasks' own.
RESERVED_NAMES = ("documents", "report", "dead_letters", "compressed_model")
_NAME = re.compile(r"[a-z][a-z0-9_]*")

Text = Annotated[str, Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class DemoCorpus(_Part):
    """A generated source: customer messages with known answers. Made where `source.uri` has none yet."""

    kind: Literal["demo"]
    documents_per_day: Annotated[int, Field(gt=0)] = 200
    days: Annotated[list[date], Field(min_length=1)]
    shards_per_day: Annotated[int, Field(gt=0)] = 4
    duplicate_share: Annotated[float, Field(ge=0, lt=1)] = 0.05
    seed: int = 1
    hostile: bool = False


class DistributionsCorpus(_Part):
    """A real source that is on every machine: descriptions of the installed Python distributions."""

    kind: Literal["distributions"]


class Source(_Part):
    """Where the documents are and which columns hold them."""

    uri: Text
    """Folder or bucket of Parquet files."""
    id_column: Text = "doc_id"
    text_column: Text = "text"
    carry: list[str] = Field(default_factory=list)
    """Columns copied to every output row."""
    partition_key: Text | None = "dt"
    """Folders `dt=2026-11-20` hold a day each; null: the whole source is one partition."""
    partition_every: Literal["day", "hour"] = "day"
    """hour: folders `dt=2026-11-20-05`, by UTC, hold an hour each."""
    start_date: date | None = None
    """First day that Dagster offers; needed with a partition_key."""
    generate: Annotated[DemoCorpus | DistributionsCorpus, Field(discriminator="kind")] | None = None
    """Documents that are made where `uri` has none yet; left out for documents of your own."""

    @property
    def period(self) -> Period:
        """How much time a partition covers, where there are partitions."""
        return HOUR if self.partition_every == "hour" else DAY


class Output(_Part):
    """Where the answers go: `{uri}/{task}/dt=.../{shard}`."""

    uri: Text


class Chunking(_Part):
    """How documents that do not fit are cut. Smaller chunks than the model's context allow help small models."""

    max_tokens: Annotated[int, Field(ge=16)] | None = None


class LedgerConfig(_Part):
    """How finely work is divided and how soon it is safe. The defaults suit machines that rarely die."""

    unit_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Of an engine, by a rough estimate. Smaller: less to share out at the end, more small files on the way."""
    segment_seconds: Annotated[float, Field(gt=0)] = 5.0
    """Finished requests are in the store after so many seconds, or `segment_answers`: what a kill costs."""
    segment_answers: Annotated[int, Field(gt=0)] = 500
    """Or after so many answers, whichever comes first."""
    lease_seconds: Annotated[float, Field(ge=1)] = 30.0
    """A worker that has not been heard of for so long has lost its units. Longer than any pause of a healthy one."""


class Reuse(_Part):
    """What is not asked again: texts that earlier nights have answered, and, if the job says so, what is much alike."""

    runs: Annotated[int, Field(ge=0)] = 4
    """Of so many finished runs (the newest, over any partitions) requests are kept, some 300 bytes each. 0: none."""
    near_duplicates: Literal["off", "report", "answers"] = "off"
    """report: find them, and say what they cost. answers: a near-duplicate takes the answer of the text that it is
    like, which is not the answer that the model would have given. See `ops.near_duplicates`, `ops.representatives`."""
    similarity: Annotated[float, Field(ge=0.5, le=1)] = 0.9
    """Least share of their runs of 8 bytes that two such texts have in common, as MinHash estimates it."""

    @field_validator("near_duplicates", mode="before")
    @classmethod
    def _off_is_no_boolean(cls, value: object) -> object:
        """YAML reads a bare `off` as false."""
        return "off" if value is False else value


class Budget(_Part):
    """Where to stop. A stopped run loses nothing: raise the limit and run it again."""

    max_usd: Annotated[float, Field(gt=0)] | None = None
    """Of all runs over the partition since its last finish."""
    max_hours: Annotated[float, Field(gt=0)] | None = None
    """Of one run."""
    max_failed_share: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Of the answers so far."""


class Prices(_Part):
    """What one device costs; an engine on four GPUs costs four times as much.

    The longest name that the engine's device starts with counts; none: cost is unknown.
    """

    usd_per_hour: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)

    def of(self, device: str) -> float | None:
        """US dollars an hour of the device, or None where the table does not say."""
        names = [name for name in self.usd_per_hour if device.startswith(name)]
        return self.usd_per_hour[max(names, key=len)] if names else None


class Job(_Part):
    """One job. `name` is its name in the CLI and the prefix of its Dagster assets."""

    name: str
    """In the CLI, and in front of the Dagster assets: small letters, digits, underscores."""
    description: str = ""
    owners: list[str] = Field(default_factory=list)
    """Of its assets in Dagster: teams as team:search, and e-mail addresses."""
    source: Source
    output: Output
    model: ModelConfig = ModelConfig()
    engine: EngineConfig = EngineConfig()
    pool: PoolConfig = PoolConfig()
    system_prompt: str = SYSTEM_PROMPT
    """The same for all tasks, so that they share the longest prefix."""
    prepare: Prepare = Prepare()
    chunking: Chunking = Chunking()
    tasks: Annotated[dict[str, AnyTask], Field(min_length=1)]
    """Name of the task, its folder and its asset -> settings."""
    prices: Prices = Prices()
    budget: Budget = Budget()
    ledger: LedgerConfig = LedgerConfig()
    reuse: Reuse = Reuse()
    checks: CheckLimits = CheckLimits()
    schedule: Schedule | None = None
    """When Dagster runs it."""
    arrival: Arrival | None = None
    """That Dagster runs it when files have come."""
    freshness: Freshness | None = None
    """How old the newest answers may be, in Dagster's eyes."""
    on_failure: OnFailure | None = None
    """Whom Dagster tells when a run has failed."""

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} must be small letters, digits and underscores, starting with a letter"
            )
        return name

    @field_validator("model")
    @classmethod
    def _place_of_compressed_models(cls, model: ModelConfig, info: ValidationInfo) -> ModelConfig:
        output = info.data.get("output")
        if model.compress is None or model.compress.out is not None or output is None:
            return model
        compress = model.compress.model_copy(update={"out": Layout.models(output.uri)})
        return model.model_copy(update={"compress": compress})

    @model_validator(mode="after")
    def _check_compress(self) -> Job:
        compress = self.model.compress
        if compress is None:
            return self
        if unknown := sorted(set(compress.references) - set(self.tasks)):
            raise ValueError(
                f"model.compress.references: no task {', '.join(unknown)}; the job has {', '.join(self.tasks)}"
            )
        if self.engine.quantization is not None:
            raise ValueError(
                "model.compress and engine.quantization both make another model of the same one; keep one of them"
            )
        return self

    @model_validator(mode="after")
    def _check(self) -> Job:
        source = self.source
        for name, task in self.tasks.items():
            if not _NAME.fullmatch(name) or name in RESERVED_NAMES:
                raise ValueError(
                    f"task name {name!r} must be small letters, digits and underscores, and none of "
                    f"{', '.join(RESERVED_NAMES)}"
                )
            columns = COMMON_COLUMNS | {field.name for field in task.columns}
            columns |= {NEAR_DUPLICATE_OF} if self.takes_answers_of_near_duplicates else set()
            clash = sorted({source.id_column, *source.carry} & columns)
            if clash:
                raise ValueError(
                    f"source columns {clash} have the names of output columns of task {name!r}; rename them there"
                )
        if source.id_column == source.text_column:
            raise ValueError("source.id_column and source.text_column are the same column")
        if self.output.uri.rstrip("/") == source.uri.rstrip("/"):
            raise ValueError("output.uri is the source's; answers would be read as documents")
        if self.budget.max_usd is not None and not self.prices.usd_per_hour:
            raise ValueError("budget.max_usd needs prices.usd_per_hour: without a price nothing has a cost")
        return self

    @property
    def engine_settings(self) -> str:
        """Those of the engine's settings that change what it answers."""
        settings = {"kind", "dtype", "max_model_len", "seed", "extra"}
        # Without it, what was answered before there was such a setting stays known. Not `kernels`: they round
        # otherwise, as another batch does.
        settings |= {"quantization"} if self.engine.quantization else set()
        return self.engine.model_dump_json(include=settings)

    def usd_per_hour(self, device: str) -> float | None:
        """US dollars an hour of one engine on this device: of all the GPUs that it takes, or its share of one."""
        price = self.prices.of(device)
        if price is None or device == "cpu":
            return price
        return price * (self.pool.gpus_per_worker or self.engine.tensor_parallel_size)

    def settings_hash(self, task_name: str) -> str:
        """16 hex digits that change when something other than the documents changes what a task answers.

        Not the other tasks, although without `chunking.max_tokens` the tightest of them decides the chunks' size.
        """
        task = self.tasks[task_name].model_dump_json(exclude={"description"})
        shared = (self.model, self.prepare, self.chunking)
        parts = [task, self.engine_settings, self.system_prompt, self.source.text_column]
        parts += [part.model_dump_json(exclude={"compress"}) for part in shared]
        compress = self.model.compress
        parts += [compress.model_dump_json(exclude={"out"})] if compress else []
        return xxhash.xxh3_64_hexdigest("|".join(parts).encode())

    @property
    def takes_answers_of_near_duplicates(self) -> bool:
        """Whether a near-duplicate is answered as the text that it is like."""
        return self.reuse.near_duplicates == "answers"

    def answers_hash(self, task_name: str) -> str:
        """The same of what the task's output says: it also changes with what stands for what (`reuse`)."""
        settings = self.settings_hash(task_name)
        if not self.takes_answers_of_near_duplicates:
            return settings
        return xxhash.xxh3_64_hexdigest(
            f"{settings}|near-duplicates {self.reuse.similarity} {SKETCH_VERSION}".encode()
        )

    def partition(self, value: str | None) -> Partition:
        """The partition that a `--partition` value names. Raises `ValueError` with what was expected."""
        if self.source.partition_key is None:
            if value not in (None, "all"):
                raise ValueError(
                    f"job {self.name!r} is not partitioned (source.partition_key is null); leave --partition out"
                )
            return Partition()
        if not value:
            raise ValueError(
                f"job {self.name!r} is partitioned by {self.source.partition_key!r}; name one: "
                f"--partition {self.source.period.example}"
            )
        value = value.removeprefix(f"{self.source.partition_key}=")
        if "/" in value or "=" in value or not self._is_period(value):
            raise ValueError(
                f"{value!r} is no partition; expected a value of {self.source.partition_key!r} such as "
                f"{self.source.period.example}"
            )
        return Partition(self.source.partition_key, value)

    def _is_period(self, value: str) -> bool:
        """Of an hour, which is easily mistaken for its day; what is no day is not found, and that says enough."""
        if self.source.partition_every == "day":
            return True
        try:
            self.source.period.start_of(value)
        except ValueError:
            return False
        return True
