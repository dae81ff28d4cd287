"""What runs have taught about speed and answer lengths: one JSON file in the output, which every finished run refines.

    engines   by model and settings of the engine: what its steps cost, and what a run takes around them
    lengths   by a task's settings: tokens that it was expected to write, and has written

Later runs weigh more: what is known counts half as much with every run that adds to it.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Iterable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

import xxhash
from pydantic import BaseModel, ConfigDict, Field

from docmill.data import storage
from docmill.data.errors import StorageError, StorageNotFound
from docmill.data.layout import Layout
from docmill.engine.steps import COLUMNS, NO_STEPS, StepSums
from docmill.ops.expected_steps import EngineLimits
from docmill.ops.job import Job
from docmill.ops.report import PROMPT_TOKENS_PER_OUTPUT_TOKEN, Report, TimelinePoint
from docmill.ops.step_costs import StepCosts, fit

log = logging.getLogger(__name__)

PROFILE_VERSION = 2
NOTHING_TUNED: Mapping[str, float] = MappingProxyType({})
FORGET = 0.5  # what was known before counts so much beside a new run
WRITE_ATTEMPTS = 5
WINDOW_SECONDS = 3.0  # of steps, of which one range is made: shorter ones are mostly noise
FEWEST_WINDOWS = 5  # fewer have no 10th percentile
# The same work, run again on the same machine, took this share less or more (measured on a shared CPU): no range is
# narrower, however even one run was.
NARROWEST = 0.92, 1.08
ROUGH_LOW = 0.3  # of costs from a run too short to have been measured step by step


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class EngineProfile(_Part):
    """One model with one set of engine settings."""

    device: str
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int | None
    kv_cache_tokens: int | None
    costs: StepCosts
    step_products: list[
        float
    ]  # that the costs follow from, older ones counting less; see `engine.steps.StepSums`
    # 10th and 90th percentile of what a few seconds of a run took over what the costs say.
    low: float
    high: float
    load_seconds: float
    fixed_seconds: (
        float  # what the steps, loading, planning and assembling do not explain, warming up included
    )
    assembling_seconds_per_document: float
    measured_at: datetime
    documents: int  # of the last run

    @property
    def limits(self) -> EngineLimits:
        """What it computes at once; what an engine did not say limits nothing."""
        return EngineLimits(
            self.max_num_seqs, self.max_num_batched_tokens or 2**31, self.kv_cache_tokens or 2**62
        )


class Lengths(_Part):
    """Answers of one task: tokens expected by its own estimate, and written."""

    estimated: float
    written: float


class Profile(_Part):
    """All that is known."""

    profile_version: int = PROFILE_VERSION
    engines: dict[str, EngineProfile] = Field(default_factory=dict)
    lengths: dict[str, Lengths] = Field(default_factory=dict)


def engine_key(job: Job, model_fingerprint: str, tuned: Mapping[str, float] = NOTHING_TUNED) -> str:
    """16 hex digits that stand for the model and for what decides how fast it is.

    `tuned` are settings that come from `docmill tune`, beside the job's own.
    """
    apart = {"max_restarts", "hang_seconds", "memory_gib"}
    # What was learned before there were such settings stays known.
    apart |= {name for name in ("quantization", "kernels") if name not in job.engine.model_fields_set}
    settings = job.engine.model_dump_json(exclude=apart)
    share = job.pool.model_dump_json(include={"kind", "cpus_per_worker", "gpus_per_worker"})
    added = "".join(f"|{name}={value:g}" for name, value in sorted(tuned.items()))
    return xxhash.xxh3_64_hexdigest(f"{model_fingerprint}|{settings}|{share}{added}".encode())


def find_engine(
    profile: Profile, job: Job, model_fingerprint: str, tuned: Iterable[Mapping[str, float]]
) -> EngineProfile | None:
    """What is known of the engine that a run would have; None where nothing is.

    `tuned` are the settings that may join the job's own, see `tuned_engines.possible_settings`: of several the last
    measured counts.
    """
    keys = [engine_key(job, model_fingerprint, settings) for settings in tuned]
    measured = [profile.engines[key] for key in keys if key in profile.engines]
    return max(measured, key=lambda engine: engine.measured_at, default=None)


def read_profile(job: Job) -> Profile:
    """What is known; nothing where no run has finished, or where the file is of another docmill."""
    return _read(job.output.uri)[0]


def learn(job: Job, report: Report, lengths: dict[str, tuple[float, float]]) -> None:
    """Add a finished run. Never raises because of the store: the next estimate is a little older at worst."""
    try:
        for _ in range(WRITE_ATTEMPTS):
            profile, version = _read(job.output.uri)
            _add(profile, job, report, lengths)
            content = profile.model_dump_json(indent=1).encode()
            if storage.replace_bytes(Layout.profile(job.output.uri), content, version=version):
                return
    except StorageError as error:
        log.warning("job=%s the profile was not written: %s", job.name, error)


def _add(profile: Profile, job: Job, report: Report, lengths: dict[str, tuple[float, float]]) -> None:
    for name, (estimated, written) in lengths.items():
        before = profile.lengths.get(job.settings_hash(name), Lengths(estimated=0.0, written=0.0))
        if estimated:
            profile.lengths[job.settings_hash(name)] = Lengths(
                estimated=before.estimated * FORGET + estimated, written=before.written * FORGET + written
            )
    sums = StepSums(tuple(report.step_products)) if report.step_products else NO_STEPS
    own_costs = fit(sums) or _rough_costs(report)
    if own_costs is None or not report.documents:
        return
    key = engine_key(job, report.model_fingerprint, report.engine_settings.tuned)
    seconds, settings = report.seconds, report.engine_settings
    explained = sums.of("seconds") or seconds.engine
    loading = seconds.model_load / report.workers
    around = seconds.wall - loading - seconds.planning - seconds.assembling
    low, high = _range(own_costs, report.timeline) if sums.of("one") else (ROUGH_LOW, 1.0)
    new = EngineProfile(
        device=report.machine.device,
        max_model_len=report.max_model_len,
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        kv_cache_tokens=settings.kv_cache_tokens,
        costs=own_costs,
        step_products=list(sums.products),
        low=low,
        high=high,
        load_seconds=loading,
        fixed_seconds=max(0.0, around - explained / report.workers),
        assembling_seconds_per_document=seconds.assembling / report.documents,
        measured_at=report.finished_at,
        documents=report.documents,
    )
    known = profile.engines.get(key)
    if known is not None:
        for name in ("low", "high", "load_seconds", "fixed_seconds", "assembling_seconds_per_document"):
            setattr(new, name, (FORGET * getattr(known, name) + getattr(new, name)) / (1 + FORGET))
        sums = sums.plus(StepSums(tuple(known.step_products)), times=FORGET)
        new.step_products = list(sums.products)
        new.costs = fit(sums) or own_costs
    profile.engines[key] = new


def _rough_costs(report: Report) -> StepCosts | None:
    """Of a run too short to tell its steps apart, in which the engine was not full all the time."""
    prompt = report.computed_tokens.prompt - report.computed_tokens.cached
    output, busy = report.computed_tokens.output, report.seconds.engine
    if busy <= 0 or prompt + output <= 0:
        return None
    ratio = PROMPT_TOKENS_PER_OUTPUT_TOKEN
    seconds_per_token = busy / (prompt + ratio * output)
    return StepCosts(tokens=seconds_per_token, sequences=(ratio - 1) * seconds_per_token)


def _range(costs: StepCosts, points: Iterable[TimelinePoint]) -> tuple[float, float]:
    """What stretches of a few seconds took over what the costs say: all but the slowest and the quickest tenth."""
    shares = []
    by_worker: dict[str, list[float]] = {}  # where its present window began
    for point in points:
        began = by_worker.setdefault(point.worker, point.steps)
        window = {
            name: after - before for name, before, after in zip(COLUMNS, began, point.steps, strict=True)
        }
        if window["seconds"] >= WINDOW_SECONDS:
            by_worker[point.worker] = point.steps
            if expected := costs.seconds(window):
                shares.append(window["seconds"] / expected)
    low, high = NARROWEST
    if len(shares) >= FEWEST_WINDOWS:
        deciles = statistics.quantiles(shares, n=10, method="inclusive")
        low, high = min(low, deciles[0]), max(high, deciles[-1])
    return low, high


def _read(output_uri: str) -> tuple[Profile, str | None]:
    try:
        content, version = storage.read_versioned(Layout.profile(output_uri))
    except StorageNotFound:
        return Profile(), None
    try:
        profile = Profile.model_validate_json(content)
    except ValueError as error:
        log.warning(
            "the profile of %s cannot be read and is begun anew: %s", output_uri, type(error).__name__
        )
        return Profile(), version
    return (profile if profile.profile_version == PROFILE_VERSION else Profile()), version


def worker_lengths(figures: Iterable[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """What the workers of one run have learned about answers, together."""
    total: dict[str, tuple[float, float]] = {}
    for worker in figures:
        for name, (estimated, written) in worker.get("lengths", {}).items():
            before = total.get(name, (0.0, 0.0))
            total[name] = before[0] + estimated, before[1] + written
    return total
