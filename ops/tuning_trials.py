"""Tunes a job's engine: real runs over a sample of the job's own documents, by the code that every run uses.

    sample --a first run, as it would be now--> present settings; how many documents take about TRIAL_SECONDS
      --a run with each set of settings (`tuning` says which)--> documents a second, while the engine was fed
      --what was reliably faster--> tuning.json, and the profile that `docmill plan` prices by

Answers are thrown away. Loading the model takes of the time there is, but not of a trial's speed; and the first run
counts for nothing else: what comes first on a machine is slower than what follows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace

from docmill.data import storage
from docmill.data.records import Partition
from docmill.engine.config import EngineConfig
from docmill.engine.errors import EngineDied, EngineError
from docmill.engine.tuned import TunedEngine, free_settings, place_of
from docmill.ops.errors import JobError
from docmill.ops.job import Job
from docmill.ops.partition_job import run_partition
from docmill.ops.profile import learn
from docmill.ops.progress import OnProgress, ignore_progress
from docmill.ops.report import Report, now
from docmill.ops.sample import Sample, sampled
from docmill.ops.tuned_engines import copy_tuned, store_tuned
from docmill.ops.tuning import Axes, Settings, Trial, Tuned, tune

FIRST_DOCUMENTS = 300  # of the run that tells how many a trial needs
TRIAL_SECONDS = 20.0  # that a trial with the present settings keeps the engine busy
LONGEST_TRIAL_SECONDS = 60.0
BATCHES = 8  # full ones in a trial, at least: filling and draining the engine would else decide
LARGER = 1.5  # a sample that would grow by less stays as it is

NUM_SEQS = (1, 4096)
BATCHED_TOKENS = (256, 65_536)
GPU_SHARES = (0.93, 0.95)  # the rest is for what vLLM does not foresee
KV_MEMORY_SHARE = 0.25  # of the machine's memory, on a CPU
KV_DTYPE, FP8 = "kv_cache_dtype", "fp8"


@dataclass(frozen=True)
class TuningResult:
    """What `tune_job` has found."""

    tuned: Tuned
    device: str
    hardware: str
    num_documents: int  # of the sample
    num_documents_total: int  # of the partition
    lossy: (
        bool  # the best settings change answers: they are used where the job's file asks for an FP8 KV cache
    )
    seconds: float

    @property
    def stored(self) -> bool:
        """Whether runs have other settings from now on, or would have them with an FP8 KV cache."""
        return self.tuned.verdict == "faster"


def tune_job(
    job: Job,
    partition: Partition,
    *,
    seconds: float,
    num_documents: int | None = None,
    fp8_kv: bool = False,
    on_progress: OnProgress = ignore_progress,
    on_trial: Callable[[Trial], None] = lambda _: None,
    stop: threading.Event | None = None,
) -> TuningResult:
    """Search for about so many seconds, and store what is reliably faster, by model and device.

    What the job's file says of the engine stays as it is. With `fp8_kv` an FP8 KV cache, which changes answers, is
    tried too. Raises what a run with the present settings raises; with others that fail, a trial has failed.
    """
    _check(job, fp8_kv=fp8_kv)
    started = time.monotonic()
    with ExitStack() as stack:
        sample = stack.enter_context(sampled(job, partition, num_documents=num_documents or FIRST_DOCUMENTS))
        copy_tuned(job.output.uri, sample.job.output.uri)
        report = run_partition(sample.job, Partition(), on_progress=on_progress, stop=stop)
        storage.delete_folder(sample.job.output.uri)
        settings = _present_settings(job, report, fp8_kv=fp8_kv)
        if num_documents is None and (wanted := _wanted_documents(report, sample)):
            sample = stack.enter_context(sampled(job, partition, num_documents=wanted))
        trials = _Trials(job, sample, report, on_progress, stop)
        present = trials.measure(settings)
        if present.speed is None:
            raise EngineDied(f"with its present settings: {present.trouble}", 0)
        on_trial(present)
        tuned = tune(
            trials.measure,
            present,
            _axes(settings, memory_gib=report.machine.memory_gib),
            seconds=seconds - (time.monotonic() - started),
            allowed=trials.is_possible,
            on_trial=on_trial,
        )
        trials.teach(tuned)
    result = TuningResult(
        tuned=tuned,
        device=report.machine.device,
        hardware=report.engine_settings.hardware,
        num_documents=sample.num_documents,
        num_documents_total=sample.num_documents_total,
        lossy=tuned.best.settings.get(KV_DTYPE) == FP8,
        seconds=time.monotonic() - started,
    )
    if result.stored:
        store_tuned(job.output.uri, _tuned_engine(job, report, result))
    return result


class _Trials:
    """Runs over one sample, one after the other, each with an output that is gone after it.

    `now` is the report of a run as it would be without us.
    """

    def __init__(
        self,
        job: Job,
        sample: Sample,
        now: Report,
        on_progress: OnProgress,
        stop: threading.Event | None,
    ):
        self._job, self._sample, self._now = job, sample, now
        self._on_progress, self._stop = on_progress, stop
        self._num_failed: int | None = None  # requests, in the first trial
        # What each has shown of the answers' lengths, by the trial's id.
        self._lessons: dict[int, tuple[Report, dict[str, tuple[float, float]]]] = {}

    def is_possible(self, settings: Settings) -> bool:
        """Whether vLLM would take them: every sequence of a step has a token in it."""
        every = {**self._now.engine_settings.settings, **settings}
        return float(every.get("max_num_batched_tokens", BATCHED_TOKENS[1])) >= float(every["max_num_seqs"])

    def measure(self, settings: Settings) -> Trial:
        """One trial; without a speed where the engine does not work with these settings."""
        started = time.monotonic()
        engine = _with_settings(self._job.engine, settings).model_copy(update={"max_restarts": 0})
        try:
            report, lengths = self._run(self._sample.job.model_copy(update={"engine": engine}))
        except EngineError as error:
            if isinstance(error, EngineDied):
                trouble = f"{error.kind.replace('_', ' ')}: {error.message}"
            else:
                trouble = f"refused: {error}"
            return Trial(settings, time.monotonic() - started, trouble=trouble)
        if self._num_failed is None:
            self._num_failed = report.dead_letters
        trial = _trial(settings, report, started)
        if (why := self._trouble(report)) is not None:
            return replace(trial, speed=None, trouble=why)
        self._lessons[id(trial)] = report, lengths
        return trial

    def _trouble(self, report: Report) -> str | None:
        """Why its speed says nothing, if so."""
        hardware = report.engine_settings.hardware
        if report.incidents:  # memory ran out, and it went on with less than what was to be tried
            incident = report.incidents[0]
            return f"{incident.kind.replace('_', ' ')}: {incident.message}"
        if report.dead_letters > (self._num_failed or 0):
            return f"{report.dead_letters:,} requests failed for good"
        if hardware != self._now.engine_settings.hardware:
            return f"ran elsewhere: on {hardware}"
        return None

    def teach(self, tuned: Tuned) -> None:
        """Let the profile know how fast the engine is with the settings that runs have from now on."""
        faster = tuned.verdict == "faster"
        runs = [pair[faster] for pair in tuned.pairs if id(pair[faster]) in self._lessons]
        report, lengths = self._lessons[id(runs[-1] if runs else tuned.present)]
        chosen = _numbers(tuned.best.settings) if faster else self._now.engine_settings.tuned
        settings = report.engine_settings.model_copy(update={"tuned": chosen})
        job = _job_of(self._job, tuned.best.settings) if faster else self._job
        learn(job, report.model_copy(update={"engine_settings": settings}), lengths)

    def _run(self, job: Job) -> tuple[Report, dict[str, tuple[float, float]]]:
        """A run, and what it has shown of the answers' lengths."""
        try:
            report = run_partition(job, Partition(), on_progress=self._on_progress, stop=self._stop)
            return report, self._sample.lengths(report)
        finally:
            storage.delete_folder(job.output.uri)


def _check(job: Job, *, fp8_kv: bool) -> None:
    if fp8_kv and KV_DTYPE in job.engine.extra:
        raise JobError(job.name, [f"engine.extra.{KV_DTYPE} is set already; tune without --fp8-kv"])
    if not fp8_kv and not any(free_settings(job.engine, on_cpu=on_cpu) for on_cpu in (True, False)):
        raise JobError(job.name, ["engine: the job's file says all that could be tuned; take some of it out"])


def _present_settings(job: Job, report: Report, *, fp8_kv: bool) -> Settings:
    """Those that may be changed, as they are."""
    if report.seconds.fed <= 0:
        raise JobError(job.name, ["tune: the engine was asked about no document of the sample"])
    effective = report.engine_settings.settings
    free = free_settings(job.engine, on_cpu=report.machine.device == "cpu")
    if not free and not fp8_kv:
        raise JobError(job.name, ["engine: the job's file says all that could be tuned"])
    return {name: effective[name] for name in free} | ({KV_DTYPE: "auto"} if fp8_kv else {})


def _axes(present: Settings, *, memory_gib: float) -> Axes:
    """The values that each setting may take."""
    axes: dict[str, list[int | float | str]] = {}
    for name, value in present.items():
        if isinstance(value, str):
            axes[name] = [value, FP8]
        elif name == "gpu_memory_utilization":
            axes[name] = [value, *(share for share in GPU_SHARES if share > value)]
        elif name == "kv_cache_gib":
            axes[name] = list(_doublings(value, value, max(value, KV_MEMORY_SHARE * memory_gib)))
        else:
            limits = NUM_SEQS if name == "max_num_seqs" else BATCHED_TOKENS
            axes[name] = [int(step) for step in _doublings(value, *limits)]
    return axes


def _wanted_documents(report: Report, sample: Sample) -> int | None:
    """How many documents make a trial long enough; None where the sample may stay."""
    speed = report.documents / report.seconds.fed
    batch = report.engine_settings.settings["max_num_seqs"] * report.documents / max(1, report.requests)
    wanted = min(
        max(speed * TRIAL_SECONDS, BATCHES * batch),
        speed * LONGEST_TRIAL_SECONDS,
        sample.num_documents_total,
    )
    return int(wanted) if wanted >= LARGER * sample.num_documents else None


def _trial(settings: Settings, report: Report, started: float) -> Trial:
    tokens = report.computed_tokens.prompt + report.computed_tokens.output
    return Trial(
        settings,
        time.monotonic() - started,
        speed=report.documents / report.seconds.fed,
        tokens_per_second=tokens / report.seconds.fed,
        load_seconds=report.seconds.model_load,
        full_share=report.rates.engine_full_share,
        most_running=max((point.num_running for point in report.timeline), default=0),
        kv_cache_peak=max((point.kv_cache_used for point in report.timeline), default=0.0),
    )


def _tuned_engine(job: Job, report: Report, result: TuningResult) -> TunedEngine:
    settings, tuned = result.tuned.best.settings, result.tuned
    return TunedEngine(
        place=place_of(
            _job_of(job, settings).engine,
            model_fingerprint=report.model_fingerprint,
            hardware=result.hardware,
        ),
        settings=_numbers(settings),
        speedup=tuned.speedup or 1.0,
        measured_at=now(),
        documents=result.num_documents,
    )


def _numbers(settings: Settings) -> dict[str, int | float]:
    """Those that change no answer."""
    return {name: value for name, value in settings.items() if not isinstance(value, str)}


def _job_of(job: Job, settings: Settings) -> Job:
    """The job as its file would have to be for these settings: an FP8 KV cache has to stand in it."""
    if settings.get(KV_DTYPE) != FP8:
        return job
    extra = {**job.engine.extra, KV_DTYPE: FP8}
    return job.model_copy(update={"engine": job.engine.model_copy(update={"extra": extra})})


def _with_settings(config: EngineConfig, settings: Settings) -> EngineConfig:
    extra = {**config.extra, **({KV_DTYPE: FP8} if settings.get(KV_DTYPE) == FP8 else {})}
    return config.model_copy(update={**_numbers(settings), "extra": extra})


def _doublings(value: float, least: float, most: float) -> list[float]:
    """The value with its halves and doubles within the limits, in order."""
    found = [value]
    while found[0] / 2 >= least:
        found.insert(0, found[0] / 2)
    while found[-1] * 2 <= most:
        found.append(found[-1] * 2)
    return found
