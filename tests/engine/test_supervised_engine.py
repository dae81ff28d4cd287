"""An engine that dies, hangs and runs out of memory still answers every request exactly once, and tells of it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import hosted_engines as hosted
import psutil
import pytest

from docmill.engine.config import EngineConfig
from docmill.engine.engine_process import EngineProcess
from docmill.engine.errors import EngineConfigError, EngineDied, ModelError
from docmill.engine.supervised_engine import SupervisedEngine
from docmill.engine.types import Completion, Request

pytestmark = pytest.mark.usefixtures("nothing_left")


@contextmanager
def supervised(
    make: Callable[..., Any] = hosted.StepEngine, *, config: EngineConfig | None = None, **settings: Any
) -> Iterator[SupervisedEngine]:
    def start(config: EngineConfig) -> EngineProcess:
        return EngineProcess(partial(make, config, **settings), hang_seconds=config.hang_seconds)

    engine = SupervisedEngine(start, config or EngineConfig(hang_seconds=2))
    try:
        engine.wait_until_loaded()
        yield engine
    finally:
        engine.close()


def answers(
    engine: SupervisedEngine, requests: list[Request], *, within_seconds: float = 90
) -> dict[str, Completion]:
    for request in requests:
        engine.submit(request)
    return take(engine, len(requests), within_seconds=within_seconds)


def take(engine: SupervisedEngine, number: int, *, within_seconds: float = 90) -> dict[str, Completion]:
    found: dict[str, Completion] = {}
    end = time.monotonic() + within_seconds
    while len(found) < number:
        assert time.monotonic() < end, f"{len(found)} of {number} completions within {within_seconds} seconds"
        for completion in engine.completions(timeout_seconds=1):
            assert completion.request_id not in found, "a completion came twice"
            found[completion.request_id] = completion
    assert engine.num_in_flight == 0
    assert engine.completions(timeout_seconds=0.05) == []
    return found


def kill(engine: SupervisedEngine, number: int = signal.SIGKILL) -> int:
    """Signals the present engine process, waiting for one where there is none. Returns its pid."""
    end = time.monotonic() + 30
    while (pid := engine.process_id) is None:
        assert time.monotonic() < end
        time.sleep(0.005)
    os.kill(pid, number)
    return pid


def is_right(completion: Completion, request: Request) -> bool:
    wanted = hosted.expected(request)
    return (completion.token_ids, completion.usage, completion.error) == (
        wanted.token_ids,
        wanted.usage,
        None,
    )


@pytest.mark.parametrize("seed", range(4))
def test_kills_at_random_moments_lose_nothing_and_double_nothing(seed: int) -> None:
    chance = random.Random(seed)
    requests = [hosted.request(number, number) for number in range(1500)]
    with supervised(step_seconds=0.01) as engine:
        for request in requests[:1000]:
            engine.submit(request)
        # Before the first kill, however busy the machine is.
        first = {completion.request_id: completion for completion in engine.completions(timeout_seconds=60)}
        stop = threading.Event()

        def murder() -> None:
            for _ in range(3):
                if stop.wait(chance.uniform(0.05, 0.6)):
                    return
                kill(engine)

        murderer = threading.Thread(target=murder)
        murderer.start()
        for request in requests[1000:]:  # also while there is no engine
            engine.submit(request)
            time.sleep(0.001)
        found = first | take(engine, 1500 - len(first))
        stop.set()
        murderer.join()
        assert len(found) == 1500
        assert all(is_right(found[request.id], request) for request in requests)
        assert 1 <= len(engine.incidents) <= 3
        assert {incident.kind for incident in engine.incidents} == {"died"}
        assert max(completion.attempts for completion in found.values()) > 1
        assert min(completion.attempts for completion in found.values()) == 1


def test_an_undisturbed_engine_answers_in_one_attempt_and_has_no_incidents() -> None:
    requests = [hosted.request(number, number) for number in range(300)]
    with supervised() as engine:
        found = answers(engine, requests)
        assert found == {request.id: hosted.expected(request) for request in requests}
        assert engine.incidents == []
        assert engine.info.name == "step"
        assert engine.busy_seconds > 0
        assert engine.num_tokens == 600


def test_unfinished_requests_go_again_in_their_order(tmp_path: Path) -> None:
    """One at a time, so that the order of the answers is the order in which the engine got the requests."""
    config = EngineConfig(hang_seconds=2, max_num_seqs=1)
    with supervised(config=config, step_seconds=0.02) as engine:
        for number in range(60):
            engine.submit(hosted.request(number))
        first = engine.completions(timeout_seconds=5)
        kill(engine)
        rest: list[Completion] = []
        while len(first) + len(rest) < 60:
            rest += engine.completions(timeout_seconds=5)
        assert [completion.request_id for completion in first + rest] == [str(n) for n in range(60)]


@pytest.mark.parametrize(
    ("where", "token"),
    [
        ({17}, hosted.POISON),  # crashes the process
        ({0}, hosted.RAISES),  # an exception in the engine
        ({63}, hosted.EXITS),  # the last of all
        ({5, 40}, hosted.POISON),  # two, in different halves
        (set(range(6)), hosted.POISON),  # neighbours, as the tasks of one document are
    ],
)
def test_a_poison_among_many_is_found_and_the_others_are_answered(where: set[int], token: int) -> None:
    requests = [hosted.request(n, *([1, token] if n in where else [n])) for n in range(64)]
    config = EngineConfig(hang_seconds=2, max_restarts=3)  # fewer than the halving takes
    with supervised(config=config) as engine:
        found = answers(engine, requests)
        blamed = {name for name, completion in found.items() if completion.error}
        assert blamed == {str(number) for number in where}
        for name in blamed:
            completion = found[name]
            assert completion.error is not None
            assert completion.error.reason == "killed_engine"
            assert completion.attempts >= 2
            assert str(completion.attempts) in completion.error.message
        assert all(is_right(found[request.id], request) for request in requests if request.id not in blamed)
        # Two deaths for the suspicion, six to halve 64 down to one, and one more to be sure of it.
        assert len(engine.incidents) <= 2 + 7 * len(where)
        assert any("suspected" in incident.action for incident in engine.incidents)


def test_a_request_that_hangs_the_engine_is_found_too() -> None:
    requests = [hosted.request(n, hosted.HANGS if n == 1 else n) for n in range(2)]
    with supervised() as engine:
        found = answers(engine, requests)
        assert {name for name, completion in found.items() if completion.error} == {"1"}
        assert {incident.kind for incident in engine.incidents} == {"hung"}


def test_new_requests_wait_while_suspects_run_alone_and_are_answered_after() -> None:
    with supervised() as engine:
        for number in range(16):
            engine.submit(hosted.request(number, hosted.POISON if number == 3 else number))
        end = time.monotonic() + 30
        while len(engine.incidents) < 3:
            assert time.monotonic() < end
            time.sleep(0.01)
        for number in range(16, 200):
            engine.submit(hosted.request(number))
        found = take(engine, 200)
        assert {name for name, completion in found.items() if completion.error} == {"3"}
        assert {found[str(number)].attempts for number in range(16, 200)} == {1}


def test_a_poison_that_is_alone_from_the_start_is_given_up() -> None:
    with supervised() as engine:
        found = answers(engine, [hosted.request("alone", hosted.POISON)])
        assert found["alone"].attempts == 3, "once more, to be sure of it"
        assert found["alone"].error is not None
        assert is_right(answers(engine, [hosted.request("next")])["next"], hosted.request("next"))


def test_an_engine_that_dies_of_everything_blames_no_request() -> None:
    requests = [hosted.request(number, hosted.POISON) for number in range(8)]
    with supervised(config=EngineConfig(hang_seconds=2, max_restarts=2)) as engine:
        for request in requests:
            engine.submit(request)
        found: list[Completion] = []
        with pytest.raises(EngineDied, match="8 requests in flight.*SIGKILL"):
            for _ in range(60):
                found += engine.completions(timeout_seconds=1)
        assert found == []
        with pytest.raises(EngineDied):
            engine.submit(hosted.request("late"))
        assert engine.incidents[-1].action == "given up after 2 restarts without an answer"


def test_a_stopped_engine_is_killed_and_its_requests_run_again() -> None:
    requests = [hosted.request(number, number) for number in range(400)]
    with supervised(step_seconds=0.02) as engine:
        for request in requests:
            engine.submit(request)
        pid = kill(engine, signal.SIGSTOP)
        found = take(engine, 400)
        assert all(is_right(found[request.id], request) for request in requests)
        assert [incident.kind for incident in engine.incidents] == ["hung"]
        assert not psutil.pid_exists(pid)


def test_memory_that_runs_out_halves_the_batch_until_it_fits_and_blames_nobody() -> None:
    requests = [hosted.request(number, hosted.WANTS_MEMORY) for number in range(300)]
    config = EngineConfig(hang_seconds=2, max_num_seqs=64, extra={"max_num_batched_tokens": 1000})
    with supervised(config=config) as engine:
        found = answers(engine, requests)
        assert all(is_right(found[request.id], request) for request in requests)
        assert [incident.kind for incident in engine.incidents] == ["out_of_memory"] * 3
        assert [incident.limits for incident in engine.incidents] == [
            {"max_num_seqs": 32, "max_num_batched_tokens": 500},
            {"max_num_seqs": 16, "max_num_batched_tokens": 256},
            {"max_num_seqs": 8, "max_num_batched_tokens": 256},
        ]
        assert "max_num_seqs=8" in engine.incidents[-1].action
        assert (engine.info.max_num_seqs, engine.info.max_num_batched_tokens) == (8, 256)


def test_a_request_too_large_for_the_smallest_batch_is_given_up() -> None:
    with supervised(hosted.NeedsMemory, config=EngineConfig(hang_seconds=2, max_num_seqs=2)) as engine:
        requests = [hosted.request(n, hosted.TOO_LARGE if n == 1 else n) for n in range(4)]
        found = answers(engine, requests)
        assert {name for name, completion in found.items() if completion.error} == {"1"}
        assert engine.info.max_num_seqs == 1


@pytest.mark.parametrize(
    ("make", "error"), [(hosted.no_such_model, ModelError), (hosted.bad_setting, EngineConfigError)]
)
def test_what_cannot_load_is_not_tried_again(make: Callable[..., Any], error: type[Exception]) -> None:
    started = time.monotonic()
    with pytest.raises(error), supervised(make):
        pass
    assert time.monotonic() - started < 5


def test_an_engine_that_dies_while_loading_is_tried_again_a_little_later_each_time(tmp_path: Path) -> None:
    log = tmp_path / "log"
    config = EngineConfig(hang_seconds=2, max_restarts=2)
    with (
        pytest.raises(EngineDied, match="SIGSEGV"),
        supervised(hosted.crash_while_loading, config=config, log=str(log)),
    ):
        pass
    times = [json.loads(line)[0] for line in log.read_text().splitlines()]
    assert len(times) == 3
    assert times[1] - times[0] >= 0.5
    assert 1.0 <= times[2] - times[1] < 8


def test_a_model_that_fails_to_load_again_gets_further_chances(tmp_path: Path) -> None:
    """After a kill the GPU's memory may not be free yet, and vLLM then refuses its settings."""
    with supervised(hosted.loads_every_other_time, path=str(tmp_path / "tries")) as engine:
        kill(engine)
        asked = hosted.request("a")
        assert is_right(answers(engine, [asked])["a"], asked)
        assert ["not free" in incident.message for incident in engine.incidents] == [False, True]


def test_a_model_that_was_made_anew_meanwhile_ends_it_at_once(tmp_path: Path) -> None:
    """Its answers would stand beside the first one's, under that one's name."""
    with supervised(hosted.another_model_each_time, path=str(tmp_path / "tries")) as engine:
        asked = hosted.request("a")
        assert is_right(answers(engine, [asked])["a"], asked)
        kill(engine)
        with pytest.raises(EngineDied, match="has changed since this run began"):
            answers(engine, [hosted.request("b")])
    assert (tmp_path / "tries").read_text() == "xx"


@pytest.mark.parametrize("state", ["serving", "stopped", "loading again", "waiting to start again"])
def test_closing_takes_seconds_whatever_it_is_at(state: str, tmp_path: Path) -> None:
    make: Callable[..., Any] = hosted.StepEngine
    settings: dict[str, Any] = {}
    if state == "loading again":
        make, settings = hosted.loads_once, {"path": str(tmp_path / "tries")}
    if state == "waiting to start again":
        make, settings = hosted.crashes_again, {"path": str(tmp_path / "tries")}
    with supervised(make, config=EngineConfig(max_restarts=50), **settings) as engine:
        for number in range(100):
            engine.submit(hosted.request(number, hosted.HANGS))
        if state == "stopped":
            kill(engine, signal.SIGSTOP)
        elif state != "serving":
            pid = kill(engine)
            end = time.monotonic() + 30
            while engine.process_id == pid or (state.startswith("waiting") and len(engine.incidents) < 4):
                assert time.monotonic() < end
                time.sleep(0.01)
        started = time.monotonic()
        engine.close()
        assert time.monotonic() - started < 4.5
        assert engine.process_id is None
        with pytest.raises(EngineDied):
            engine.submit(hosted.request("late"))
        with pytest.raises(EngineDied):
            engine.completions(timeout_seconds=60)


FORGETFUL = """
import os, sys
sys.path.append(sys.argv[1])
from functools import partial
import hosted_engines as hosted
from docmill.engine.config import EngineConfig
from docmill.engine.engine_process import EngineProcess
from docmill.engine.supervised_engine import SupervisedEngine
engine = SupervisedEngine(lambda config: EngineProcess(partial(hosted.StepEngine, config)), EngineConfig())
engine.wait_until_loaded()
engine.submit(hosted.request("a", hosted.HANGS))
print(engine.process_id)
"""


def test_a_program_that_forgets_to_close_ends_in_silence_and_its_engine_with_it() -> None:
    command = [sys.executable, "-c", FORGETFUL, str(Path(hosted.__file__).parent)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert ended.stderr == ""
    end = time.monotonic() + 5
    while psutil.pid_exists(int(ended.stdout)):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_closing_before_it_has_loaded_ends_the_process_and_wakes_who_waits() -> None:
    processes: list[int] = []

    def start(config: EngineConfig) -> EngineProcess:
        process = EngineProcess(hosted.load_for_ever)
        processes.append(process.process_id)
        return process

    engine = SupervisedEngine(start, EngineConfig())
    assert not engine.wait_until_loaded(0.5)
    started = time.monotonic()
    engine.close()
    assert time.monotonic() - started < 10
    assert len(processes) == 1
    assert not psutil.pid_exists(processes[0])
    with pytest.raises(EngineDied, match="closed"):
        engine.wait_until_loaded()


def test_refusals_do_not_show_that_an_engine_computes() -> None:
    """Every forward pass dies, and some requests are refused before: that is no answer, and no reason to go on."""
    requests = [hosted.request(n, hosted.REFUSED) for n in range(40)]
    requests += [hosted.request(f"poison-{n}", hosted.POISON) for n in range(8)]
    config = EngineConfig(max_restarts=2)
    with supervised(hosted.RefusesFirst, config=config) as engine, pytest.raises(EngineDied):
        for request in requests:
            engine.submit(request)
            time.sleep(0.01)
        while True:
            for completion in engine.completions(timeout_seconds=30):
                assert completion.error is not None
                assert completion.error.reason == "rejected", (
                    "an engine that never computes blames no request"
                )


def test_an_id_in_flight_is_not_taken_twice() -> None:
    with supervised() as engine:
        engine.submit(hosted.request("twice", hosted.HANGS))
        with pytest.raises(ValueError, match="'twice' is in flight already"):
            engine.submit(hosted.request("twice"))
        assert engine.num_in_flight == 1


def test_incidents_say_when_and_how_many() -> None:
    with supervised(step_seconds=0.1) as engine:
        for number in range(40):
            engine.submit(hosted.request(number))
        kill(engine)
        take(engine, 40)
        (incident,) = engine.incidents
        assert incident.at.tzinfo is not None
        assert incident.num_in_flight <= 40
        assert f"{incident.num_in_flight} requests sent again" in incident.action
        assert "SIGKILL" in incident.message
        assert incident.limits == {}


@pytest.mark.parametrize("unfit", [hosted.bad_setting, hosted.crash_while_loading, hosted.needs_too_much])
def test_an_engine_that_does_not_load_with_what_was_tuned_goes_without_it(unfit: Callable[..., Any]) -> None:
    config = EngineConfig(max_restarts=0)
    engine = SupervisedEngine(
        lambda config: EngineProcess(partial(unfit, config)),
        config,
        start_plain=lambda config: EngineProcess(partial(hosted.StepEngine, config)),
    )
    try:
        engine.wait_until_loaded()
        (incident,) = engine.incidents
        assert incident.action == "started without what was tuned"
        assert incident.limits == {}
        assert engine.info.max_num_seqs == 16, "the batch is what it is without tuning, not half of it"
        requests = [hosted.request(number) for number in range(20)]
        found = answers(engine, requests)
        assert all(is_right(found[request.id], request) for request in requests)
    finally:
        engine.close()


def test_an_engine_that_loads_in_no_way_fails_with_the_plain_ones_error() -> None:
    engine = SupervisedEngine(
        lambda config: EngineProcess(partial(hosted.bad_setting, config)),
        EngineConfig(),
        start_plain=lambda config: EngineProcess(partial(hosted.no_such_model, config)),
    )
    try:
        with pytest.raises(ModelError, match="no such model"):
            engine.wait_until_loaded()
    finally:
        engine.close()
