"""A job in a `defs.yaml`: the same job as in a job file, with the same words about the same mistakes."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from dagster import AssetKey, DagsterInvalidDefinitionError, Definitions
from dagster.components.core.component_tree import ComponentTreeException
from dagster.components.testing import create_defs_folder_sandbox
from jsonschema import Draft202012Validator
from readme import ROOT, Shell, told, told_block

from docmill.ops.errors import JobError
from docmill.ops.job import Job
from docmill.pipelines.document_job import DocumentJob
from docmill.pipelines.job_attributes import JobAttributes
from docmill.pipelines.job_files import BUNDLED_FOLDER, load_job

TYPE = "docmill.pipelines.document_job.DocumentJob"
DAY = "2026-11-20"

# Dagster reads every defs.yaml with a function of pydantic 1; it is for Dagster to mend.
pytestmark = pytest.mark.filterwarnings("ignore:`parse_obj_as` is deprecated")

WriteJob = Callable[..., Path]


class Defs:
    """The folder `defs/tickets` of a project, and its `defs.yaml` as Dagster loads it."""

    def __init__(self, folder: Path, load: Callable[[Path], Any]):
        self.folder = folder
        self._load = load

    def write(self, attributes: dict[str, Any] | str) -> None:
        """Attributes as values, or as the text of the whole file."""
        text = attributes
        if not isinstance(text, str):
            text = yaml.safe_dump({"type": TYPE, "attributes": attributes}, sort_keys=False)
        self.folder.mkdir(exist_ok=True)
        (self.folder / "defs.yaml").write_text(text)

    def load(self, attributes: dict[str, Any] | str) -> DocumentJob:
        self.write(attributes)
        component = self._load(self.folder)
        assert isinstance(component, DocumentJob)
        return component

    def problems(self, attributes: dict[str, Any] | str) -> list[str]:
        """What Dagster's error says of the file, a line each."""
        with pytest.raises(ComponentTreeException) as raised:
            self.load(attributes)
        error: BaseException | None = raised.value
        while error and not isinstance(error, DagsterInvalidDefinitionError):
            error = error.__cause__
        assert error, raised.value
        first, *problems = str(error).splitlines()
        assert "defs/tickets/defs.yaml cannot run as written" in first
        return [problem.strip() for problem in problems]


@pytest.fixture
def defs() -> Iterator[Defs]:
    """A project with an empty `defs` folder."""
    with create_defs_folder_sandbox() as sandbox:

        def load(folder: Path) -> Any:
            with sandbox.build_component_tree() as tree:
                return tree.load_component(folder)

        yield Defs(sandbox.defs_folder_path / "tickets", load)


@pytest.fixture
def values(write_job: WriteJob) -> Callable[..., dict[str, Any]]:
    """The values of a job file, changed as `write_job` changes them."""
    return lambda **changes: yaml.safe_load(write_job(**changes).read_text())


def names(definitions: Definitions) -> list[set[str]]:
    """Of the assets, the checks, the jobs, the schedules and the sensors."""
    graph = definitions.resolve_asset_graph()
    return [
        {key.to_user_string() for key in graph.get_all_asset_keys()},
        {f"{key.asset_key.to_user_string()} {key.name}" for key in graph.asset_check_keys},
        {job.name for job in definitions.jobs or []},
        {schedule.name for schedule in definitions.schedules or []},
        {sensor.name for sensor in definitions.sensors or []},
    ]


def test_a_defs_yaml_becomes_what_the_job_file_does(write_job: WriteJob, defs: Defs, hook: Any) -> None:
    path = write_job(
        schedule={"cron": "30 2 * * *"}, arrival={"look_back": 3}, on_failure={"url": "${TICKETS_HOOK}"}
    )
    of_file = DocumentJob(load_job(str(path))).definitions()
    of_defs = defs.load(yaml.safe_load(path.read_text())).definitions()
    assert names(of_defs) == names(of_file)
    assets, checks, *started = names(of_defs)
    assert assets == {"tickets/documents", "tickets/translations", "tickets/topics", "tickets/report"}
    assert "tickets/topics label_shift" in checks
    assert started == [{"tickets"}, {"tickets__schedule"}, {"tickets__arrivals", "tickets__failures"}]


def test_relative_paths_start_from_the_folder_of_the_defs_yaml(
    values: Callable[..., dict[str, Any]], defs: Defs
) -> None:
    job = defs.load(values(model={"source": "./model"})).job
    assert (job.source.uri, job.output.uri, job.model.source) == (
        str(defs.folder / "documents"),
        str(defs.folder / "answers"),
        str(defs.folder / "model"),
    )


def test_both_ways_of_naming_a_variable_work(
    values: Callable[..., dict[str, Any]], defs: Defs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TICKETS_BUCKET", "s3://tickets")
    job = defs.load(
        values(
            source__uri="${TICKETS_BUCKET}/in",
            output__uri="{{ env.TICKETS_BUCKET }}/out",
            source__generate__documents_per_day="${TICKETS_A_DAY:-7}",
            description="{{ '{{' }} a }} and {b}",
        )
    ).job
    assert (job.source.uri, job.output.uri) == ("s3://tickets/in", "s3://tickets/out")
    assert job.source.generate is not None
    assert job.source.generate.model_dump()["documents_per_day"] == 7
    assert job.description == "{{ a }} and {b}"


def test_the_readmes_file_loads(defs: Defs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_BUCKET", "tickets")
    job = defs.load(told_block("yaml", "document_job.DocumentJob")).job
    assert (job.source.uri, job.output.uri) == ("s3://tickets/messages", "s3://tickets/answers")


@pytest.mark.parametrize(
    "changes",
    [
        {"sorce": {}, "source": None},  # an unknown key, and one that is missing
        {"tasks__topics__kind": "clasify"},
        {"tasks__topics__labels": 3},
        {"engine__max_model_len": -1, "budget": {"max_usd": "much"}},
        {"schedule": "30 2 * * *"},
        {"name": "class"},  # a word of Python's: what only shows once all keys are right
        {"source__uri": "${NOT_SET_ANYWHERE}/in"},
        {"engine__extra": {"api_key": "sk-1"}},
    ],
)
def test_a_mistake_is_told_in_the_words_of_a_job_file(
    changes: dict[str, Any], write_job: WriteJob, defs: Defs
) -> None:
    path = write_job(**changes)
    with pytest.raises(JobError) as raised:
        load_job(str(path))
    attributes = yaml.safe_load(path.read_text())
    assert defs.problems(attributes) == raised.value.problems
    # `dg check` asks the schema first, and would end there in words of its own.
    assert list(Draft202012Validator(JobAttributes.model_json_schema()).iter_errors(attributes)) == []


def test_no_attributes_at_all_is_the_same_mistake(defs: Defs) -> None:
    assert defs.problems(f"type: {TYPE}") == [
        f"{key}: is missing" for key in ("name", "source", "output", "tasks")
    ]


def test_a_key_that_stands_twice_is_refused(values: Callable[..., dict[str, Any]], defs: Defs) -> None:
    text = yaml.safe_dump({"type": TYPE, "attributes": values()})
    [problem] = defs.problems(text.replace("  name: tickets", "  name: other\n  name: tickets"))
    assert "the key 'name' stands twice" in problem


def test_a_value_from_a_template_is_not_repeated(
    values: Callable[..., dict[str, Any]], defs: Defs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TICKETS_DEVICE", "hunter2")
    problems = defs.problems(values(engine__device="{{ env.TICKETS_DEVICE }}"))
    assert problems == ["engine.device: expected 'auto', 'cpu' or 'cuda'"]


def test_the_address_of_a_hook_comes_from_the_environment_either_way(
    values: Callable[..., dict[str, Any]], defs: Defs, hook: Any
) -> None:
    job = defs.load(values(on_failure={"url": "{{ env.TICKETS_HOOK }}"})).job
    assert job.on_failure is not None
    assert job.on_failure.url.get_secret_value() == hook.url
    problems = defs.problems(values(on_failure={"url": hook.url}))
    assert problems[0].startswith("on_failure.url: whoever knows it may post there")


def test_the_schema_has_every_key_of_a_job_and_fits_the_bundled_ones() -> None:
    schema = JobAttributes.model_json_schema()
    assert schema["properties"].keys() == Job.model_fields.keys()
    assert (
        "Folders `dt=2026-11-20`" in schema["$defs"]["Source"]["properties"]["partition_key"]["description"]
    )
    assert schema["$defs"]["Source"]["properties"]["uri"]["description"].startswith("Required.")
    Draft202012Validator.check_schema(schema)
    for path in BUNDLED_FOLDER.glob("*.yaml"):
        attributes = yaml.load(path.read_text(), yaml.BaseLoader)  # dates as text, as Dagster reads them
        assert list(Draft202012Validator(schema).iter_errors(attributes)) == [], path


class Project:
    """A Dagster project of somebody who has docmill installed, and `dg` in it."""

    def __init__(self, folder: Path):
        self.folder = folder
        package = folder / "src" / "foreign"
        (package / "defs").mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "defs" / "__init__.py").touch()
        (package / "definitions.py").write_text(
            textwrap.dedent("""
                from pathlib import Path
                from dagster import definitions, load_from_defs_folder

                @definitions
                def defs():
                    return load_from_defs_folder(path_within_project=Path(__file__).parent)
                """)
        )
        (folder / "pyproject.toml").write_text(
            textwrap.dedent("""
                [project]
                name = "foreign"
                version = "0.1.0"

                [tool.dg]
                directory_type = "project"

                [tool.dg.project]
                root_module = "foreign"
                """)
        )
        self.defs_yaml = package / "defs" / "my_job" / "defs.yaml"
        self.run = dg_shell(folder, PYTHONPATH=str(folder / "src")).run


def dg_shell(folder: Path, state: Path | None = None, **variables: str) -> Shell:
    """With Dagster's own files below `state`, or else the folder."""
    home = (state or folder) / "dagster_home"
    home.mkdir()
    (home / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text())
    return Shell(folder, home / "programs", DAGSTER_HOME=str(home), **variables)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_scaffolded_job_runs_in_a_foreign_project(tmp_path: Path) -> None:
    project = Project(tmp_path / "foreign")
    project.run(told("dg scaffold defs DocumentJob my_job"))
    written = project.defs_yaml.read_text()
    # The test has no 20 seconds for the real engine; nothing else is changed.
    project.defs_yaml.write_text(written + "  engine: {kind: fake}\n")

    printed = project.run(told("dg check defs && dg launch --job my_job --partition 2026-11-20"), timeout=200)
    assert "All definitions loaded successfully" in printed
    listed = project.run("dg list defs --json 2> /dev/null")
    assert {asset["asset_key"] for asset in json.loads(listed)["assets"]} == {
        f"my_job/{name}" for name in ("documents", "translations", "topics", "report")
    }

    answers = project.folder / "data" / "my_job" / "answers"
    rows = pq.read_table(answers / "translations" / f"dt={DAY}").to_pylist()
    assert len(rows) == 40
    assert {row["status"] for row in rows} == {"ok"}

    project.defs_yaml.write_text(written.replace("  source:", "  sorce:"))
    printed = project.run("dg check defs", exit_code=1)
    assert "source: is missing" in printed
    assert "sorce: there is no such key; did you mean 'source'?" in printed


@pytest.mark.slow
def test_dg_shows_what_the_keys_are_for(tmp_path: Path) -> None:
    project = Project(tmp_path / "foreign")
    assert TYPE in project.run("dg list components --json")
    shown = project.run(told("dg utils inspect-component docmill.pipelines.document_job.DocumentJob"))
    assert "Asks a language model about every document of a source" in shown
    assert "Columns copied to every output row." in shown


@pytest.mark.slow
def test_dg_accepts_docmills_own_project(tmp_path: Path) -> None:
    assert "All definitions loaded successfully" in dg_shell(ROOT, tmp_path).run("dg check defs")


@pytest.mark.parametrize(
    ("folder", "name"), [("tickets", "tickets"), ("My-Job", "my_job"), ("2nd", "job_2nd"), ("_", "job")]
)
def test_a_scaffolded_job_has_a_name_that_a_job_may_have(folder: str, name: str) -> None:
    with create_defs_folder_sandbox() as sandbox:
        path = sandbox.scaffold_component(DocumentJob, folder)
        with sandbox.build_component_tree() as tree:
            job = tree.load_component(path, DocumentJob).job
        assert job.name == name
        assert job.output.uri == str(sandbox.project_root / "data" / name / "answers")
        assert (
            AssetKey([name, "report"])
            in DocumentJob(job).definitions().resolve_asset_graph().get_all_asset_keys()
        )
