"""What can die: one class for each layer. Each kills or freezes its own kind of process and lets the job go on."""

from __future__ import annotations

import secrets
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
from faults.job_folder import DAY
from faults.kills import Kill
from faults.processes import Run, engines, kill_all, marked, send
from faults.session import Session, descendants, parent_of
from faults.watch import Seen
from servers.ceph_server import CephServer
from servers.s3_server import free_port

NOTICED_SECONDS = 300.0  # until a death shows in a beat, or another worker computes
NODE_SECONDS = 120.0  # for a raylet to start
FREEZE_SHARE = 0.25  # of the kills are SIGSTOPs: they cost a lease, or `engine.hang_seconds`


class EngineKills(Session):
    """The engine's own process. The worker starts the next one: one run outlives all kills."""

    layer = "engine"

    def hit(self) -> Kill | None:
        found = engines(self.mark)
        seen = self.worker_in(self.run.pid) if self.run else None
        if not found or seen is None:
            return None
        stop = self.random.random() < FREEZE_SHARE
        kill, deaths = self.kill_of("SIGSTOP" if stop else "SIGKILL", seen), seen.num_deaths
        send(found[0].pid, signal.SIGSTOP if stop else signal.SIGKILL)
        self.wait_until(lambda: seen.num_deaths > deaths, NOTICED_SECONDS)
        if seen.num_deaths == deaths:
            return None  # the run had ended by itself
        # The next engine is loading and has nothing: all that is not finished now is lost.
        lost = max(0, seen.engine_tokens - seen.finished_tokens)
        kill.redone_tokens = max(0, lost - self.spent.get(seen.worker, 0))
        self.spent[seen.worker] = lost
        return kill


class DriverKills(Session):
    """`docmill run` with its worker in the same process (the inline pool); the engine's process follows by itself."""

    layer = "driver"

    def hit(self) -> Kill | None:
        run = self.run
        assert run is not None
        seen = self.worker_in(run.pid)
        if seen is None:
            return None
        if self.random.random() < FREEZE_SHARE and not self.frozen:
            awake = self.random.random() < 0.5
            kill = self.kill_of("SIGSTOP, later SIGCONT" if awake else "SIGSTOP", seen)
            send(run.pid, signal.SIGSTOP)
            self.frozen.append(run)
            self.start_run()
            self.base_tokens = self.watch.engine_tokens
            if awake:
                # Another run has taken its work over when it wakes up and goes on as if nothing had been.
                self.wait_until(lambda: self.watch.engine_tokens > self.base_tokens, NOTICED_SECONDS)
                send(run.pid, signal.SIGCONT)
            return self.ended_by(kill, seen)
        kill = self.kill_of("SIGKILL", seen)
        family = descendants(run.pid)
        run.kill()
        self.expect_gone(family)
        self.watch.look()
        self.start_run()
        return self.ended_by(kill, seen)


class DagsterKills(Session):
    """The process of the Dagster step, below `dagster job execute`: its retry policy starts another one after a pause.

    Or both of them, and then `dagster job execute` is called again.
    """

    layer = "dagster"

    def start(self) -> None:
        home = self.folder / "dagster"
        home.mkdir(parents=True)
        shutil.copyfile(Path(__file__).parents[2] / "dagster.yaml", home / "dagster.yaml")
        self.env |= {"DAGSTER_HOME": str(home), "DOCMILL_JOBS": str(self.folder)}

    def command(self) -> list[str]:
        return [
            sys.executable, "-P", "-m", "dagster", "job", "execute", "-m", "docmill.pipelines.definitions",
            "-j", "faults", "--tags", f'{{"dagster/partition": "{DAY}"}}',
        ]  # fmt: skip

    def hit(self) -> Kill | None:
        run, found = self.run, engines(self.mark)
        assert run is not None
        step = parent_of(found[0].pid) if found else None
        seen = self.worker_in(step) if step else None
        if step is None or seen is None:
            return None
        alone = self.random.random() < 0.5
        kill = self.kill_of("SIGKILL" if alone else "SIGKILL of step and run", seen)
        family = descendants(step)
        send(step, signal.SIGKILL)
        if not alone:
            family += descendants(run.pid)
            run.kill()
        self.expect_gone([pid for pid in family if not alone or pid != run.pid])
        self.watch.look()
        if not alone:
            self.start_run()
        return self.ended_by(kill, seen)


class StoreKills(Session):
    """The S3 gateway: gone for some seconds, or silent. Nothing of ours dies; calls are tried again."""

    layer = "s3"
    server: CephServer

    def hit(self) -> Kill | None:
        stop = self.random.random() < FREEZE_SHARE
        kill = self.kill_of("SIGSTOP, later SIGCONT" if stop else "SIGKILL", None)
        pause = self.random.uniform(0.5, 6.0)
        if stop:
            send(self.server.gateway_pid, signal.SIGSTOP)
            time.sleep(pause)
            send(self.server.gateway_pid, signal.SIGCONT)
        else:
            self.server.kill_gateway()
            time.sleep(pause)
            self.server.start_gateway()
        self.watch.look()
        return kill


class _RayKills(Session):
    """Two workers on Ray; what the one leaves the other takes, and the pool starts another one."""

    pool: dict[str, object] = {"kind": "ray", "workers": 2, "cpus_per_worker": 1, "max_worker_restarts": 50}  # noqa: RUF012
    # A small batch: the job must not be over before the second worker has loaded its model.
    engine: dict[str, object] = {"max_num_seqs": 8, "max_in_flight": 16}  # noqa: RUF012
    settings = {"pool": pool, "engine": engine}  # noqa: RUF012
    grace_seconds = 75.0  # Ray's own agents notice within a minute that their raylet is gone

    def start(self) -> None:
        # Not the session's folder: a Unix socket's path holds 107 characters.
        self.ray_folder = tempfile.TemporaryDirectory(prefix="dm-", dir="/tmp", ignore_cleanup_errors=True)
        self.env |= {"RAY_TMPDIR": self.ray_folder.name}
        self.frozen_pids: list[int] = []

    def stop(self) -> None:
        self.ray_folder.cleanup()

    def actors(self) -> list[tuple[int, Seen]]:
        """Workers whose engine has computed something; by the process number, so that a seed means something."""
        found = []
        for engine in engines(self.mark):
            pid = parent_of(engine.pid)
            seen = self.worker_in(pid) if pid else None
            if pid and seen is not None and seen.engine_tokens and pid not in self.frozen_pids:
                found.append((pid, seen))
        return sorted(found, key=lambda item: item[0])

    def while_ending(self) -> None:
        """What is frozen has been taken over when everything is in the store."""
        if self.frozen_pids and self.watch.safe_tokens >= self.right.tokens:
            for pid in self.frozen_pids:
                send(pid, signal.SIGKILL)
            self.frozen_pids.clear()


class WorkerKills(_RayKills):
    """One of two workers, each an actor's process on a Ray of the run's own."""

    layer = "worker"

    def hit(self) -> Kill | None:
        self.wait_until(lambda: bool(self.actors()), NOTICED_SECONDS)
        found = self.actors()
        if not found:
            return None
        pid, seen = self.random.choice(found)
        stop = self.random.random() < FREEZE_SHARE and not self.frozen_pids
        kill = self.kill_of("SIGSTOP" if stop else "SIGKILL", seen)
        family = descendants(pid)
        send(pid, signal.SIGSTOP if stop else signal.SIGKILL)
        if stop:
            self.frozen_pids.append(pid)
        else:
            self.expect_gone(family)
        self.watch.look()
        return self.ended_by(kill, seen)


class NodeKills(_RayKills):
    """One of two nodes, each a raylet with all that belongs to it; then a new node joins.

    A third one, the head, takes no worker: without it Ray would end as a whole. So whichever worker computes, its node
    can be killed, and no kill hangs on which of them has loaded its model first.
    """

    layer = "node"

    def start(self) -> None:
        self.nodes: list[Run] = []  # the head first
        super().start()
        self.port = free_port()
        self.env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self._start_node("--head", f"--port={self.port}", "--include-dashboard=false", num_cpus=0)
        for _ in range(
            2
        ):  # one after the other: together they may take longer than Ray itself waits for them
            self._start_node(f"--address=127.0.0.1:{self.port}")
        address = f"127.0.0.1:{self.port}"
        self.settings = {"pool": {**self.pool, "address": address}, "engine": self.engine}

    def add_node(self, *arguments: str, num_cpus: int = 1) -> None:
        """One more; its processes are known by its number."""
        self.folder.mkdir(parents=True, exist_ok=True)
        number = len(self.nodes)
        command = [str(Path(sys.executable).parent / "ray"), "start", *arguments, f"--num-cpus={num_cpus}", "--block",
                   "--disable-usage-stats", "--object-store-memory=80000000"]  # fmt: skip
        log, env = self.folder / f"node-{number}.log", {**self.env, "DOCMILL_NODE": str(number)}
        self.nodes.append(Run(command, log=log, env=env))

    def _start_node(self, *arguments: str, num_cpus: int = 1) -> None:
        """Returns when it is there. Ray gives up after half a minute, on a busy machine too early: then once more."""
        end = time.monotonic() + NODE_SECONDS
        self.add_node(*arguments, num_cpus=num_cpus)
        while "Ray runtime started" not in self.nodes[-1].log.read_text(errors="replace"):
            if time.monotonic() > end:
                raise TimeoutError(f"a Ray node did not start: {self.nodes[-1].tail()}")
            if self.nodes[-1].status is not None:
                self.add_node(*arguments, num_cpus=num_cpus)
            time.sleep(0.2)

    def members(self, number: int) -> list[int]:
        """All processes of a node."""
        return [process.pid for process in marked(self.mark) if _node_of(process.pid) == number]

    def hit(self) -> Kill | None:
        self.wait_until(lambda: bool(self.actors()), NOTICED_SECONDS)
        found = [(number, seen) for pid, seen in self.actors() if (number := _node_of(pid)) is not None]
        if not found:
            return None
        number, seen = self.random.choice(found)
        kill = self.kill_of("SIGKILL", seen)
        for pid in self.members(number):
            send(pid, signal.SIGKILL)
        self.nodes[number].kill()
        self.watch.look()
        self.add_node(f"--address=127.0.0.1:{self.port}")
        return self.ended_by(kill, seen)

    def stop(self) -> None:
        kill_all(self.mark)
        for node in self.nodes:
            node.kill()  # gone already, but not collected
        super().stop()


def _node_of(pid: int) -> int | None:
    """The number of the node that a process belongs to."""
    with suppress(psutil.Error, KeyError):
        return int(psutil.Process(pid).environ()["DOCMILL_NODE"])
    return None


LAYERS: dict[str, type[Session]] = {
    kind.layer: kind for kind in (EngineKills, StoreKills, DriverKills, WorkerKills, DagsterKills, NodeKills)
}
