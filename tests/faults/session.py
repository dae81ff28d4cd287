"""One job that is disturbed again and again, then brought to its end and checked. What is disturbed is the layer's.

The moment of each kill is drawn in tokens, not in seconds: after the engine's first tokens, anywhere in what is left of
the job. So a seed means the same on a fast and on a slow machine, as far as a kill can mean the same twice.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from faults.checks import check_answers, check_objects
from faults.job_folder import DAY, DOCMILL, JobFolder, Undisturbed
from faults.kills import JobOutcome, Kill
from faults.processes import MARK, Run, describe, kill_all, marked, new_mark, send, wait_until_gone
from faults.watch import Seen, Watch, age

from docmill.data import storage

LOOK_SECONDS = 0.25
PROGRESS_TIMEOUT_SECONDS = (
    600.0  # from one kill to the next first tokens; a busy machine loads a model for minutes
)
END_TIMEOUT_SECONDS = 600.0
ORPHAN_SECONDS = 10.0  # that a dead process's children may outlive it
MOST_RUNS_MORE = 4  # that may fail after the last kill


class Session:
    """A job, its runs, and the watch over its ledger. Layers are its subclasses: they say what `hit` does."""

    layer = ""
    settings: dict[str, object] = {}  # noqa: RUF012 - of the job; never changed
    grace_seconds = ORPHAN_SECONDS  # for the last processes, when the job is done

    def __init__(
        self,
        make_job: Callable[..., JobFolder],
        right: Undisturbed,
        folder: Path,
        *,
        seed: int,
        store: str,
        env: dict[str, str] | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.outcome = JobOutcome(self.layer, seed, store, tokens=right.tokens)
        self.random = random.Random(f"{self.layer}-{seed}")
        self.folder, self.right, self.tell = folder, right, tell
        self.env = {**(env or {}), **new_mark()}
        self.mark = self.env[MARK]
        self.make_job = make_job
        self.job: JobFolder
        self.watch: Watch
        self.run: Run | None = None
        self.frozen: list[Run] = []  # drivers that were stopped
        self.measured: dict[str, Kill] = {}  # worker -> the kill that ended it, to be measured at the end
        self.spent: dict[str, int] = {}  # worker -> tokens lost with its engines
        self.base_tokens = 0  # of all engines, at the last kill

    # What a layer says.

    def start(self) -> None:
        """Before the first run."""

    def hit(self) -> Kill | None:
        """Kill or freeze something, and see to it that the job can go on. None where there was nothing to kill."""
        raise NotImplementedError

    def stop(self) -> None:
        """After everything, also after an error."""

    # The course of a job.

    def disturb(self, kills: int) -> JobOutcome:
        """The whole of it. Never raises: what goes wrong is a problem of the outcome."""
        started = time.monotonic()
        try:
            self.start()
            self.job = self.make_job(self.folder, **self.settings)
            self.watch = Watch(self.job.layout)
            self.start_run()
            for left in range(kills, 0, -1):
                if not self.wait_for_moment(left):
                    break
                kill = self.hit()
                if kill is not None:
                    self.outcome.kills.append(kill)
                    self.tell(f"{self.layer} seed {self.outcome.seed}: {kill.how} at {kill.at_share:.0%}")
                self.base_tokens = self.watch.engine_tokens
            self.finish()
            self.measure()
            check_answers(self.outcome, self.job, self.right)
            check_objects(self.outcome, self.job)
        except Exception as error:  # noqa: BLE001 - one job's trouble is not the series'
            tail = self.run.tail() if self.run else ""
            kill_all(self.mark)  # given up by us: they are not left behind by a job that ended
            self.outcome.problems.append(f"{type(error).__name__}: {error} {tail}"[:1500])
        finally:
            with suppress(Exception):
                self.stop()
            self.outcome.left_processes += wait_until_gone(self.mark, self.grace_seconds)
            kill_all(self.mark)
            self.outcome.seconds = time.monotonic() - started
        return self.outcome

    def command(self) -> list[str]:
        """Of one run."""
        return [DOCMILL, "run", str(self.job.file), "--partition", DAY]

    def start_run(self) -> None:
        """A run of its own; the one before has ended, or is frozen."""
        self.outcome.runs += 1
        log = self.folder / f"run-{self.outcome.runs}.log"
        self.run = Run(self.command(), log=log, env=self.env)

    @property
    def committed(self) -> bool:
        """Whether the job has ended."""
        return storage.exists(self.job.layout.manifest)

    def look(self) -> None:
        """Between any two steps."""
        time.sleep(LOOK_SECONDS)
        self.watch.look()

    def wait_for_moment(self, kills_left: int) -> bool:
        """Until it is time for the next kill. False where the job has ended before."""
        left = max(0, self.right.tokens - self.watch.safe_tokens)
        gap = max(1.0, self.random.uniform(0, 1.3 * left / (kills_left + 1)))
        wanted, end = self.base_tokens + gap, time.monotonic() + PROGRESS_TIMEOUT_SECONDS
        while self.watch.engine_tokens < wanted and not self.committed:
            self.wait_until(lambda: self.watch.engine_tokens >= wanted, end - time.monotonic())
            if self.run is not None and self.run.status not in (None, 0):
                self.tell(f"run ended with {self.run.status}, again: {self.run.tail()[-200:]}")
                self.start_run()
        time.sleep(self.random.uniform(0, 0.5))
        self.watch.look()
        return not self.committed and self.run is not None and self.run.status is None

    def wait_until(self, condition: Callable[[], bool], timeout_seconds: float) -> None:
        """Watching. Returns also when the run has ended; raises `TimeoutError`."""
        end = time.monotonic() + timeout_seconds
        while not condition():
            if self.run is not None and self.run.status is not None:
                return
            if time.monotonic() > end:
                raise TimeoutError(f"no progress in {timeout_seconds:.0f} s")
            self.look()

    def finish(self) -> None:
        """Run it until it is done, then end who is frozen."""
        for _ in range(MOST_RUNS_MORE):
            assert self.run is not None
            run, end = self.run, time.monotonic() + END_TIMEOUT_SECONDS
            while run.status is None:
                if time.monotonic() > end:
                    raise TimeoutError(f"the run did not end in {END_TIMEOUT_SECONDS:.0f} s")
                self.while_ending()
                self.look()
            if run.status == 0:
                break
            self.tell(
                f"{self.layer} seed {self.outcome.seed}: run ended with {run.status}, again: {run.tail()[-200:]}"
            )
            self.start_run()
        else:
            raise AssertionError(f"the job could not be finished in {MOST_RUNS_MORE} runs")
        for run in self.frozen:
            send(run.pid, signal.SIGKILL)
            run.kill()
        self.watch.look()

    def while_ending(self) -> None:
        """Called all the time while the last run goes on."""

    # Measuring.

    def kill_of(self, how: str, seen: Seen | None) -> Kill:
        """What is known of a kill at its moment; call it right before. `seen` is the worker that will suffer."""
        share = self.watch.safe_tokens / self.right.tokens
        if seen is None:
            return Kill(self.layer, how, share)
        lost_before = self.spent.get(seen.worker, 0)
        return Kill(
            self.layer,
            how,
            share,
            in_flight_tokens=max(0, seen.engine_tokens - seen.finished_tokens - lost_before),
            tokens_per_second=seen.tokens_per_second() or self.usual_tokens_per_second,
            beat_age=age(seen),
        )

    @property
    def usual_tokens_per_second(self) -> float:
        """Of the undisturbed run."""
        return self.right.tokens / max(self.right.report["seconds"]["engine"], 0.1)

    def worker_in(self, pid: int) -> Seen | None:
        """The worker of a process that computes now."""
        return next((seen for seen in self.watch.by_pid(pid) if not seen.beat["ended"]), None)

    def ended_by(self, kill: Kill, seen: Seen | None) -> Kill:
        """The worker is gone by this kill: what was lost with it is known when all is done."""
        if seen is not None:
            self.measured[seen.worker] = kill
        return kill

    def measure(self) -> None:
        """What each kill cost."""
        self.outcome.engine_tokens = self.watch.engine_tokens
        for worker, kill in self.measured.items():
            kill.redone_tokens = max(0, self.watch.redone(worker) - self.spent.get(worker, 0))
        for kill in self.outcome.kills:
            if kill.redone_tokens > kill.bound:
                self.outcome.over_bound.append(
                    f"{kill.how}: {kill.redone_tokens} tokens redone, {kill.bound:.0f} allowed"
                )

    def expect_gone(self, pids: list[int]) -> None:
        """Those that a dead process started must follow it by themselves."""
        end = time.monotonic() + ORPHAN_SECONDS
        while left := [process for process in marked(self.mark) if process.pid in pids]:
            if time.monotonic() > end:
                self.outcome.slow_deaths += [describe(process) for process in left]
                for process in left:
                    send(process.pid, signal.SIGKILL)
                return
            time.sleep(0.1)


def descendants(pid: int) -> list[int]:
    """Of a process, itself first."""
    import psutil

    with suppress(psutil.Error):
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    return [pid]


def parent_of(pid: int) -> int | None:
    """The process that started it."""
    import psutil

    with suppress(psutil.Error):
        return psutil.Process(pid).ppid()
    return None


def is_alive(pid: int) -> bool:
    """Whether a process is there at all."""
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False
