"""What a step tells Dagster: errors with their remedy, retries only where they may help, progress now and then."""

from __future__ import annotations

import logging
from traceback import TracebackException

import pytest
from dagster import DagsterLogManager, Failure
from dagster_shared.error import SerializableErrorInfo

from docmill.data.errors import DataError, StorageDenied, StorageUnreachable
from docmill.engine.errors import EngineDied, EngineError, ModelError
from docmill.engine.pool.errors import PoolLost
from docmill.ops.errors import BudgetSpent, JobError, OpsError, Stopped
from docmill.ops.progress import Progress
from docmill.pipelines.event_log import EventLogProgress, as_failures
from docmill.pipelines.progress_lines import duration, progress_line


@pytest.mark.parametrize(
    ("error", "retried"),
    [
        (StorageUnreachable("s3://x", "no answer"), True),
        (EngineDied("killed", 3), True),
        (PoolLost([]), True),
        (Stopped("told to", 3), False),
        (BudgetSpent("all of it", 3), False),
        (StorageDenied("s3://x", "wrong key"), False),
        (ModelError("x", "no such folder"), False),
        (JobError("x", ["tasks: y"]), False),
        (ZeroDivisionError("what a document says"), False),
    ],
)
def test_only_what_may_work_later_is_retried(error: Exception, retried: bool) -> None:
    with pytest.raises(Failure) as raised, as_failures():
        raise error
    assert raised.value.allow_retries is retried
    expected = isinstance(error, (DataError, OpsError, EngineError))
    assert (str(error).split(": ")[-1] in str(raised.value.description)) is expected


def test_dagster_gets_neither_secrets_nor_the_error_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    with pytest.raises(Failure) as raised, as_failures():
        try:
            raise KeyError("Kennwort-4711")
        except KeyError as cause:
            raise ValueError("sent wJalrXUtnFEMI to https://me:hunter2@host/x") from cause
    told = SerializableErrorInfo.from_traceback(TracebackException.from_exception(raised.value)).to_string()
    assert "unexpected ValueError; where is in the metadata" in told
    where = str(raised.value.metadata["places"].value)
    assert where.index("KeyError, raised at") < where.index("ValueError, raised at")
    assert f'File "{__file__}", line ' in where
    for text in ("sent", "wJalrXUtnFEMI", "hunter2", "Kennwort-4711"):
        said = [line for line in (told + where).splitlines() if text in line and "raise " not in line]
        assert not said, f"{text} is told"


def test_a_failure_passes_as_it_is() -> None:
    failure = Failure("ours", allow_retries=True)
    with pytest.raises(Failure) as raised, as_failures():
        raise failure
    assert raised.value is failure


def test_progress_is_a_line_a_stage_and_then_one_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("dagster.test")
    log.setLevel(logging.INFO)
    progress = EventLogProgress(as_dagster_log(log), seconds_between=3600)
    for stage in ("loading model", "running", "running", "running", "writing"):
        progress(Progress(stage, 1, 10, 100, 900, 2.0))
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "loading model",
        "running",
        "writing",
    ]


def test_a_line_of_progress_says_rate_and_time_left() -> None:
    assert progress_line(Progress("loading model", 0, None, 0, 0, 0.0)) == "loading model"
    assert (
        progress_line(Progress("running", 1200, 10_000, 2_000, 4_000, 2.0))
        == "running: 1,200 of 10,000 documents, 3,000 tokens/s, about 15 s left"
    )
    assert [duration(seconds) for seconds in (0.4, 59, 200, 7500)] == [
        "0 s",
        "59 s",
        "3 min 20 s",
        "2 h 05 min",
    ]


def as_dagster_log(log: logging.Logger) -> DagsterLogManager:
    """Only `info` of it is used."""
    return log  # type: ignore[return-value]
