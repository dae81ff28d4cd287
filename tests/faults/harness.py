"""Kills at every layer, as many as asked for: `make faults RUNS=100 SEED=1`.

    python -P -m faults.harness --runs 100 --seed 1 [--layers engine,driver] [--out FILE]      (PYTHONPATH=tests)

Each job runs on the real vLLM with the bundled model and is disturbed several times at random moments, each time in
what its layer says (`layers`), then brought to its end and checked (`checks`). One undisturbed run gives the right
answers. The last line of the output is the summary as JSON; the exit code is 1 where an invariant did not hold.
"""

from __future__ import annotations

import argparse
import fcntl
import itertools
import json
import os
import pickle
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from faults.job_folder import JobFolder, Undisturbed, make_job, run_undisturbed, write_corpus
from faults.kills import JobOutcome, as_json, summarise
from faults.layers import LAYERS, StoreKills
from faults.session import Session
from servers.ceph_server import CephServer

DOCUMENTS = 150
# How often a layer's turn comes, and how many kills one of its jobs takes: those that need no new driver take more.
TURNS = {"engine": 6, "s3": 6, "driver": 5, "worker": 5, "dagster": 3, "node": 4}
CEPH_SHARE = 1 / 3  # of the jobs of layers that do not need it


def plan(runs: int, layers: list[str], seed: int) -> Iterator[tuple[str, int, int]]:
    """Layer, kills and seed of each job: every layer its part, in rounds, for ever.

    A job may end before it has taken all of its kills, so the series counts those that came.
    """
    draw, numbers = random.Random(seed), itertools.count(seed * 1000)
    while True:
        for layer in draw.sample(layers, len(layers)):
            yield layer, min(TURNS[layer], max(1, runs // len(layers))), next(numbers)


@dataclass
class Bench:
    """What all jobs of a series share: corpora, right answers, a real S3 server where one is installed."""

    folder: Path
    right: Undisturbed
    ceph: CephServer | None
    env: dict[str, str]
    seed: int

    def job(self, folder: Path, *, store: str, **settings: Any) -> JobFolder:
        """One job with an output of its own."""
        root = self.ceph.s3.uri(folder.name) if store == "ceph" and self.ceph else str(folder)
        source = self.ceph.s3.uri("corpus") if store == "ceph" and self.ceph else str(self.folder / "corpus")
        engine = {"max_num_seqs": 32} | settings.pop("engine", {})
        return make_job(folder, source, f"{root}/answers", engine=engine, **settings)

    def session(self, layer: str, seed: int, *, tell: Callable[[str], None]) -> Session:
        """A job of this layer, not begun."""
        kind = LAYERS[layer]
        on_ceph = issubclass(kind, StoreKills) or random.Random(seed).random() < CEPH_SHARE
        store = "ceph" if on_ceph and self.ceph else "local"
        folder = self.folder / f"{layer}-{seed}"
        folder.mkdir()
        session = kind(
            partial(self.job, store=store),
            self.right,
            folder,
            seed=seed,
            store=store,
            env=self.env,
            tell=tell,
        )
        if isinstance(session, StoreKills):
            assert self.ceph is not None
            session.server = self.ceph
        return session


@contextmanager
def bench(
    folder: Path, *, documents: int, seed: int, ceph: CephServer | None, kept: Path | None = None
) -> Iterator[Bench]:
    """Corpora and the undisturbed run, which is taken from the file `kept` where another process has left it there.

    Sets the environment for the S3 server, and takes it back.
    """
    # One thread: several engines at once on few cores, and a thread that waits for another computes nothing.
    env = {"OMP_NUM_THREADS": "1", "DAGSTER_DISABLE_TELEMETRY": "yes", "DO_NOT_TRACK": "1"}
    before = dict(os.environ)
    os.environ |= (ceph.s3.env() if ceph else {}) | env
    try:
        doc_ids = write_corpus(str(folder / "corpus"), documents=documents, seed=seed)
        if ceph:
            write_corpus(ceph.s3.uri("corpus"), documents=documents, seed=seed)
        job = make_job(folder / "undisturbed", str(folder / "corpus"), str(folder / "undisturbed" / "answers"),
                       engine={"max_num_seqs": 32})  # fmt: skip
        run = partial(run_undisturbed, job, doc_ids, env=env)
        yield Bench(folder, _once(run, kept) if kept else run(), ceph, env, seed)
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


def _once(run: Callable[[], Undisturbed], kept: Path) -> Undisturbed:
    with kept.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        if content := file.read():
            return pickle.loads(content)  # left by another process of this suite
        found = run()
        pickle.dump(found, file)
        return found


class Series:
    """Job after job, some at a time, until there were `runs` kills or the time is up."""

    def __init__(
        self,
        bench: Bench,
        jobs: Iterator[tuple[str, int, int]],
        *,
        runs: int,
        tell: Callable[[str], None],
        on_job: Callable[[list[JobOutcome]], object],
    ) -> None:
        self.outcomes: list[JobOutcome] = []
        self._bench, self._jobs, self._tell, self._on_job = bench, jobs, tell, on_job
        self._runs, self._until = runs, float("inf")
        self._lock = threading.Lock()  # around the jobs and the outcomes
        # One job at a time is on the S3 server: one that kills it would take it from others, and what a kill may cost
        # is said for a store that is there.
        self._s3 = threading.Lock()

    def run(self, at_once: int, *, until: float) -> None:
        """Returns when the last job has ended; none begins after `until`."""
        self._until = until
        # The processes of a job die with the thread that started them: these live as long as the series.
        with ThreadPoolExecutor(at_once) as pool:
            for _ in [*pool.map(lambda _: self._work(), range(at_once))]:
                pass

    def _work(self) -> None:
        while time.monotonic() < self._until:
            with self._lock:
                if sum(len(done.kills) for done in self.outcomes) >= self._runs:
                    return
                layer, kills, seed = next(self._jobs)
            session = self._bench.session(layer, seed, tell=self._tell)
            with self._s3 if session.outcome.store == "ceph" else nullcontext():
                outcome = session.disturb(kills)
            with self._lock:
                self.outcomes.append(outcome)
                self._tell_of(outcome)
                self._on_job(self.outcomes)
        self._tell("time is up")

    def _tell_of(self, outcome: JobOutcome) -> None:
        total = Counter(kill.layer for done in self.outcomes for kill in done.kills)
        self._tell(
            f"{'ok ' if outcome.clean else 'BAD'} {outcome.layer} seed {outcome.seed} on {outcome.store}: "
            f"{len(outcome.kills)} kills, {outcome.runs} runs, {outcome.seconds:.0f} s, "
            f"{outcome.engine_tokens}/{outcome.tokens} tokens; {sum(total.values())} kills so far {dict(total)}"
        )
        for line in (*outcome.problems, *outcome.over_bound, *outcome.slow_deaths, *outcome.left_objects,
                     *outcome.left_processes):  # fmt: skip
            self._tell(f"    {line}")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description="Kill docmill at every layer and check that nothing is lost."
    )
    parser.add_argument("--runs", type=int, default=12, help="how many kills")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--documents", type=int, default=DOCUMENTS)
    parser.add_argument("--layers", default=",".join(LAYERS))
    parser.add_argument("--at-once", type=int, default=1, help="jobs at a time")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no job after that")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    layers = [name for name in chosen.layers.split(",") if name]
    if unknown := set(layers) - set(LAYERS):
        parser.error(f"no layer {', '.join(sorted(unknown))}; there are {', '.join(LAYERS)}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    started = time.monotonic()
    tell = partial(_tell, started)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="docmill-faults-")))
        ceph: CephServer | None = None
        if missing := CephServer.missing_commands():
            tell(f"no S3 server, so no layer s3 ({', '.join(missing)} missing; tests/servers/install.sh)")
            layers = [name for name in layers if name != "s3"]
        else:
            ceph = stack.enter_context(CephServer(folder / "ceph"))
        things = stack.enter_context(bench(folder, documents=chosen.documents, seed=chosen.seed, ceph=ceph))
        tell(f"undisturbed: {things.right.tokens} tokens in {things.right.report['seconds']['wall']:.0f} s")

        def summary_of(outcomes: list[JobOutcome]) -> dict[str, Any]:
            """Written after each job: a series that is cut short is worth what it has done."""
            summary = summarise(outcomes) | {
                "asked": chosen.runs,
                "seed": chosen.seed,
                "documents": chosen.documents,
                "at_once": chosen.at_once,
                "wall_seconds": round(time.monotonic() - started, 1),
            }
            if chosen.out:
                chosen.out.parent.mkdir(parents=True, exist_ok=True)
                chosen.out.write_text(json.dumps(_full(summary, outcomes, things), indent=1) + "\n")
            return summary

        series = Series(
            things, plan(chosen.runs, layers, chosen.seed), runs=chosen.runs, tell=tell, on_job=summary_of
        )
        series.run(chosen.at_once, until=started + 60 * chosen.minutes)
        summary = summary_of(series.outcomes)
    print(json.dumps(summary), flush=True)
    return 0 if summary["clean"] else 1


def _tell(started: float, line: str) -> None:
    print(f"[{time.monotonic() - started:6.0f} s] {line}", flush=True)


def _full(summary: dict[str, Any], outcomes: list[JobOutcome], things: Bench) -> dict[str, Any]:
    """The summary with where and when, how it was measured, and each kill."""
    report = things.right.report
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": report["machine"],
        "versions": report["versions"],
        "python": sys.version.split()[0],
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "commit": _commit(),
        "how": (
            "Tokens are prompt and output tokens of requests, cached ones included. A worker's beat tells what its "
            "engines have computed. redone_tokens of a worker's death: that, less the tokens of requests that the "
            "worker itself made safe first (segments and parts, by request key). Of an engine's death: that, less the "
            "tokens of finished requests, read while the next engine loads. Not counted is what a dead worker computed "
            "after its last beat: at most beat_age x tokens_per_second of the kill (max_uncounted). What is in "
            "flight is counted once a second. A kill may cost in_flight_tokens + 5 s x tokens_per_second; "
            "max_share_of_bound is how close the worst came."
        ),
        "summary": summary,
        "jobs": [as_json(outcome) for outcome in outcomes],
    }


def _commit() -> str:
    """Of this tree; with a + where files differ from it."""
    import subprocess

    root = Path(__file__).parents[2]
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty=+"], cwd=root, capture_output=True, text=True, timeout=20
    )
    return found.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
