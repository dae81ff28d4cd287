"""An engine in a process of its own: what it answers, how its death looks, and that nothing of it stays."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import hosted_engines as hosted
import psutil
import pytest

from docmill.engine.engine_process import EngineProcess
from docmill.engine.errors import EngineConfigError, EngineDied, ModelError
from docmill.engine.fake_engine import FakeEngine
from docmill.engine.types import Completion, Engine

pytestmark = pytest.mark.usefixtures("nothing_left")


@contextmanager
def process(
    open_engine: Callable[[], Engine] = hosted.StepEngine, **settings: float
) -> Iterator[EngineProcess]:
    engine = EngineProcess(open_engine, **settings)
    try:
        yield engine
    finally:
        engine.close()
        assert not psutil.pid_exists(engine.process_id)


def take(engine: Engine, number: int, *, within_seconds: float = 30) -> list[Completion]:
    found: list[Completion] = []
    end = time.monotonic() + within_seconds
    while len(found) < number:
        assert time.monotonic() < end, f"{len(found)} of {number} completions within {within_seconds} seconds"
        found += engine.completions(timeout_seconds=1)
    return found


def take_until_death(engine: Engine, *, within_seconds: float = 30) -> tuple[list[Completion], EngineDied]:
    found: list[Completion] = []
    end = time.monotonic() + within_seconds
    while time.monotonic() < end:
        try:
            found += engine.completions(timeout_seconds=1)
        except EngineDied as death:
            return found, death
    raise AssertionError(f"it still lives after {within_seconds} seconds")


def test_every_request_is_answered_once_as_in_this_process() -> None:
    requests = [hosted.request(number, *range(number % 7 + 1)) for number in range(2000)]
    here = FakeEngine()
    for request in requests:
        here.submit(request)
    wanted = {completion.request_id: completion for completion in here.completions(0)}
    with process(FakeEngine) as engine:
        engine.wait_until_loaded()
        assert engine.info == here.info
        for request in requests:
            engine.submit(request)
        assert engine.num_in_flight == 2000
        found = take(engine, 2000)
        assert engine.num_in_flight == 0
        assert engine.completions(timeout_seconds=0) == []
    assert len(found) == 2000
    assert {completion.request_id: completion for completion in found} == wanted


def test_its_progress_is_seen_from_here() -> None:
    with process() as engine:
        engine.wait_until_loaded()
        engine.submit(hosted.request("a", 1, 2))
        take(engine, 1)
        assert (engine.num_steps, engine.num_tokens) == (1, 4)
        assert engine.busy_seconds > 0


@pytest.mark.parametrize("seed", range(6))
def test_what_was_answered_before_a_kill_comes_exactly_once_and_then_the_death(seed: int) -> None:
    chance = random.Random(seed)
    requests = {str(number): hosted.request(number, number) for number in range(599)}
    # The last one is never answered: on a busy machine all could be before this thread gets to kill.
    requests["599"] = hosted.request(599, hosted.HANGS)
    with process() as engine:
        engine.wait_until_loaded()
        for request in requests.values():
            engine.submit(request)
        before = take(engine, chance.randrange(1, 200))
        time.sleep(chance.uniform(0, 0.02))
        os.kill(engine.process_id, signal.SIGKILL)
        after, death = take_until_death(engine)
        found = before + after
        assert 0 < len(found) < 600
        assert len({completion.request_id for completion in found}) == len(found)
        assert all(completion == hosted.expected(requests[completion.request_id]) for completion in found)
        assert (death.kind, death.num_in_flight, death.retryable) == ("died", 600 - len(found), True)
        assert "SIGKILL" in str(death)
        with pytest.raises(EngineDied):
            engine.submit(hosted.request("late"))
        with pytest.raises(EngineDied):
            engine.completions(timeout_seconds=60)


@pytest.mark.parametrize(
    ("token", "kind", "words"),
    [
        (hosted.POISON, "died", "killed by SIGKILL"),
        (hosted.RAISES, "died", "illegal memory access"),
        (hosted.EXITS, "died", "status 7"),
        (hosted.HANGS, "hung", "no step for 1 seconds"),
    ],
)
def test_a_death_says_its_kind_and_its_reason(token: int, kind: str, words: str) -> None:
    with process(hang_seconds=1) as engine:
        engine.wait_until_loaded()
        engine.submit(hosted.request("bad", token))
        found, death = take_until_death(engine)
        assert (found, death.kind, death.num_in_flight) == ([], kind, 1)
        assert words in str(death)


def test_memory_that_runs_out_is_its_own_kind_of_death() -> None:
    with process() as engine:
        engine.wait_until_loaded()
        for number in range(100):
            engine.submit(hosted.request(number, hosted.WANTS_MEMORY))
        _, death = take_until_death(engine)
        assert death.kind == "out_of_memory"


def test_a_stopped_process_is_a_hang_only_while_it_has_requests() -> None:
    with process(hang_seconds=1) as engine:
        engine.wait_until_loaded()
        os.kill(engine.process_id, signal.SIGSTOP)
        assert engine.completions(timeout_seconds=2.5) == []
        engine.submit(hosted.request("a"))
        started = time.monotonic()
        _, death = take_until_death(engine)
        assert death.kind == "hung"
        assert 0.9 < time.monotonic() - started < 4


def test_long_steps_are_no_hang_while_they_end() -> None:
    with process(partial(hosted.StepEngine, step_seconds=0.8), hang_seconds=2) as engine:
        engine.wait_until_loaded()
        for number in range(80):
            engine.submit(hosted.request(number))
        assert len(take(engine, 80)) == 80


@pytest.mark.parametrize(
    ("open_engine", "error", "words"),
    [
        (hosted.no_such_model, ModelError, "^model 'acme/none': no such model$"),
        (hosted.bad_setting, EngineConfigError, "^`engine.extra` holds"),
        (hosted.bug_while_loading, EngineDied, "ZeroDivisionError: a bug"),
        (hosted.crash_while_loading, EngineDied, "killed by SIGSEGV"),
    ],
)
def test_what_fails_while_loading_is_raised_here(
    open_engine: Callable[[], Engine], error: type[Exception], words: str
) -> None:
    with process(open_engine) as engine, pytest.raises(error, match=words):
        engine.wait_until_loaded()


def test_a_model_error_still_names_its_model() -> None:
    with process(hosted.no_such_model) as engine:
        with pytest.raises(ModelError) as caught:
            engine.wait_until_loaded()
        assert caught.value.source == "acme/none"


def test_its_memory_is_limited_from_the_start() -> None:
    with process(partial(hosted.needs_gibibytes, 1), memory_gib=0.5) as engine:
        with pytest.raises(EngineDied) as caught:
            engine.wait_until_loaded()
        assert caught.value.kind == "out_of_memory"
    with process(partial(hosted.needs_gibibytes, 0.25), memory_gib=0.5) as engine:
        engine.wait_until_loaded()


@pytest.mark.parametrize("stop_it", [False, True])
def test_closing_while_it_loads_takes_seconds_and_wakes_who_waits(stop_it: bool) -> None:
    with process(hosted.load_for_ever) as engine:
        time.sleep(0.5)
        if stop_it:
            os.kill(engine.process_id, signal.SIGSTOP)
        started = time.monotonic()
        engine.close()
        assert time.monotonic() - started < 4
        with pytest.raises(EngineDied):
            engine.wait_until_loaded()
        engine.close()


def test_closing_a_busy_engine_closes_the_engine_itself_first(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with process(partial(hosted.StepEngine, log=str(log))) as engine:
        engine.wait_until_loaded()
        for number in range(5000):
            engine.submit(hosted.request(number))
        engine.close()
    assert "closed" in log.read_text()


def ignores_sigterm(pid: int) -> bool:
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "SigIgn" in line]
    return bool(int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


PARENT = """
import sys, time
sys.path.append(sys.argv[1])
import hosted_engines
from docmill.engine.engine_process import EngineProcess
engine = EngineProcess(getattr(hosted_engines, sys.argv[2]))
if sys.argv[2] != "load_for_ever":
    engine.wait_until_loaded()
    engine.submit(hosted_engines.request("a"))
print(engine.process_id, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("name", ["StepEngine", "load_for_ever"])
@pytest.mark.parametrize("stop_it", [False, True])
def test_a_parent_that_is_killed_takes_its_engine_with_it(name: str, stop_it: bool) -> None:
    command = [sys.executable, "-c", PARENT, str(Path(hosted.__file__).parent), name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        try:
            while not ignores_sigterm(
                child.pid
            ):  # it sets its death signal just before; a stopped one could not
                time.sleep(0.01)
            if stop_it:
                child.send_signal(signal.SIGSTOP)
            parent.kill()
            child.wait(timeout=5)
        except psutil.NoSuchProcess:
            pass
        finally:
            if child.is_running():
                child.kill()
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_signals_meant_for_the_parent_do_not_end_the_engine() -> None:
    with process() as engine:
        engine.wait_until_loaded()
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(engine.process_id, number)
        engine.submit(hosted.request("a"))
        assert take(engine, 1) == [hosted.expected(hosted.request("a"))]


def test_what_the_engine_prints_does_not_reach_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    with process(hosted.prints) as engine:
        engine.wait_until_loaded()
    output = capfd.readouterr()
    assert output.out == ""


def test_submitting_does_not_wait_for_an_engine_that_does_not_read() -> None:
    with process() as engine:
        engine.wait_until_loaded()
        os.kill(engine.process_id, signal.SIGSTOP)
        long = hosted.request("long", *range(100_000))
        started = time.monotonic()
        for _ in range(50):  # 15 MB, far more than the socket holds
            engine.submit(long)
        assert time.monotonic() - started < 1
        started = time.monotonic()
        engine.close()
        assert time.monotonic() - started < 4
        with pytest.raises(EngineDied):
            engine.completions(timeout_seconds=5)


def test_the_parent_imports_neither_torch_nor_vllm() -> None:
    code = (
        "import sys; import docmill.engine.open_engine, docmill.engine.engine_process; "
        "sys.exit(bool({'torch', 'vllm'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
