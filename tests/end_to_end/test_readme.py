"""The README, done: a new user's commands one after the other, each through a shell and as it is written there.

The first job runs on the real vLLM, over rows with other column names than ours; the second has its documents in a real
S3 server and the fake engine in the place of the README's model. Dagster's commands run in tests/pipelines.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
import s3fs
import yaml
from readme import README, ROOT, Shell, handed_over, readme_blocks, readme_commands, told, told_block
from servers.ceph_server import CephServer

from docmill.pipelines.exit_codes import ExitCode
from docmill.pipelines.job_files import load_job

DAY = "2026-11-20"
NOT_RUN = {
    "make test": "it runs this",
    "make EXTRA=gpu demo": "gigabytes of CUDA; what it would do is looked at below",
    "make faults RUNS=100": "hours; tests/faults/test_kills.py kills a dozen times with the same harness",
    "make bench NAME=durability": "half an hour, beside nothing else; a shorter benchmark runs below",
    "make kernels": "puts a binary into the checkout; tests/kernels/test_build.py compiles the same for itself",
}


def test_every_command_is_executed_by_a_test_or_has_a_reason_not_to_be() -> None:
    executed = [command for [command, *_] in handed_over("told")]
    # Without arguments it is only spoken of: "Exit codes of `docmill run`".
    missing = [
        command
        for command in readme_commands()
        if command not in [*executed, *NOT_RUN]
        and not (len(command.split()) <= 2 and any(each.startswith(f"{command} ") for each in executed))
    ]
    assert missing == [], "let a test hand told(command) to a shell, or say in NOT_RUN why not"
    assert [command for command in NOT_RUN if command not in readme_commands() or command in executed] == []
    named = [path for reason in NOT_RUN.values() for path in re.findall(r"tests/\S+\.py", reason)]
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_block_of_code_is_taken_by_a_test() -> None:
    taken = list(handed_over("told_block"))
    missing = [
        block
        for language, block in readme_blocks()
        if not any(each == language and all(word in block for word in words) for each, *words in taken)
    ]
    assert missing == [], "let a test execute told_block(language, words)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("new-user")


@pytest.fixture(scope="module")
def user(folder: Path) -> Shell:
    return Shell(folder, folder / "programs", DOCMILL_HOME=str(folder / "home"), OMP_NUM_THREADS="1")


@pytest.fixture(scope="module")
def checkout(folder: Path) -> Shell:
    """Where `make` is called; few documents for what counts them by a variable."""
    few = {"DOCMILL_DEMO_DOCUMENTS": "8", "DOCUMENTS": "20"}
    home = str(folder / "home")
    return Shell(ROOT, folder / "programs-of-make", DOCMILL_HOME=home, OMP_NUM_THREADS="1", **few)


def test_make_names_what_there_is(checkout: Shell) -> None:
    assert {line.split()[1] for line in checkout.run(told("make")).splitlines()} >= {
        "demo",
        "test",
        "ui",
        "bench",
    }
    names = set(
        checkout.run(told("make bench"), exit_code=2).partition("NAME is one of: ")[2].split(".")[0].split()
    )
    in_the_table = set(re.findall(r"^\| .* \| `(\w+)` \|$", README, re.MULTILINE))
    assert in_the_table
    assert in_the_table <= names
    assert [name for name in names if not (ROOT / f"tests/benchmarks/{name}.py").exists()] == []
    would_do = checkout.run(f"{shutil.which('make')} --dry-run EXTRA=gpu demo")
    assert "-r requirements/gpu.txt" in would_do
    assert would_do.rstrip().endswith(".venv/bin/docmill demo")


@pytest.mark.slow
def test_a_benchmark_leaves_its_figures(checkout: Shell, folder: Path) -> None:
    command = told("make bench NAME=…", {"…": "restore"})
    checkout.run(f"{command} BENCH_ARGS='--requests 60 120 --out {folder}'")
    result = json.loads((folder / "restore.json").read_text())
    assert [size["ok"] for size in result["sizes"]] == [60, 120]
    assert result["machine"]["cpu_count"] == os.cpu_count()


@pytest.mark.slow
@pytest.mark.vllm
def test_the_demo_answers_and_its_answers_are_right(checkout: Shell, folder: Path) -> None:
    printed = checkout.run(told("make demo"))
    assert re.search(r"translations +8 +8 +0 +0", printed)
    assert (folder / f"home/demo/answers/_docmill/dt={DAY}/report.html").exists()
    assert re.search(r"^ok +labels +\d", checkout.run(told("make demo-accuracy")), re.MULTILINE)


@pytest.fixture(scope="module")
def answered(user: Shell, folder: Path) -> Path:
    """The README's first job, run on the real vLLM."""
    (folder / "reviews.yaml").write_text(told_block("yaml", "name: reviews"))
    reviews = pl.DataFrame(
        {
            "review_id": [11, 12, 13, 14],
            "body": ["Die Lieferung kam zu spät.", "Rechnung 4711 ist falsch.", "", "产品很好。"],
            "stars": [2, 1, None, 5],
            "internal_note": ["not", "carried", "along", "!"],
        }
    )
    (folder / "reviews" / "2026").mkdir(parents=True)
    reviews.head(3).write_parquet(folder / "reviews" / "first.parquet")
    reviews.tail(1).write_parquet(folder / "reviews" / "2026" / "second.parquet")
    printed = user.run(told("docmill run reviews.yaml"))
    assert re.search(r"english +4 +3 +0 +1", printed)
    return folder


@pytest.mark.slow
@pytest.mark.vllm
def test_each_row_has_its_answers_with_its_own_id_and_carried_columns(answered: Path) -> None:
    for task, column in (("english", "translation"), ("topic", "label"), ("gist", "summary")):
        answers = pl.read_parquet(f"{answered}/answers/{task}/**/*.parquet").sort("review_id")
        assert answers["review_id"].to_list() == [11, 12, 13, 14]
        assert answers["stars"].to_list() == [2, 1, None, 5]
        assert answers["status"].to_list() == ["ok", "ok", "skipped", "ok"]
        assert answers[column].is_null().to_list() == [False, False, True, False]
        assert "internal_note" not in answers.columns
        assert (answered / "answers" / task / "2026" / "second.parquet").exists()
    [report] = (answered / "answers/_docmill").rglob("report.json")
    for task, figures in json.loads(report.read_text())["tasks"].items():
        assert figures["counts"] == {"rows": 4, "ok": 3, "failed": 0, "skipped": 1}, task
        assert figures["errors"] == {"text_empty": 1}
        assert figures["usd"] > 0


@pytest.mark.slow
@pytest.mark.vllm
def test_the_answers_are_shown_and_read_as_the_readme_says(
    user: Shell, answered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Rechnung 4711" in user.run(told("docmill show reviews.yaml"))
    monkeypatch.chdir(answered)
    lazy = executed(told_block("python", "scan_parquet"))
    assert lazy.filter(pl.col("status") == "ok").collect().height == 3
    with duckdb.connect() as connection:
        rows = connection.sql(told_block("sql")).fetchall()
    assert sum(count for _, count in rows) == 4
    assert {label for label, _ in rows} <= {"delivery", "billing", "warranty", None}


def executed(code: str) -> Any:
    """What a block calls `answers`."""
    names: dict[str, Any] = {}
    exec(code, names)
    return names["answers"]


@pytest.fixture(scope="module")
def write_messages(ceph_server: CephServer) -> Callable[[str, list[str]], None]:
    """Puts a day's only shard into the README's bucket."""
    replace(ceph_server.s3, bucket="my-bucket").create_bucket()
    store = s3fs.S3FileSystem(**ceph_server.s3.storage_options())

    def write(day: str, texts: list[str]) -> None:
        with store.open(f"my-bucket/messages/dt={day}/part-0000.parquet", "wb") as file:
            pl.DataFrame({"id": range(len(texts)), "text": texts}).write_parquet(file)

    return write


@pytest.fixture(scope="module")
def my_job(
    user: Shell, folder: Path, ceph_server: CephServer, write_messages: Callable[[str, list[str]], None]
) -> Path:
    """The README's second job, with another model in an engine that takes its time; and the keys to its bucket."""
    write_messages("2026-11-19", ["Die Lieferung kam zu spät."] * 12)
    write_messages(DAY, [f"Rechnung {number} ist falsch." for number in range(300)])
    s3 = ceph_server.s3
    keys = {"KEY_ID=…": f"KEY_ID={s3.access_key}", "ACCESS_KEY=…": f"ACCESS_KEY={s3.secret_key}"}
    user.export(told("export AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=…", keys))
    user.export(told("export AWS_ENDPOINT_URL=https://…", {"https://…": s3.endpoint_url}))
    path = folder / "my-job.yaml"
    first, differing = (
        yaml.safe_load(told_block("yaml", words)) for words in ("name: reviews", "my-bucket/messages")
    )
    path.write_text(yaml.safe_dump(first | differing))
    as_told = load_job(str(path))
    assert (as_told.engine.max_model_len, as_told.model.source) == (16384, differing.pop("model")["source"])
    engine = {"engine": {"kind": "fake", "extra": {"step_seconds": 0.3}}}
    path.write_text(yaml.safe_dump(first | differing | engine, sort_keys=False))
    return path


@pytest.mark.slow
@pytest.mark.s3
def test_a_job_in_a_bucket_is_interrupted_watched_and_finished(user: Shell, my_job: Path) -> None:
    assert "s3://my-bucket/messages: 2 days" in user.run(told("docmill doctor my-job.yaml"))
    with user.started(told("docmill run my-job.yaml --partition 2026-11-20")) as run:
        assert run.stdout is not None
        assert any(line.startswith("running: 0 of 300") for line in run.stdout)
        time.sleep(1.5)  # of the five that the engine takes
        os.killpg(run.pid, signal.SIGINT)
        run.communicate(timeout=60)
        assert run.returncode == ExitCode.INTERRUPTED
    with user.started(told("docmill status my-job.yaml --partition 2026-11-20 --watch")) as watching:
        assert watching.stdout is not None
        assert "interrupted; nobody works on it" in watching.stdout.readline()
        printed = user.run(told("docmill run my-job.yaml --partition 2026-11-20"))
        assert re.search(r"topic +300 +300 +0 +0", printed)
        watched, _ = watching.communicate(timeout=60)
        assert watched.splitlines()[-1].startswith(f"reviews, dt={DAY}: finished")
        assert watching.returncode == 0
    replayed = user.run(told("docmill replay my-job.yaml --partition 2026-11-20"))
    assert "nothing failed for good" in replayed


@pytest.mark.slow
@pytest.mark.s3
def test_a_job_in_a_bucket_is_priced_tuned_and_reported(
    user: Shell,
    my_job: Path,
    write_messages: Callable[[str, list[str]], None],
    ceph_server: CephServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reported = user.run(told("docmill report my-job.yaml --from 2026-11-01 --to 2026-11-20"))
    assert re.search(r"all +300 +0 +900", reported)
    assert "no finished run of 2026-11-19" in reported
    user.run(told("docmill report my-job.yaml --csv days.csv"))
    assert pl.read_csv(my_job.with_name("days.csv"))["task"].to_list() == ["english", "topic", "gist"]

    for name, value in ceph_server.s3.env().items():
        monkeypatch.setenv(name, value)
    assert executed(told_block("python", "scan_answers")).collect()["id"].to_list() == list(range(300))

    write_messages(DAY, [f"Lampe {number} ist defekt." for number in range(12)])
    planned = user.run(told("docmill plan my-job.yaml --partition 2026-11-20"))
    assert re.search(r"cost +0\.\d+ USD", planned)
    assert re.search(r"topic +12 +0", planned)
    tuned = user.run(told("docmill tune my-job.yaml --partition 2026-11-20"))
    assert re.search(r"sample +12 of 12 documents", tuned)


def test_a_template_is_a_job_of_ones_own(user: Shell, folder: Path) -> None:
    (folder / "new").mkdir()
    command = told("docmill new TEMPLATE my-job.yaml", {"TEMPLATE": "topics"})
    assert "next: docmill doctor my-job.yaml" in user.run(f"cd new && {command}")
    assert load_job(str(folder / "new/my-job.yaml")).tasks["topic"].kind == "classify"
