"""From YAML to a job: what a mistake looks like to the one who made it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from docmill.data.demo import LABELS
from docmill.engine.pool.config import PoolConfig
from docmill.ops.errors import JobError
from docmill.ops.job import Budget, LedgerConfig
from docmill.ops.tasks import Classify
from docmill.pipelines.job_files import BUNDLED_FOLDER, load_all_jobs, load_job

WriteJob = Callable[..., Path]


def problems(job: Path | str) -> list[str]:
    with pytest.raises(JobError) as raised:
        load_job(str(job))
    return raised.value.problems


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # a typo in a key, at every depth
        ({"taskss": {}}, "taskss: there is no such key; did you mean 'tasks'?"),
        ({"source__idcolumn": "x"}, "source.idcolumn: there is no such key; did you mean 'id_column'?"),
        ({"tasks__topics__lables": []}, "tasks.topics.lables: there is no such key; did you mean 'labels'?"),
        ({"source__generate__day": 1}, "source.generate.day: there is no such key; did you mean 'days'?"),
        ({"engine__zzz": 1}, "engine.zzz: there is no such key; allowed: kind, device"),
        (
            {"owners": ["team:search", "bob"]},
            "owners[1]: 'bob' is no owner; expected a team such as team:search",
        ),
        # a key that is missing
        ({"output": None}, "output: is missing"),
        ({"tasks__topics__labels": None}, "tasks.topics.labels: is missing"),
        ({"tasks__topics__kind": None}, "tasks.topics.kind: is missing. Allowed: translate, classify"),
        # a value that cannot be
        (
            {"tasks__topics__kind": "clasify"},
            "tasks.topics.kind: there is no kind 'clasify'; did you mean 'classify'?",
        ),
        (
            {"tasks__topics__labels": ["a", "b", "a"]},
            "tasks.topics.labels: the labels 'a' are listed more than once",
        ),
        (
            {"tasks__topics__labels": [True, "b"]},
            "tasks.topics.labels[0]: expected text, got True; put it in quotes",
        ),
        ({"engine__max_model_len": -1}, "engine.max_model_len: expected greater than 0, got -1"),
        ({"engine__device": "gpu"}, "engine.device: expected 'auto', 'cpu' or 'cuda', got 'gpu'"),
        ({"tasks": {}}, "tasks: "),
        ({"name": "My job"}, "name: 'My job' must be small letters"),
        # settings that do not go together
        ({"output__uri": "documents"}, "output.uri is the source's"),
        ({"source__carry": ["language", "language"]}, "source.carry: a column stands more than once"),
        (
            {"source__carry": ["label"]},
            "source columns ['label'] have the names of output columns of task 'topics'",
        ),
        ({"source__text_column": "doc_id"}, "source.id_column and source.text_column are the same column"),
        ({"source__generate": None}, "source.start_date: is missing"),
        ({"source__partition_key": "day"}, "source.partition_key: the demo corpus lies in folders `dt=...`"),
        (
            {"output__uri": ".", "source__uri": "topics/x"},
            "output.uri: answers of task 'topics' would be written over",
        ),
        # ledger, budget, pool
        (
            {"ledger": {"segment_second": 5}},
            "ledger.segment_second: there is no such key; did you mean 'segment_seconds'?",
        ),
        (
            {"ledger": {"lease_seconds": 0}},
            "ledger.lease_seconds: expected greater than or equal to 1, got 0",
        ),
        ({"budget": {"max_uds": 5}}, "budget.max_uds: there is no such key; did you mean 'max_usd'?"),
        ({"budget": {"max_failed_share": 2}}, "budget.max_failed_share: expected less than 1, got 2"),
        ({"budget": {"max_usd": 5}, "prices": None}, "budget.max_usd needs prices.usd_per_hour"),
        ({"pool": {"kind": "rai"}}, "pool.kind: expected 'inline' or 'ray', got 'rai'"),
        (
            {"pool": {"kind": "ray", "worker": 2}},
            "pool.worker: there is no such key; did you mean 'workers'?",
        ),
        ({"pool": {"kind": "ray"}}, "pool: `kind: ray` needs `workers`"),
        ({"pool": {"workers": 2}}, "pool: workers: only for `kind: ray`"),
        # secrets
        (
            {"source__aws_secret_access_key": "abc"},
            "source.aws_secret_access_key: secrets do not belong in a job file",
        ),
        ({"source__uri": "s3://me:hunter2@host/x"}, "source.uri: the URI holds a password"),
    ],
)
def test_a_mistake_is_named_with_its_place(
    write_job: WriteJob, changes: dict[str, Any], expected: str
) -> None:
    found = problems(write_job(**changes))
    assert len(found) == 1, found
    assert expected in found[0]
    assert "hunter2" not in found[0]


def test_all_mistakes_are_named_at_once(write_job: WriteJob) -> None:
    path = write_job(
        nam="x", source__uri="${NO_SUCH_VARIABLE}/x", tasks__topics__labels=["a"], engine__kind="vlm"
    )
    assert [problem.split(":")[0] for problem in problems(path)] == [
        "source.uri",
        "engine.kind",
        "tasks.topics.labels",
        "nam",
    ]


def test_an_output_below_an_unpartitioned_source_is_refused(write_job: WriteJob) -> None:
    path = write_job(
        source={
            "uri": "documents",
            "generate": {"kind": "distributions"},
            "partition_key": None,
            "id_column": "name",
        },
        output__uri="documents/answers",
    )
    assert problems(path) == [
        "output.uri: lies below source.uri; the next run would read the answers as documents"
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: [", "line 1"),
        ("", "the file must be a mapping of keys (name, source, tasks, ...), it is empty"),
        ("- a", "the file must be a mapping of keys (name, source, tasks, ...), it is a list"),
        ("name: a\nname: b", "the key 'name' stands twice, in lines 1 and 2"),
    ],
)
def test_text_that_is_no_job_is_named(write_job: WriteJob, text: str, expected: str) -> None:
    assert expected in problems(write_job(text=text))[0]


def test_environment_variables_are_put_in(write_job: WriteJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUCKET", "mine")
    path = write_job(
        source__uri="s3://${BUCKET}/in",
        output__uri="s3://${OTHER_BUCKET:-theirs}/out",
        source__generate__documents_per_day="${NUMBER:-7}",
        description="costs $${BUCKET}",
    )
    job = load_job(str(path))
    assert (job.source.uri, job.output.uri) == ("s3://mine/in", "s3://theirs/out")
    assert job.source.generate is not None
    assert job.source.generate.model_dump()["documents_per_day"] == 7
    assert job.description == "costs ${BUCKET}"


def test_a_missing_variable_is_named_with_its_place(write_job: WriteJob) -> None:
    found = problems(write_job(output__uri="s3://${NO_SUCH_BUCKET}/x"))
    assert found == [
        "output.uri: the environment variable NO_SUCH_BUCKET is not set; set it, or write ${NO_SUCH_BUCKET:-default}"
    ]


def test_a_value_from_the_environment_is_never_repeated(
    write_job: WriteJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOMETHING", "s3cr3t-value")
    assert "s3cr3t-value" not in str(problems(write_job(engine__device="${SOMETHING}")))


def test_an_unclosed_reference_is_named(write_job: WriteJob) -> None:
    assert "output.uri: a `${` is not closed" in problems(write_job(output__uri="s3://${BUCKET/x"))[0]


def test_relative_paths_start_from_the_file(write_job: WriteJob, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_job(model={"source": "../models/mine"})
    monkeypatch.chdir("/")
    job = load_job(str(path))
    assert job.source.uri == str(path.parent / "documents")
    assert job.output.uri == str(path.parent / "answers")
    assert job.model.source == str(path.parent.parent / "models" / "mine")


def test_the_bundled_jobs_start_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DOCMILL_HOME")
    monkeypatch.chdir(tmp_path)
    assert load_job("demo").source.uri == str(tmp_path / ".docmill" / "demo" / "documents")


def test_every_bundled_job_is_valid() -> None:
    loaded = {file.name: job for file, job in load_all_jobs().items()}
    assert {path.stem for path in BUNDLED_FOLDER.glob("*.yaml")} == set(loaded) == {"demo", "distributions"}
    assert not [job for job in loaded.values() if isinstance(job, JobError)]


def test_the_settings_that_the_demo_job_shows_as_comments_are_valid() -> None:
    """Taken out of their comments, in the order of the file; the values are the defaults where there are any."""
    text = (BUNDLED_FOLDER / "demo.yaml").read_text()
    blocks = re.findall(r"^# (?:pool|ledger|budget):.*(?:\n#   .*)*", text, re.MULTILINE)
    shown = yaml.safe_load("\n".join(line[2:] for block in blocks for line in block.splitlines()))
    assert set(shown) == {"pool", "ledger", "budget"}
    assert LedgerConfig.model_validate(shown["ledger"]) == LedgerConfig()
    assert set(shown["budget"]) == set(Budget.model_fields)
    assert Budget.model_validate(shown["budget"]).max_usd
    assert PoolConfig.model_validate(shown["pool"]).workers == 2


def test_the_demo_job_has_the_labels_of_the_corpus() -> None:
    task = load_job("demo").tasks["classifications"]
    assert isinstance(task, Classify)
    assert tuple(task.labels) == LABELS


def test_jobs_are_found_by_name_in_docmill_jobs(write_job: WriteJob, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_job("mine")
    monkeypatch.setenv("DOCMILL_JOBS", str(path.parent))
    assert load_job("mine").name == "tickets"
    assert problems("mien") == [
        "there is no job of this name; did you mean 'mine'? Allowed: demo, distributions, mine. A path ends with .yaml"
    ]


def test_a_file_of_the_user_replaces_a_bundled_one(
    write_job: WriteJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_job("demo", description="mine")
    monkeypatch.setenv("DOCMILL_JOBS", str(path.parent))
    assert load_job("demo").description == "mine"


def test_a_broken_file_harms_no_other(write_job: WriteJob, monkeypatch: pytest.MonkeyPatch) -> None:
    write_job("good")
    write_job("same_name")
    path = write_job("broken", text="name: [")
    monkeypatch.setenv("DOCMILL_JOBS", f"{path.parent}:/no/such/folder")
    loaded = {file.name: job for file, job in load_all_jobs().items()}
    broken = {name: job.problems[0] for name, job in loaded.items() if isinstance(job, JobError)}
    assert set(loaded) - set(broken) == {"demo", "distributions", "good"}
    assert broken["same_name"].startswith("name: 'tickets' is already the name of the job in ")
    assert broken["folder"].startswith("/no/such/folder is no folder")
    assert "line 1" in broken["broken"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "start_date: 2026-02-30",
            "line 2, column 22: not readable as YAML: 2026-02-30 is no date: day is out of",
        ),
        ("uri: ''", "source.uri: is empty"),
        ("partition_key: ''", "source.partition_key: is empty"),
    ],
)
def test_a_value_that_no_type_holds_is_named(write_job: WriteJob, text: str, expected: str) -> None:
    found = problems(write_job("odd", text=f"name: odd\nsource: {{{text}}}"))
    assert any(problem.startswith(expected) for problem in found), found


def test_words_that_dagster_keeps_for_itself_are_no_names(write_job: WriteJob) -> None:
    from dagster._core.definitions.utils import DISALLOWED_NAMES

    for word in sorted(DISALLOWED_NAMES):
        if word.islower():
            (problem,) = problems(write_job("words", name=word))
            assert problem.startswith(f"name: {word!r} is a word of Python's or Dagster's own")


def test_a_home_that_is_not_there_is_a_path_like_any_other(write_job: WriteJob) -> None:
    job = load_job(str(write_job("home", source__uri="~nobody-of-that-name/x")))
    assert job.source.uri.endswith("/~nobody-of-that-name/x")
