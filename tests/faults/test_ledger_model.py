"""Arbitrary interleavings of workers, crashes, leases, thefts and whole runs; whatever happens, each row comes once.

Hypothesis plays several workers at once, step by step and without threads: each is made of the real claims, segments,
answers and dialogues with the fake engine, and reads the real shards. Whole runs (`run_partition`) come between, of
other settings or fewer tasks too, and workers that were thought dead go on afterwards. Time is the store's: a store in
memory whose clock stands still until a rule moves it.

`DOCMILL_MODEL_EXAMPLES=500` plays longer, with other examples each time.
"""

from __future__ import annotations

import json
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, ClassVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from docmill.data import storage
from docmill.data.layout import Layout
from docmill.data.ledger import Done, Ledger
from docmill.data.manifest import finish_stamp, is_committed, read_manifest
from docmill.data.plan import Plan
from docmill.data.records import Partition, Shard
from docmill.engine.fake_engine import FakeEngine
from docmill.engine.tokenizer import ModelTokenizer
from docmill.ops import claims as claims_module
from docmill.ops import feed
from docmill.ops.claims import Claims, Held
from docmill.ops.dialogues import Dialogues, Known
from docmill.ops.feed import BatchReady, Event, UnitEnded, UnitFailed, UnitOpened, read_units
from docmill.ops.job import Job
from docmill.ops.partition_job import run_partition
from docmill.ops.planning import make_plan, scan_shards, settings_fingerprint
from docmill.ops.prompts import Prompts
from docmill.ops.segment_writer import Recorded, SegmentWriter, UnitBook
from docmill.ops.stages import Stages
from docmill.ops.unit_answers import Place, UnitAnswers
from docmill.ops.worker import max_chunk_tokens

EXAMPLES = int(os.environ.get("DOCMILL_MODEL_EXAMPLES", "0"))
LEASE_SECONDS = 30.0
MAX_WORKERS = 4
PARTITION = Partition("dt", "2026-11-20")
TASKS = ["classifications", "summaries"]
# What a run may be of: all tasks, the same with another prompt, or one of them.
RUNS = {"all": (TASKS, "One."), "changed prompt": (TASKS, "Two."), "one task": (["summaries"], "One.")}


class ClockedStore(MemoryFileSystem):
    """fsspec's store in memory, whose files are as old as the model's clock says."""

    protocol = ("clocked", "memory")
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    now: ClassVar[float] = 1_000_000.0

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.replace("clocked://", "memory://")))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        super().pipe_file(path, value, mode=mode, **kwargs)
        ClockedStore.now += 0.001  # so that each write is told from the one before
        self.store[self._strip_protocol(path)].created = datetime.fromtimestamp(ClockedStore.now, UTC)


fsspec.register_implementation("clocked", ClockedStore, clobber=True)


class Crash(Exception):
    """The worker dies between two writes."""


class NothingToTake(Exception):
    """No unit is free: the feed ends here, and begins anew at the next step."""


class BrittleLedger(Ledger):
    """Dies instead of the next mark or split, if told so."""

    dies = False

    def finish(self, done: Done) -> bool:
        if self.dies:
            raise Crash
        return super().finish(done)

    def split(self, unit_id: str, at_row: int) -> bool:
        if self.dies:
            raise Crash
        return super().split(unit_id, at_row)


class SteppedClaims(Claims):
    """Never waits; checks that what is done is not begun again."""

    def take(self) -> Held | None:
        done = self.ledger.view().done
        held = super().take()
        if held is None:
            raise NothingToTake
        assert held.unit.id not in done, "a unit that is done was begun again"
        return held


class CheckedBook(UnitBook):
    """Checks that nothing is asked that was durable when the unit was begun."""

    durable: frozenset[str] = frozenset()

    def find(self, request_key: str) -> Known | None:
        found = super().find(request_key)
        assert found is not None or request_key not in self.durable, "a durable answer was asked for again"
        return found


class SteppedWriter(SegmentWriter):
    """Writes when it is told to, one thing after the other. Keeps in `durable` what lies in which unit's segments."""

    def __init__(self, layout: Layout, worker: str, durable: dict[str, set[str]]):
        super().__init__(layout, worker, seconds=0.0, num_answers=1)
        self._durable = durable
        self._work: list[tuple[Callable[[], None], str, set[str]]] = []
        self._keys: defaultdict[str, set[str]] = defaultdict(set)
        self._of: tuple[str, set[str]] = ("", set())

    def open_book(self, unit_id: str, ancestors: tuple[str, ...] = (), reused: str | None = None) -> UnitBook:
        book = super().open_book(unit_id, ancestors, reused)
        book.__class__ = CheckedBook
        assert isinstance(book, CheckedBook)
        book.durable = frozenset().union(*(self._durable[name] for name in (unit_id, *ancestors)))
        return book

    def add(self, unit_id: str, recorded: Recorded) -> None:
        super().add(unit_id, recorded)
        request_key, _, _ = recorded
        self._keys[unit_id].add(request_key)

    def forget(self, unit_id: str) -> None:
        super().forget(unit_id)
        self._keys.pop(unit_id, None)

    def submit(self, work: Callable[[], None]) -> None:
        self._work.append((work, "", set()))

    def queue_segments(self) -> None:
        """As `write_if_due` does, and remembers what is in them."""
        before = len(self._work)
        self.write_if_due()
        keys, self._keys = self._keys, defaultdict(set)
        segments = [(unit_id, some) for unit_id, some in keys.items() if some]
        assert len(self._work) - before == len(segments)
        for number, (unit_id, some) in enumerate(segments, before):
            self._work[number] = (self._work[number][0], unit_id, some)

    def write_next(self) -> bool:
        """One thing; False where nothing waits."""
        if not self._work:
            return False
        work, unit_id, keys = self._work.pop(0)
        work()
        if unit_id:
            self._durable[unit_id] |= keys
        return True

    def close(self) -> None:
        self._thread.shutdown()


class Worker:
    """What `ops.worker` does in its loop, a piece at a time."""

    def __init__(self, model: LedgerModel, name: str, run: str):
        self.name, self.run = name, run
        job, plan = model.job(run), model.plan(run)
        tasks = {task: job.tasks[task] for task in plan.tasks}
        layout = Layout(job.output.uri, PARTITION)
        before = finish_stamp(read_manifest(layout.manifest), tasks, plan.id)
        self.ledger = BrittleLedger(layout, plan)
        self.ledger.begin(before)
        self.claims = SteppedClaims(
            self.ledger,
            name,
            lease_seconds=LEASE_SECONDS,
            committed=lambda: is_committed(layout.manifest, plan.id, plan.tasks, before),
        )
        self.writer = SteppedWriter(layout, name, model.durable)
        self.engine = FakeEngine(seed=len(name))
        self.answers = UnitAnswers(self.ledger, self.claims, self.writer, tasks, job=job.name, model="fake")
        prompts = Prompts(model.tokenizer, job.system_prompt)
        self.dialogues: Dialogues[Place] = Dialogues(
            self.engine, prompts, tasks, max_in_flight=2, settings=job.engine_settings
        )
        self.max_chunk_tokens = max_chunk_tokens(job, prompts, self.engine.info.max_model_len)
        self.job, self.tokenizer = job, model.tokenizer
        self.events: Iterator[Event] | None = None
        self.claims.beat()

    def read(self) -> None:
        """The next event of the feed."""
        if self.events is None:
            shards = [Shard(s.name, s.uri, s.num_bytes, s.version) for s in self.ledger.plan.shards]
            self.events = read_units(
                self.job,
                self.claims,
                {shard.name: shard for shard in shards},
                tokenizer=self.tokenizer,
                max_chunk_tokens=self.max_chunk_tokens,
                stages=Stages(),
                stop=threading.Event(),
            )
        try:
            event = next(self.events)
        except NothingToTake:
            self.events = None
            return
        match event:
            case UnitOpened():
                self.answers.open_unit(event)
            case BatchReady():
                places = self.answers.open_batch(event)
                for position in event.order:
                    row = event.rows[position]
                    assert isinstance(row, list)
                    if position < len(places):
                        place, book = places[position]
                        self.dialogues.start(place, row, book=book)
            case UnitEnded():
                self.answers.end_unit(event.held)
            case UnitFailed():
                self.answers.fail_unit(event)

    def ask(self) -> None:
        """A round with the engine."""
        self.dialogues.pump()
        for finished in self.dialogues.collect(0.0):
            self.answers.add(finished.key, finished.task_name, finished.answer, finished.failed)

    def beat(self) -> None:
        self.claims.beat()
        self.answers.drop_lost()

    def end(self) -> None:
        """As when it is asked to stop."""
        self.writer.queue_segments()
        while self.writer.write_next():
            pass
        self.claims.beat(ended=True)
        self.close()

    def close(self) -> None:
        if self.events is not None:
            self.events.close()  # type: ignore[attr-defined]
        self.writer.close()


_TOKENIZER: list[ModelTokenizer] = []
_RIGHT: dict[Any, dict[str, list[dict[str, Any]]]] = {}  # answers of undisturbed runs


class LedgerModel(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        ClockedStore.store.clear()
        ClockedStore.pseudo_dirs[:] = [""]
        self.tokenizer = _TOKENIZER[0]
        self.source: dict[str, int] = {}  # shard -> how often it was written
        self.workers: list[Worker] = []
        self.num_workers = 0
        self.durable: dict[str, set[str]] = defaultdict(set)
        self.finished: dict[
            str, tuple[str, dict[str, int]]
        ] = {}  # task -> the run that finished it, and of what
        self.plans: dict[Any, Plan] = {}
        for name in ("a", "b"):
            self._write_shard(name)

    # What workers do.

    @rule(run=st.sampled_from(["all", "all", "all", "all", *RUNS]), number=st.integers(1, 3))
    def start_workers(self, run: str, number: int) -> None:
        """Each takes a unit, or a part of one, and says so."""
        for _ in range(min(number, MAX_WORKERS - len(self.workers))):
            self.num_workers += 1
            worker = Worker(self, f"worker-{self.num_workers}", run)
            self.workers.append(worker)
            worker.read()
            worker.read()
            worker.beat()

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), times=st.integers(1, 6))
    def work(self, data: st.DataObject, times: int) -> None:
        worker = self._one(data)
        for _ in range(times):
            worker.read()
            worker.ask()

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def work_to_the_end_of_what_is_begun(self, data: st.DataObject) -> None:
        worker = self._one(data)
        worker.read()
        while worker.dialogues.num_open:
            worker.ask()
        worker.read()

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), times=st.integers(1, 4))
    def write(self, data: st.DataObject, times: int) -> None:
        worker = self._one(data)
        worker.writer.queue_segments()
        for _ in range(times):
            worker.writer.write_next()

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def beat(self, data: st.DataObject) -> None:
        self._one(data).beat()

    @rule()
    def all_beat(self) -> None:
        for worker in self.workers:
            worker.beat()

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def work_while_the_others_pause(self, data: st.DataObject) -> None:
        """Takes over what the others had, as soon as their lease is over."""
        ClockedStore.now += LEASE_SECONDS * 1.1
        worker = self._one(data)
        worker.beat()
        for _ in range(12):
            worker.read()
            worker.ask()

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def stop(self, data: st.DataObject) -> None:
        worker = self._one(data)
        self.workers.remove(worker)
        worker.end()

    # What befalls them.

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        self._bury(self._one(data))

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def crash_between_two_writes(self, data: st.DataObject) -> None:
        worker = self._one(data)
        worker.ledger.dies = True
        try:
            for _ in range(4):
                worker.read()
                worker.ask()
            while worker.writer.write_next():
                pass
        except Crash:
            pass
        self._bury(worker)

    @rule(seconds=st.sampled_from([LEASE_SECONDS / 6, LEASE_SECONDS / 2, LEASE_SECONDS * 1.1]))
    def time_passes(self, seconds: float) -> None:
        """Those that do not beat are thought dead after a while; they may go on all the same."""
        ClockedStore.now += seconds

    @rule(name=st.sampled_from(["a", "b", "c"]))
    def a_shard_is_written(self, name: str) -> None:
        if self.source.get(name, 0) < 2:
            self._write_shard(name)

    # Whole runs.

    @rule(run=st.sampled_from([None] * 9 + ["all", "all", *RUNS]))
    def somebody_finishes(self, run: str | None) -> None:
        if run is not None:
            self.finish(run)

    def finish(self, run: str) -> None:
        ClockedStore.now += 2 * LEASE_SECONDS
        job = self.job(run)
        tasks = RUNS[run][0]
        report = run_partition(job, PARTITION, tasks=tasks, engine=FakeEngine(), tokenizer=self.tokenizer)
        self.finished |= dict.fromkeys(tasks, (run, dict(self.source)))
        for name, task in report.tasks.items():
            assert task.counts.balanced, name
            assert task.counts.rows == task.counts.ok == report.documents
        layout = Layout(job.output.uri, PARTITION)
        own = layout.ledger(self.plan(run).fingerprint)
        assert storage.list_files(own) == [], "the ledger of a finished run is gone"
        self._check_answers()
        there = {file.name.split("/")[0] for file in storage.list_files(layout.segments_folder)}
        for unit_id in self.durable.keys() - there:
            del self.durable[unit_id]

    def teardown(self) -> None:
        if not hasattr(self, "workers"):
            return
        for worker in self.workers:  # those that were thought dead do a last thing
            worker.read()
            worker.ask()
            while worker.writer.write_next():
                pass
        self._check_answers()
        for worker in self.workers:
            worker.close()
        self.finish("all")
        layout = Layout(self.job("all").output.uri, PARTITION)
        others = {file.name.split("/")[0] for file in storage.list_files(layout.ledgers_folder)}
        assert others <= {self.plan(run).fingerprint for run in RUNS if run != "all"}

    # What always holds.

    @invariant()
    def marks_have_parts(self) -> None:
        if not hasattr(self, "source"):
            return
        layout = Layout(self.job("all").output.uri, PARTITION)
        for file in storage.list_files(layout.ledgers_folder):
            if "/done/" in file.name:
                done = Done(**json.loads(storage.read_bytes(file.uri)))
                for uri in done.parts.values():
                    assert storage.exists(uri), f"{file.name} is done and {uri} is not there"

    def _check_answers(self) -> None:
        """Each output as an undisturbed run of what finished it last would have left it."""
        for task, (run, source) in self.finished.items():
            assert _answers("clocked://output", task) == self._right(run, source)[task], f"{task} of {run}"

    def _right(self, run: str, source: dict[str, int]) -> dict[str, list[dict[str, Any]]]:
        key = (run, tuple(sorted(source.items())))
        if key not in _RIGHT:
            for name, version in source.items():
                _put_shard("clocked://right/documents", name, version)
            job = _job(run, "clocked://right")
            run_partition(job, PARTITION, tasks=RUNS[run][0], engine=FakeEngine(), tokenizer=self.tokenizer)
            _RIGHT[key] = {task: _answers("clocked://right/output", task) for task in RUNS[run][0]}
            storage.delete_folder("clocked://right")
        return _RIGHT[key]

    def job(self, run: str) -> Job:
        return _job(run, "clocked:/")

    def plan(self, run: str) -> Plan:
        """As a run makes it now; made once for each state of the source."""
        key = (run, tuple(sorted(self.source.items())))
        if key not in self.plans:
            job = self.job(run)
            tasks = {name: job.tasks[name] for name in RUNS[run][0]}
            fingerprint = settings_fingerprint(job, tasks, "fake")
            shards = storage.list_shards(f"{job.source.uri}/{PARTITION.folder}")
            self.plans[key] = make_plan(
                job, PARTITION, shards, scan_shards(job, shards), tasks, fingerprint=fingerprint
            )
        return self.plans[key]

    def _one(self, data: st.DataObject) -> Worker:
        return self.workers[data.draw(st.integers(0, len(self.workers) - 1), label="worker")]

    def _bury(self, worker: Worker) -> None:
        self.workers.remove(worker)
        worker.close()

    def _write_shard(self, name: str) -> None:
        self.source[name] = self.source.get(name, 0) + 1
        _put_shard("clocked://documents", name, self.source[name])


def _job(run: str, root: str) -> Job:
    return Job.model_validate({
        "name": "model",
        "source": {"uri": f"{root}/documents"},
        "output": {"uri": f"{root}/output"},
        "engine": {"kind": "fake"},
        "system_prompt": RUNS[run][1],
        "tasks": {
            "classifications": {"kind": "classify", "labels": ["billing", "delivery"]},
            "summaries": {"kind": "summarize"},
        },
        "ledger": {"unit_seconds": 0.3, "segment_seconds": 0.05, "lease_seconds": LEASE_SECONDS},
    })  # fmt: skip


def _put_shard(folder: str, name: str, version: int) -> None:
    """Fourteen rows; a later version has one more, and the first half is as it was."""
    texts = [f"Row {row} of {name}, version {1 if row < 7 else version}." for row in range(13 + version)]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"doc_id": [f"{name}-{row}" for row in range(len(texts))], "text": texts}), sink)
    storage.put_bytes(f"{folder}/{PARTITION.folder}/{name}.parquet", sink.getvalue().to_pybytes())


def _answers(output: str, task: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for shard in storage.list_shards(Layout(output, PARTITION).answers_folder(task)):
        with storage.open_input(shard.uri) as stream:
            # The time, and what was spared because an earlier run had answered it.
            rows += pq.read_table(stream).drop_columns(["produced_at", "cached_tokens"]).to_pylist()
    return rows


def test_whatever_happens_each_row_is_answered_once(
    monkeypatch: pytest.MonkeyPatch, demo_tokenizer: ModelTokenizer
) -> None:
    _TOKENIZER[:] = [demo_tokenizer]
    monkeypatch.setattr(feed, "BATCH_ROWS", 2)
    monkeypatch.setattr(claims_module, "MIN_STOLEN_SECONDS", 0.0)
    run_state_machine_as_test(
        LedgerModel,
        settings=settings(
            max_examples=EXAMPLES or 20,
            stateful_step_count=60,
            derandomize=not EXAMPLES,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
