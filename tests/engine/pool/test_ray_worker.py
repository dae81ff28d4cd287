"""What crosses between a driver and its workers: errors whole, secrets unseen."""

import pickle
import threading

from docmill.engine.errors import EngineDied, EngineError
from docmill.engine.pool.errors import WorkerError
from docmill.engine.pool.ray_worker import RayWorker, WorkerEnvironment, WorkerFailure
from docmill.engine.pool.types import WorkerContext


class Picky(EngineError):
    """As many of ours: the message is made of arguments that `args` does not keep."""

    def __init__(self, code: int, *, place: str):
        super().__init__(f"number {code} at {place}")
        self.code = code


def crossed(error: Exception) -> Exception:
    def work(worker: WorkerContext) -> None:
        raise error

    failure = RayWorker(0, 0).run(work)
    return pickle.loads(pickle.dumps(failure)).error("host-12-0")


def test_an_error_whose_arguments_are_not_those_it_keeps_arrives_whole() -> None:
    error = crossed(Picky(7, place="home"))
    assert (type(error), str(error), error.code) == (Picky, "number 7 at home", 7)
    assert not error.retryable
    assert error.__notes__[0].startswith("raised in worker host-12-0:\nTraceback")


def test_an_error_that_knows_how_to_be_pickled_arrives_whole() -> None:
    error = crossed(EngineDied("out of luck", num_in_flight=3))
    assert type(error) is EngineDied
    assert str(error) == str(EngineDied("out of luck", num_in_flight=3))
    assert (error.num_in_flight, error.retryable) == (3, True)


def test_an_error_that_cannot_be_pickled_arrives_as_what_it_said() -> None:
    original = Picky(7, place="home")
    original.retryable = True
    original.lock = threading.Lock()
    error = crossed(original)
    assert isinstance(error, WorkerError)
    assert str(error) == "worker host-12-0 failed: Picky: number 7 at home"
    assert error.retryable


def test_errors_of_the_system_and_of_our_own_code_arrive_too() -> None:
    missing = crossed(FileNotFoundError(2, "No such file or directory", "/models/x"))
    assert (type(missing), missing.filename) == (FileNotFoundError, "/models/x")
    bug = crossed(KeyError("a"))
    assert (type(bug), bug.args) == (KeyError, ("a",))
    assert WorkerFailure.of(KeyError("a")).retryable is False


def test_the_environment_travels_without_its_values_being_shown() -> None:
    environment = WorkerEnvironment.of(
        {
            "AWS_SECRET_ACCESS_KEY": "sesame",
            "DOCMILL_LOG": "debug",
            "HF_TOKEN": "hf_sesame",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_HOST_IP": "10.0.0.1",  # another machine's address
            "PATH": "/usr/bin",
            "HOME": "/somewhere",
        }
    )
    names = ["AWS_SECRET_ACCESS_KEY", "DOCMILL_LOG", "HF_TOKEN", "VLLM_CPU_KVCACHE_SPACE"]
    assert sorted(environment) == names
    for text in (str(environment), repr(environment), f"{environment}"):
        assert "sesame" not in text
        assert "AWS_SECRET_ACCESS_KEY" in text
    assert pickle.loads(pickle.dumps(environment)) == environment
