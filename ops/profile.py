"""What runs have taught about speed and answer lengths: one JSON file in the output, which every finished run refines.

    engines   by model and settings of the engine: seconds a computed prompt token and a written token take
    lengths   by a task's settings: tokens that it was expected to write, and has written

Later runs weigh more: what is known counts half as much with every run that adds to it.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import xxhash
from pydantic import BaseModel, ConfigDict, Field

from docmill.data import storage
from docmill.data.errors import StorageError, StorageNotFound
from docmill.data.layout import Layout
from docmill.ops.job import Job
from docmill.ops.report import PROMPT_TOKENS_PER_OUTPUT_TOKEN, Report, TimelinePoint

log = logging.getLogger(__name__)

PROFILE_VERSION = 1
NOTHING_TUNED: Mapping[str, float] = MappingProxyType({})
FORGET = 0.5  # what was known before counts so much beside a new run
WRITE_ATTEMPTS = 5
FULL_SHARE = 0.9  # of the most sequences seen running: points with fewer are not an engine at work
ROUGH_LOW, ROUGH_TRUST = 0.3, 0.1  # of a speed from a run that never filled the engine
WINDOW_SECONDS = 3.0  # a point tells of whole prompts, so that shorter windows are mostly noise


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class EngineSpeed(_Part):
    """How fast an engine is while it is full, by the shares of prompt and answer in its work."""

    seconds_per_prompt_token: float  # computed, so without cached ones
    seconds_per_output_token: float
    # 10th and 90th percentile of what a few seconds of a run took over what these figures say.
    low: float
    high: float
    tokens: float  # that were measured, older ones counting less

    def seconds(self, prompt_tokens: float, output_tokens: float) -> float:
        """Of one engine, for so many computed and written tokens."""
        return self.seconds_per_prompt_token * prompt_tokens + self.seconds_per_output_token * output_tokens


class EngineProfile(_Part):
    """One model with one set of engine settings."""

    device: str
    max_model_len: int
    speed: EngineSpeed
    load_seconds: float
    idle_seconds: (
        float  # of the engine while it was fed: filling and draining it, whatever the size of the job
    )
    fixed_seconds: float  # before and after, without loading, planning and assembling
    assembling_seconds_per_document: float
    measured_at: datetime
    documents: int  # of the last run


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
    settings = job.engine.model_dump_json(exclude={"max_restarts", "hang_seconds", "memory_gib"})
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


def measure_speed(points: Sequence[TimelinePoint]) -> EngineSpeed | None:
    """From what a run's engines did while they were full; None where that was too short to say anything."""
    windows = [window for points in _by_worker(points) for window in _windows(points)]
    if not windows:
        return None
    prompt, output = _fit(windows)
    speed = EngineSpeed(
        seconds_per_prompt_token=prompt,
        seconds_per_output_token=output,
        low=1.0,
        high=1.0,
        tokens=sum(prompt_tokens + output_tokens for _, prompt_tokens, output_tokens in windows),
    )
    ratios = [
        seconds / speed.seconds(prompt_tokens, output_tokens)
        for seconds, prompt_tokens, output_tokens in windows
    ]
    if len(ratios) >= 2:
        deciles = statistics.quantiles(ratios, n=10, method="inclusive")
        speed.low, speed.high = min(1.0, deciles[0]), max(1.0, deciles[-1])
    return speed


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
    speed = measure_speed(report.timeline) or _rough_speed(report)
    if speed is None or not report.documents:
        return
    key = engine_key(job, report.model_fingerprint, report.engine_settings.tuned)
    seconds, idle = report.seconds, report.idle
    loading, fed = seconds.model_load / report.workers, seconds.fed / report.workers
    new = EngineProfile(
        device=report.machine.device,
        max_model_len=report.max_model_len,
        speed=speed,
        load_seconds=loading,
        idle_seconds=(idle.starved + idle.draining + idle.writing) / report.workers,
        fixed_seconds=max(0.0, seconds.wall - loading - seconds.planning - seconds.assembling - fed),
        assembling_seconds_per_document=seconds.assembling / report.documents,
        measured_at=report.finished_at,
        documents=report.documents,
    )
    known = profile.engines.get(key)
    if known is not None:
        new.speed = _mixed(known.speed, speed)
        for name in ("load_seconds", "idle_seconds", "fixed_seconds", "assembling_seconds_per_document"):
            setattr(new, name, (FORGET * getattr(known, name) + getattr(new, name)) / (1 + FORGET))
    profile.engines[key] = new


def _rough_speed(report: Report) -> EngineSpeed | None:
    """Of a run too short for `measure_speed`: what it took in all, in which the engine was not full all the time."""
    prompt = report.computed_tokens.prompt - report.computed_tokens.cached
    output, busy = report.computed_tokens.output, report.seconds.engine
    if busy <= 0 or prompt + output <= 0:
        return None
    seconds_per_prompt_token = busy / (prompt + PROMPT_TOKENS_PER_OUTPUT_TOKEN * output)
    return EngineSpeed(
        seconds_per_prompt_token=seconds_per_prompt_token,
        seconds_per_output_token=PROMPT_TOKENS_PER_OUTPUT_TOKEN * seconds_per_prompt_token,
        low=ROUGH_LOW,
        high=1.0,
        tokens=ROUGH_TRUST * (prompt + output),
    )


def _mixed(before: EngineSpeed, new: EngineSpeed) -> EngineSpeed:
    old = before.tokens * FORGET
    share = new.tokens / (old + new.tokens)
    mixed = {
        name: getattr(before, name) * (1 - share) + getattr(new, name) * share
        for name in EngineSpeed.model_fields
        if name != "tokens"
    }
    return EngineSpeed(**mixed, tokens=old + new.tokens)


def _by_worker(points: Iterable[TimelinePoint]) -> list[list[TimelinePoint]]:
    workers: dict[str, list[TimelinePoint]] = {}
    for point in points:
        workers.setdefault(point.worker, []).append(point)
    return list(workers.values())


def _windows(points: list[TimelinePoint]) -> list[tuple[float, float, float]]:
    """Seconds, prompt and output tokens of stretches of a few seconds in which the engine was full throughout."""
    most = max(point.num_running for point in points)
    windows = []
    first = None
    for before, after in pairwise(points):
        full = before.num_waiting > 0 or (most and before.num_running >= FULL_SHARE * most)
        if not full:
            first = None
            continue
        first = first or before
        seconds = after.seconds - first.seconds
        if seconds >= WINDOW_SECONDS:
            prompt = after.num_prompt_tokens - first.num_prompt_tokens
            output = after.num_output_tokens - first.num_output_tokens
            if prompt + output > 0:
                windows.append((seconds, float(prompt), float(output)))
            first = None
    return windows


def _fit(windows: list[tuple[float, float, float]]) -> tuple[float, float]:
    """Seconds a prompt and an output token that explain the windows best, and all of them together exactly.

    Least squares; where prompt and output came in one proportion all the time, nobody can tell them apart, and the
    usual ratio between them is taken.
    """
    seconds = sum(window[0] for window in windows)
    prompts = sum(window[1] for window in windows)
    outputs = sum(window[2] for window in windows)
    pp = sum(window[1] ** 2 for window in windows)
    oo = sum(window[2] ** 2 for window in windows)
    po = sum(window[1] * window[2] for window in windows)
    sp = sum(window[0] * window[1] for window in windows)
    so = sum(window[0] * window[2] for window in windows)
    determinant = pp * oo - po * po
    prompt, output = 1.0, float(PROMPT_TOKENS_PER_OUTPUT_TOKEN)
    if len(windows) >= 4 and determinant > 0.01 * pp * oo:
        fitted = (sp * oo - so * po) / determinant, (so * pp - sp * po) / determinant
        if min(fitted) > 0:
            prompt, output = fitted
    scale = seconds / (prompt * prompts + output * outputs)
    return prompt * scale, output * scale


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
