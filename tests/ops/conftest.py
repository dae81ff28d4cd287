"""What the tests of ops/ share: the demo model's tokenizer, engines that answer without a model, and a job's folder."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from docmill.data import storage
from docmill.data.layout import Layout
from docmill.data.manifest import Manifest, read_manifest
from docmill.data.records import Usage
from docmill.engine.config import ModelConfig
from docmill.engine.tokenizer import ModelTokenizer
from docmill.engine.types import Completion, EngineInfo, Load, Request, RequestError
from docmill.ops.job import Job
from docmill.ops.partition_job import run_partition
from docmill.ops.prompts import Prompts
from docmill.ops.report import Report

DAY = "2026-11-20"
LABELS = ["delivery", "billing", "account access"]
PROMPT = re.compile(r"<(document[-\d]*)>\n(.*)\n</\1>\n\n(.*)", re.DOTALL)


@pytest.fixture(scope="session")
def tokenizer() -> ModelTokenizer:
    """The demo model's; seconds to load, so once for all."""
    return ModelTokenizer(ModelConfig())


@pytest.fixture(scope="session")
def prompts(tokenizer: ModelTokenizer) -> Prompts:
    return Prompts(tokenizer)


@dataclass
class Asked:
    """What stood in one prompt."""

    text: str
    instruction: str


class ScriptedEngine:
    """Answers with what `answer` makes of the document and the instruction, in the order that the test wants.

    `answer` gives the answer's text, a number for each label, or an error; by default the text itself. It stands
    where a model would be; the rest is the whole contract of `Engine`.
    """

    def __init__(
        self,
        tokenizer: ModelTokenizer,
        answer: Callable[[Asked], str | tuple[float, ...] | RequestError] | None = None,
        *,
        order: Literal["oldest first", "newest first"] = "newest first",
        max_model_len: int = 2048,
        max_num_seqs: int = 64,
    ):
        self.info = EngineInfo(
            name="scripted", model="scripted", model_fingerprint="scripted", device="cpu", max_model_len=max_model_len,
            max_num_seqs=max_num_seqs, load_seconds=0.0,
        )  # fmt: skip
        self.busy_seconds, self.num_tokens, self.num_steps = 0.0, 0, 0
        self.load = Load()
        self.incidents: tuple[()] = ()
        self.requests: list[Request] = []
        self.most_in_flight = 0
        self.closed = False
        self._tokenizer, self._answer, self._order = tokenizer, answer, order
        self._waiting: deque[Request] = deque()

    @property
    def num_in_flight(self) -> int:
        return len(self._waiting)

    @property
    def asked(self) -> list[Asked]:
        """What the prompts said, in the order of submission."""
        return [self.read(request) for request in self.requests]

    def submit(self, request: Request) -> None:
        self.requests.append(request)
        self._waiting.append(request)
        self.most_in_flight = max(self.most_in_flight, len(self._waiting))

    def completions(self, timeout_seconds: float) -> list[Completion]:
        """One at a time."""
        if not self._waiting:
            return []
        return [
            self._complete(self._waiting.pop() if self._order == "newest first" else self._waiting.popleft())
        ]

    def close(self) -> None:
        self.closed = True

    def read(self, request: Request) -> Asked:
        found = PROMPT.search(self._tokenizer.decode(request.prompt_token_ids))
        assert found, f"the prompt has no document: {self._tokenizer.decode(request.prompt_token_ids)!r}"
        return Asked(found[2], found[3].split("\nassistant")[0].strip())

    def _complete(self, request: Request) -> Completion:
        num_prompt_tokens = len(request.prompt_token_ids)
        room = self.info.max_model_len - num_prompt_tokens
        if room <= 0:
            message = f"{num_prompt_tokens} tokens in a context of {self.info.max_model_len}"
            return Completion(request.id, error=RequestError("prompt_too_long", message))
        asked = self.read(request)
        answer = self._answer(asked) if self._answer else None
        if isinstance(answer, RequestError):
            return Completion(request.id, error=answer)
        if request.labels is not None:
            logprobs = (
                answer if isinstance(answer, tuple) else tuple(-1.0 - i for i in range(len(request.labels)))
            )
            return Completion(request.id, (), "stop", Usage(num_prompt_tokens, 0, 1), logprobs)
        text = asked.text if answer is None else answer
        assert isinstance(text, str)
        token_ids = tuple(self._tokenizer.encode_data([text])[0])
        kept = token_ids[: min(request.sampling.max_tokens, room)]
        reason = "stop" if kept == token_ids else "length"
        return Completion(request.id, kept, reason, Usage(num_prompt_tokens, 0, len(kept)))


@pytest.fixture
def scripted(tokenizer: ModelTokenizer) -> Callable[..., ScriptedEngine]:
    """`scripted(answer, order=...)` makes an engine; see `ScriptedEngine`."""

    def make(*args: Any, **kwargs: Any) -> ScriptedEngine:
        return ScriptedEngine(tokenizer, *args, **kwargs)

    return make


@dataclass
class JobFolder:
    """A source and an output of a test's own, and the job between them. Rows are written column by column."""

    uri: str
    tokenizer: ModelTokenizer
    settings: dict[str, Any] = field(default_factory=dict)

    def write(
        self, name: str, texts: Sequence[str | None] | pa.Array, ids: Sequence[Any] | None = None, *,
        day: str = DAY, **columns: Any,
    ) -> None:  # fmt: skip
        """Write one shard; the ids are its name with a number unless given."""
        ids = [f"{name}-{number}" for number in range(len(texts))] if ids is None else ids
        text = texts if isinstance(texts, pa.Array) else pa.array(texts, pa.string())
        self.write_table(name, pa.table({"doc_id": ids, "text": text, **columns}), day=day)

    def write_table(self, name: str, table: pa.Table, *, day: str = DAY, **options: Any) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, **options)
        self.put(name, sink.getvalue().to_pybytes(), day=day)

    def put(self, name: str, content: bytes, *, day: str = DAY) -> None:
        storage.put_bytes(f"{self.uri}/documents/dt={day}/{name}.parquet", content)

    def read(self, name: str, *, day: str = DAY) -> bytes:
        return storage.read_bytes(f"{self.uri}/documents/dt={day}/{name}.parquet")

    def remove(self, name: str, *, day: str = DAY) -> None:
        storage.delete(f"{self.uri}/documents/dt={day}/{name}.parquet")

    def job(self, **changes: Any) -> Job:
        """Three tasks over `documents/dt=...`, with the fake engine."""
        return Job.model_validate({
            "name": "test",
            "source": {"uri": f"{self.uri}/documents"},
            "output": {"uri": f"{self.uri}/answers"},
            "engine": {"kind": "fake"},
            "reuse": {"runs": 0},  # each run of a test asks for itself; test_reuse.py is about the rest
            "tasks": {
                "translations": {"kind": "translate"},
                "classifications": {"kind": "classify", "labels": LABELS},
                "summaries": {"kind": "summarize"},
            },
            **self.settings,
            **changes,
        })  # fmt: skip

    def run(
        self,
        *,
        day: str = DAY,
        tasks: list[str] | None = None,
        engine: Any = None,
        on_progress: Any = None,
        **changes: Any,
    ) -> Report:
        """Run the job, and check what holds of every run: the counts balance and the files say the same."""
        job = self.job(**changes)
        partition = job.partition(day)
        more = {"on_progress": on_progress} if on_progress else {}
        report = run_partition(job, partition, tasks=tasks, engine=engine, tokenizer=self.tokenizer, **more)
        for name, task in report.tasks.items():
            assert task.counts.balanced, f"{name}: {task.counts}"
            assert task.counts.rows == report.documents
            assert sum(task.errors.values()) == task.counts.failed + task.counts.skipped
        manifest = self.manifest(day=day)
        assert manifest is not None
        for name in report.tasks:
            listed = {file.name: file.rows for file in manifest.tasks[name].files}
            there = {shard.name: pq.read_metadata(shard.uri).num_rows for shard in self.files(name, day=day)}
            assert listed == there, f"{name}: the manifest and the folder differ"
        return report

    def files(self, task: str, *, day: str = DAY) -> list[Any]:
        layout = Layout(f"{self.uri}/answers", self.job().partition(day))
        return storage.list_shards(layout.answers_folder(task))

    def table(self, task: str, name: str, *, day: str = DAY) -> pa.Table:
        layout = Layout(f"{self.uri}/answers", self.job().partition(day))
        return pq.read_table(layout.answers(task, f"{name}.parquet"), partitioning=None)

    def rows(self, task: str, name: str, *, day: str = DAY) -> list[dict[str, Any]]:
        return self.table(task, name, day=day).to_pylist()

    def answers(self, task: str, name: str, *, day: str = DAY) -> list[dict[str, Any]]:
        """Rows without what differs from run to run."""
        return [
            {key: value for key, value in row.items() if key != "produced_at"}
            for row in self.rows(task, name, day=day)
        ]

    def manifest(self, *, day: str = DAY) -> Manifest | None:
        return read_manifest(Layout(f"{self.uri}/answers", self.job().partition(day)).manifest)


@pytest.fixture
def folder(tmp_path: Path, tokenizer: ModelTokenizer) -> JobFolder:
    return JobFolder(str(tmp_path), tokenizer)
