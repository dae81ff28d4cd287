"""From a job to a compressed model of it, published where the job's own tasks bear it.

    partition --halves--> documents to make it on, others to judge it on
              --source model--> answers of both; the first half's become the sequences to calibrate on
              --candidates, the smallest first--> checkpoints, each run over the held-out half
              --quality--> the first that loses no more than `max_drop` of any task
              --by turns with the source model--> speed, load time, memory
              --publish--> checkpoint, report, and last the manifest

Nothing counts before the manifest is written. What holds nowhere is not published: `NotWorthIt` says what was tried.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

from docmill.data import storage
from docmill.data.records import Partition
from docmill.engine.compressed_models import manifest_version, publish
from docmill.engine.compression.checkpoint import check_supported, free_memory, local_source, weight_bytes
from docmill.engine.compression.config import CompressConfig
from docmill.engine.compression.errors import UnfitError
from docmill.engine.errors import EngineError
from docmill.engine.model_files import source_fingerprint
from docmill.engine.pool.config import PoolConfig
from docmill.ops.compression.candidates import Candidate, Material, Tell, candidates
from docmill.ops.compression.corpus_tokens import corpus_tokens, find_kept
from docmill.ops.compression.halves import halves
from docmill.ops.compression.made import Compressed, config_of, find_made, judged_by
from docmill.ops.compression.quality import Answered, certainty_of
from docmill.ops.compression.report import CompressionReport, Side, Trial
from docmill.ops.compression.runs import Runs, with_source
from docmill.ops.errors import JobError, NotWorthIt
from docmill.ops.job import Job
from docmill.ops.progress import OnProgress, ignore_progress
from docmill.ops.report import now, this_machine

log = logging.getLogger(__name__)

PAIRS = 3  # of runs by turns, the first of them the ones that were judged


def ensure_compressed(
    job: Job,
    partition: Partition,
    *,
    tell: Tell = lambda what, share: None,  # noqa: ARG005
    on_progress: OnProgress = ignore_progress,
    stop: threading.Event | None = None,
) -> Compressed:
    """The job's compressed model, made of this partition's documents where it is not there yet."""
    found = find_made(job)
    if found is not None and found.model.judged == judged_by(job):
        return found
    tell(
        f"no compressed model for these tasks yet: making it first, with recipe {config_of(job).recipe}", 0.0
    )
    return compress_job(job, partition, tell=tell, on_progress=on_progress, stop=stop)


def compress_job(
    job: Job,
    partition: Partition,
    *,
    tell: Tell = lambda what, share: None,  # noqa: ARG005
    on_progress: OnProgress = ignore_progress,
    stop: threading.Event | None = None,
    make: Callable[[Material], Iterator[Candidate]] = candidates,
) -> Compressed:
    """Make, judge and publish it, also where there is one. The answers of all runs are thrown away.

    All of it happens on this machine, whatever the job's pool. Raises `NotWorthIt`, `JobError` (too few documents),
    `ModelError` (no way to compress this one), and what a run of the job raises.
    """
    config, started = config_of(job), time.monotonic()
    replaced = manifest_version(config, source_fingerprint(job.model))
    source = local_source(job.model)
    check_supported(source)
    storage.check_writable(str(config.out))
    if config.keep_texts is not None:
        find_kept(job, config.keep_texts)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="docmill-compress-")))
        found = stack.enter_context(halves(_plain(job), partition, config))
        runs = Runs(job, found, on_progress, stop)
        before = Side(num_bytes=weight_bytes(source))
        first, recorded = runs.record(found.calibration)
        right = runs.answers_of(job.model.uncompressed, before)
        material = Material(
            source=source,
            folder=folder,
            config=config,
            device="cpu" if first.machine.device == "cpu" else "cuda",
            sequences=recorded.sequences,
            corpus_tokens=lambda: corpus_tokens(job, partition, recorded.sequences, recorded.labels),
            tell=tell,
        )
        trials: list[Trial] = []
        try:
            chosen, after = _first_that_holds(runs, config, make(material), right, trials)
        except UnfitError as error:
            raise JobError(job.name, [f"model.compress: {error}"]) from error
        report = CompressionReport(
            job=job.name,
            partition=str(partition),
            recipe=config.recipe,
            max_drop=config.max_drop,
            source=job.model.source,
            source_fingerprint=source_fingerprint(job.model),
            made_at=now(),
            seconds=time.monotonic() - started,
            calibration_documents=found.calibration.num_documents,
            held_out_documents=found.held_out.num_documents,
            trials=trials,
            before=before,
            machine=this_machine(first.machine.device),
            versions=first.versions,
        )
        if chosen is None or after is None:
            raise NotWorthIt(job.name, report)
        for _ in range(PAIRS - 1):
            runs.answers_of(job.model.uncompressed, before)
            runs.answers_of(with_source(job.model, chosen.folder), after)
        report = report.model_copy(
            update={
                "published": len(trials) - 1,
                "layers": chosen.layers,
                "curve": chosen.curve,
                "after": after,
                "seconds": time.monotonic() - started,
            }
        )
        model = publish(
            config,
            chosen.folder,
            source=job.model.source,
            source_fingerprint=report.source_fingerprint,
            judged=judged_by(job),
            made_at=report.made_at,
            report=lambda _: report.model_dump_json(indent=1).encode(),
            replaced=replaced,
        )
    if model.made_at != report.made_at:  # somebody else was first
        return find_made(job) or Compressed(model, report, made=False)
    return Compressed(model, report, made=True)


def _first_that_holds(
    runs: Runs,
    config: CompressConfig,
    made: Iterator[Candidate],
    right: Mapping[str, dict[str, Answered]],
    trials: list[Trial],
) -> tuple[Candidate | None, Side | None]:
    """Judges candidate after candidate. Of recipes that say exactly what to make, only the first may be published."""
    is_auto = config.recipe == "auto"
    for candidate in made:
        after = Side(num_bytes=weight_bytes(candidate.folder))
        model = with_source(runs.job.model, candidate.folder)
        judged = with_source(runs.job.model, candidate.judged or candidate.folder)
        trial = Trial(
            setting=candidate.setting,
            num_bytes=after.num_bytes,
            bits_per_weight=candidate.bits_per_weight,
            figures=candidate.figures,
        )
        free_memory()  # of what made it: the engine's process wants the GPU
        try:
            answers = runs.answers_of(model, after)
            if candidate.judged is not None:
                answers = runs.answers_of(judged, Side(num_bytes=0))
        except EngineError as error:
            trial = trial.model_copy(update={"trouble": str(error)})
        else:
            certainty = certainty_of(len(trials), config.num_attempts)
            trial = trial.model_copy(update={"tasks": runs.qualities(right, answers, certainty)})
        trials.append(trial)
        log.info("job=%s compress: %s: drop of at most %.4f", runs.job.name, trial.setting, trial.most_drop)
        if trial.trouble is None and trial.most_drop <= config.max_drop:
            # What comes after the one that was asked for is made to be named, not to be used.
            return (candidate, after) if is_auto or len(trials) == 1 else (None, None)
        shutil.rmtree(candidate.folder, ignore_errors=True)  # a large model's are many GB
    return None, None


def _plain(job: Job) -> Job:
    """The same with the model that is to be compressed, on this machine."""
    return job.model_copy(update={"model": job.model.uncompressed, "pool": PoolConfig()})
