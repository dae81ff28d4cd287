"""What a worker says of itself: in every beat, to whoever shows its progress, and at its end for the report."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from docmill.data.ledger import Beat
from docmill.engine.steps import NO_STEPS
from docmill.engine.types import Engine
from docmill.ops.claims import Claims
from docmill.ops.dialogues import Dialogues
from docmill.ops.progress import OnProgress, Progress
from docmill.ops.segment_writer import SegmentWriter
from docmill.ops.slowest import SlowestDocuments
from docmill.ops.stages import Stages
from docmill.ops.timeline import Timeline
from docmill.ops.unit_answers import Place, UnitAnswers

PROGRESS_SECONDS = 0.5


class WorkerFigures:
    """Of one worker, which fills in its parts as it makes them: the first beat comes before any answer."""

    def __init__(self, stages: Stages, on_progress: OnProgress, *, num_documents: int):
        self.dialogues: Dialogues[Place] | None = None
        self.answers: UnitAnswers | None = None
        self.writer: SegmentWriter | None = None
        self.timeline: Timeline | None = None
        self.claims: Claims | None = None
        self.slowest = SlowestDocuments()
        self.started = self._shown = time.monotonic()
        self._stages, self._on_progress, self._num_documents = stages, on_progress, num_documents
        self._engine: Engine | None = None
        self._busy_before, self._tokens_before, self._steps_before = 0.0, 0, NO_STEPS
        self._kernel_calls_before: Mapping[str, int] = {}

    @property
    def seconds(self) -> float:
        """Since the worker began."""
        return time.monotonic() - self.started

    def loaded(self, engine: Engine) -> None:
        """What counts begins now; an engine that is used again has done something before."""
        self._engine = engine
        self._busy_before, self._tokens_before = engine.busy_seconds, engine.num_tokens
        self._steps_before, self._kernel_calls_before = engine.load.steps, engine.load.kernel_calls

    def beat(self, beat: Beat) -> Beat:
        """The beat with what the worker has done."""
        usage = self.dialogues.usage if self.dialogues is not None else None
        return replace(
            beat,
            num_rows_done=self.answers.num_rows_done if self.answers is not None else 0,
            num_prompt_tokens=usage.num_prompt_tokens if usage else 0,
            num_output_tokens=usage.num_output_tokens if usage else 0,
            seconds=self.seconds,
            figures=self.now(),
        )

    def now(self) -> dict[str, Any]:
        """For the report: what ran, for how long, what happened to it."""
        engine, dialogues = self._engine, self.dialogues
        if engine is None or dialogues is None:
            return {}
        seconds = dict(self._stages.seconds) | {"engine": engine.busy_seconds - self._busy_before}
        if self.timeline is not None:
            seconds["fed"] = self.timeline.seconds
        if self.writer is not None:
            seconds["write"] = self.writer.seconds
        usage = dialogues.usage
        return {
            "engine": asdict(engine.info),
            "seconds": seconds,
            "engine_tokens": engine.num_tokens - self._tokens_before,  # those lost with an engine included
            "step_products": engine.load.steps.plus(self._steps_before, times=-1).products,
            "kernel_calls": {
                op: calls - self._kernel_calls_before.get(op, 0)
                for op, calls in engine.load.kernel_calls.items()
            },
            "requests": dialogues.num_answered,
            "answers": self.answers.num_answers if self.answers is not None else 0,
            "failed": self.answers.num_failed if self.answers is not None else 0,
            "tokens": {
                "prompt": usage.num_prompt_tokens,
                "cached": usage.num_cached_tokens,
                "output": usage.num_output_tokens,
            },
            "lengths": dialogues.lengths.learned(),
            "idle": dict(self.timeline.idle) if self.timeline is not None else {},
            "incidents": [
                asdict(incident) | {"at": incident.at.isoformat()} for incident in engine.incidents
            ],
        }

    def at_the_end(self) -> dict[str, Any]:
        """The same with what is too long for every beat."""
        return self.now() | {
            "timeline": self.timeline.points() if self.timeline is not None else [],
            "slowest": self.slowest.figures(),
        }

    def show(self, stage: str, *, now: bool = False) -> None:
        """Progress, unless it was just shown."""
        if not now and time.monotonic() - self._shown < PROGRESS_SECONDS:
            return
        self._shown = time.monotonic()
        usage = self.dialogues.usage if self.dialogues is not None else None
        num_done = self.answers.num_rows_done if self.answers is not None else 0
        num_done += self.claims.num_rows_elsewhere if self.claims is not None else 0
        self._on_progress(
            Progress(
                stage=stage,
                num_documents_done=num_done,
                num_documents_total=self._num_documents if self.answers is not None else None,
                num_output_tokens=usage.num_output_tokens if usage else 0,
                num_prompt_tokens=usage.num_prompt_tokens if usage else 0,
                seconds=max(0.0, self.seconds - self._stages.seconds["model_load"]),
            )
        )
