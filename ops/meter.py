"""Tells how far a run is, while it runs."""

from __future__ import annotations

import time

from docmill.data.records import Shard
from docmill.ops.answer_files import AnswerFiles, Place
from docmill.ops.dialogues import Dialogues
from docmill.ops.progress import OnProgress, Progress

PROGRESS_SECONDS = 0.5


class Meter:
    """Shows progress, at most twice a second."""

    def __init__(
        self, on_progress: OnProgress, files: AnswerFiles, dialogues: Dialogues[Place], shards: list[Shard]
    ):
        self._on_progress, self._files, self._dialogues = on_progress, files, dialogues
        self._num_bytes = {shard.name: shard.num_bytes for shard in shards}
        self._started = self._shown = time.monotonic()

    def show(self, stage: str = "running", *, now: bool = False) -> None:
        """Tell how far the run is."""
        if not now and time.monotonic() - self._shown < PROGRESS_SECONDS:
            return
        self._shown = time.monotonic()
        files, usage = self._files, self._dialogues.usage
        total = files.num_rows_opened
        # Rows of shards not opened yet are guessed from their bytes.
        bytes_opened = sum(self._num_bytes[name] for name in files.shards_opened)
        if bytes_opened:
            total = round(total * sum(self._num_bytes.values()) / bytes_opened)
        self._on_progress(
            Progress(
                stage=stage,
                num_documents_done=files.num_rows_done,
                num_documents_total=total or None,
                num_output_tokens=usage.num_output_tokens,
                num_prompt_tokens=usage.num_prompt_tokens,
                seconds=self._shown - self._started,
            )
        )
