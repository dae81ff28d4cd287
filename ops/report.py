"""What a run did, how long it took and what it cost: `report.json`.

Raise `REPORT_VERSION` when a figure changes its name or meaning. `Report.model_json_schema()` is the schema.
"""

from __future__ import annotations

import os
import platform
import resource
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import reduce
from importlib import metadata
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, Field

from docmill.ops.expected import Estimate
from docmill.ops.near_figures import NearDuplicates
from docmill.ops.token_bins import TokenBins

REPORT_VERSION = 1

# One generated token costs about as much engine time as this many computed prompt tokens (measured on the CPU:
# prefill 10-14 k tokens/s, decode 3-4 k). Only divides a bill among tasks; the bill itself is time x price.
PROMPT_TOKENS_PER_OUTPUT_TOKEN = 4


class _Figures(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Counts(_Figures):
    """Rows by how they ended. `rows = ok + failed + skipped`."""

    rows: int = 0
    ok: int = 0
    failed: int = 0
    skipped: int = 0

    @property
    def balanced(self) -> bool:
        """Whether every row is accounted for."""
        return self.rows == self.ok + self.failed + self.skipped

    @property
    def failed_share(self) -> float:
        """Of all rows."""
        return self.failed / self.rows if self.rows else 0.0

    def plus(self, other: Counts) -> Counts:
        """Both together."""
        return Counts(**{name: getattr(self, name) + getattr(other, name) for name in Counts.model_fields})


class Tokens(_Figures):
    """Cached tokens are the part of the prompt tokens that the prefix cache spared."""

    prompt: int = 0
    cached: int = 0
    output: int = 0


class TaskReport(_Figures):
    """One task's part of the run."""

    kind: str
    counts: Counts = Field(default_factory=Counts)
    requests: int = 0
    duplicate_requests: int = 0  # of them, answered by an equal request of another row
    reused_requests: int = 0  # of them, answered in a run that was finished before, see `reuse` of the job
    near_duplicate_requests: int = 0  # of them, answered by a request of the row that theirs is like
    near_duplicate_rows: int = 0  # with the answer of another row, whatever that has spared
    tokens: Tokens = Field(default_factory=Tokens)
    spared_tokens: Tokens = Field(default_factory=Tokens)  # of those three: in `tokens`, and not computed
    near_duplicate_tokens: Tokens = Field(
        default_factory=Tokens
    )  # of the spared, what near-duplicates spared
    # Of the answered rows, by the tokens of all their requests together.
    prompt_token_bins: TokenBins = Field(default_factory=dict)
    output_token_bins: TokenBins = Field(default_factory=dict)
    truncated_answers: int = 0  # cut off at the token limit
    errors: dict[str, int] = Field(default_factory=dict)  # rows by reason, failed and skipped
    usd: float | None = None

    def weight(self) -> float:
        """Share of the engine's work, in computed prompt tokens."""
        tokens, spared = self.tokens, self.spared_tokens
        written = tokens.output - spared.output
        return tokens.prompt - tokens.cached + PROMPT_TOKENS_PER_OUTPUT_TOKEN * written


class FailedShard(_Figures):
    """A file that could not be used. Its earlier answers, if any, were left as they were."""

    shard: str
    error: str


class Seconds(_Figures):
    """Seconds by stage, of all workers together. Most overlap with the engine; so the sum may exceed the wall time."""

    wall: float = 0.0
    planning: float = 0.0
    model_load: float = 0.0
    read: float = 0.0
    prepare: float = 0.0
    tokenise: float = 0.0
    engine: float = 0.0  # the engine had something to compute
    fed: float = 0.0  # from the first document to the last answer
    write: float = 0.0  # segments and parts, beside the engine
    assembling: float = 0.0  # parts to output files, after the engine


class Idle(_Figures):
    """Seconds of a whole engine that were not used: with a third of its places empty, a third of the time."""

    starved: float = 0.0  # reading, cleaning or tokenising was too slow
    draining: float = 0.0  # nothing was left to ask: the end of the work, waiting for the longest answers
    writing: float = 0.0  # the store was too slow to take the answers


class TimelinePoint(_Figures):
    """One look at an engine. Tokens are those computed since the worker began."""

    worker: str
    seconds: float  # since the worker began to feed it
    num_running: int
    num_waiting: int
    kv_cache_used: float  # share
    num_prompt_tokens: int  # without what the prefix cache had
    num_output_tokens: int
    steps: list[float] = Field(default_factory=list)  # sums so far of `engine.steps.COLUMNS`


class SlowDocument(_Figures):
    """One of the documents that the engine took longest over, and the task that it was asked for."""

    doc_id: str | None
    shard: str
    row: int  # in the shard, from 0
    task: str
    seconds: (
        float  # from its first request in the engine to its last answer, waiting for a place there included
    )
    prompt_tokens: int
    output_tokens: int


class Rates(_Figures):
    """Per second of wall time, without the model's loading."""

    documents_per_second: float = 0.0
    prompt_tokens_per_second: float = 0.0
    output_tokens_per_second: float = 0.0
    engine_busy_share: float = 0.0  # of the time, with something to compute
    engine_full_share: float = 0.0  # of the engine while it was fed, see `Idle`


class Cost(_Figures):
    """Engine time (wall time with the model's loading, of each engine, and of runs that did not end) times the price.

    None where the job has no price for the device.
    """

    usd_per_hour: float | None = None
    usd: float | None = None
    usd_per_1000_documents: float | None = None


class IncidentReport(_Figures):
    """A death of an engine that the run survived, see `engine.types.Incident`."""

    kind: str
    at: datetime
    num_in_flight: int
    message: str
    action: str
    limits: dict[str, int] = Field(default_factory=dict)


class EngineSettings(_Figures):
    """What the engine ran with, of that which decides how fast it is; of several workers the first one's."""

    hardware: str = ""  # see `engine.hardware`
    max_num_seqs: int = 0
    max_num_batched_tokens: int | None = None
    kv_cache_tokens: int | None = None
    settings: dict[str, int | float] = Field(default_factory=dict)
    tuned: dict[str, int | float] = Field(default_factory=dict)  # of them, from `docmill tune`


class KernelReport(_Figures):
    """One of docmill's kernels: in how many layers of the model it was and how often it ran, or why it did not."""

    num_places: int = 0
    num_calls: int = (
        0  # of all engines, on one GPU each; of an engine's process that died, up to a second before
    )
    implementation: str = ""  # `native`: PyTorch's own operations; else the binary with the kernels
    reason: str = ""


class Machine(_Figures):
    """Where it ran."""

    device: str
    cpu_count: int
    memory_gib: float
    platform: str
    python: str


class CompressedFigures(_Figures):
    """What `model.compress` has made of the model that the job names, and what it lost on held-out documents."""

    recipe: str
    setting: str
    made_at: datetime
    size_ratio: float  # bytes of weights to those of the source
    speed_ratio: float | None  # tokens a second, by turns with the source, where it was made
    max_drop: float  # that was allowed
    drops: dict[str, float]  # of each task's quality, from 0 to 1
    most_drops: dict[str, float]  # with 95 % certainty


class Report(_Figures):
    """All figures of one run of one partition."""

    report_version: int = REPORT_VERSION
    job: str
    partition: str
    started_at: datetime
    finished_at: datetime
    model: str
    model_fingerprint: str
    compressed: CompressedFigures | None = None
    engine: str
    engine_settings: EngineSettings = Field(default_factory=EngineSettings)
    kernels: dict[str, KernelReport] = Field(default_factory=dict)
    max_model_len: int = 0  # tokens of prompt and answer together
    plan: str
    shards: int
    failed_shards: list[FailedShard]
    documents: int  # rows read, of shards that could be used
    truncated_documents: int  # cut at prepare.max_chars
    chunked_documents: int  # did not fit the model whole
    requests: int
    dead_letters: int  # requests that failed for good, see dead_letters.parquet
    dead_letters_by_reason: dict[str, int] = Field(default_factory=dict)
    tokens: Tokens  # of the answers
    spared_tokens: Tokens = Field(default_factory=Tokens)  # of them, what duplicates and earlier runs spared
    # By the engines, in runs that did not end too: beyond `tokens` less the spared ones, work was done twice.
    computed_tokens: Tokens
    tasks: dict[str, TaskReport]
    workers: int
    earlier_worker_seconds: float  # of runs that did not end, and of lost workers: in the cost too
    incidents: list[IncidentReport]
    seconds: Seconds
    idle: Idle = Field(default_factory=Idle)
    rates: Rates
    step_products: list[float] = Field(
        default_factory=list
    )  # of all engines' steps, see `engine.steps.StepSums`
    timeline: list[TimelinePoint] = Field(default_factory=list)
    slowest: list[SlowDocument] = Field(default_factory=list)  # of this run, the slowest first
    cost: Cost
    near_duplicates: NearDuplicates | None = None  # where the job asks for them
    estimate: Estimate | None = None  # what `docmill plan` had expected of the same plan
    peak_memory_mib: float
    machine: Machine
    versions: dict[str, str]

    @property
    def answers(self) -> Counts:
        """Of all tasks together: a document counts once for each."""
        return reduce(Counts.plus, (task.counts for task in self.tasks.values()), Counts())

    @property
    def engine_seconds(self) -> float:
        """What is paid: wall time of each engine, with the model's loading, and that of runs that did not end."""
        return self.seconds.wall * self.workers + self.earlier_worker_seconds


def this_machine(device: str) -> Machine:
    """Cores and memory of the machine this runs on."""
    return Machine(
        device=device,
        cpu_count=os.cpu_count() or 1,
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        platform=platform.platform(),
        python=platform.python_version(),
    )


def peak_memory_mib() -> float:
    """Most memory this process has held at once, since it started."""
    try:
        # getrusage would also count whoever started this process, up to the moment it did.
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def versions(engine_versions: dict[str, str]) -> dict[str, str]:
    """Versions of what shaped the answers and the figures."""
    ours = {name: metadata.version(name) for name in ("docmill", "pyarrow", "fsspec", "tokenizers")}
    return ours | engine_versions


def rates(
    *,
    documents: int,
    tokens: Tokens,
    seconds: Seconds,
    num_engines: int = 1,
    full_share: float = 0.0,
) -> Rates:
    """Throughput of a run, from what it did itself. Seconds of stages are those of all engines together."""
    working = max(seconds.wall - seconds.model_load / num_engines, 1e-9)
    return Rates(
        documents_per_second=documents / working,
        prompt_tokens_per_second=tokens.prompt / working,
        output_tokens_per_second=tokens.output / working,
        engine_busy_share=min(1.0, seconds.engine / num_engines / working),
        engine_full_share=full_share,
    )


def bill(
    tasks: dict[str, TaskReport], *, documents: int, engine_seconds: float, usd_per_hour: float | None
) -> Cost:
    """The run's cost; also fills in each task's share of it, by the engine work that the task caused."""
    if usd_per_hour is None:
        return Cost()
    usd = engine_seconds / 3600 * usd_per_hour
    for name, share in work_shares(tasks).items():
        tasks[name].usd = usd * share
    return Cost(
        usd_per_hour=usd_per_hour,
        usd=usd,
        usd_per_1000_documents=usd / documents * 1000 if documents else None,
    )


def work_shares(tasks: Mapping[str, TaskReport]) -> dict[str, float]:
    """Each task's share of the engine's work; equal shares where there was none."""
    work = sum(task.weight() for task in tasks.values())
    return {name: task.weight() / work if work else 1 / len(tasks) for name, task in tasks.items()}


def usd_of_near_duplicates(tasks: dict[str, TaskReport], near: NearDuplicates, cost: Cost) -> float | None:
    """What near-duplicates have spared, at what each task's computed requests cost; or what they would have spared."""
    if cost.usd is None:
        return None
    if near.reuse == "report":
        return cost.usd * near.work_share
    usd = 0.0
    for task in tasks.values():
        spared = task.duplicate_requests + task.reused_requests + task.near_duplicate_requests
        if task.usd is not None and task.requests > spared:
            usd += task.usd * task.near_duplicate_requests / (task.requests - spared)
    return usd


def now() -> datetime:
    """The time, with its zone."""
    return datetime.now(UTC)
