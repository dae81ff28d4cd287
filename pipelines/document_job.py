"""A job as Dagster sees it: its assets with their checks, the run over them, and what starts that.

Jobs come from two sides and are the same here: docmill's own job files, which `definitions` loads, and a `defs.yaml` in
anybody's Dagster project, which names `DocumentJob` as its type and has the keys of a job file under `attributes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from dagster import (
    Component,
    ComponentLoadContext,
    ComponentTypeSpec,
    DagsterInvalidDefinitionError,
    Definitions,
    ResolutionContext,
    Resolvable,
    scaffold_with,
)
from pydantic import BaseModel

from docmill.ops.errors import JobError
from docmill.ops.job import Job
from docmill.pipelines.assets import job_assets, job_run
from docmill.pipelines.exit_codes import error_message
from docmill.pipelines.failure_sensor import failure_sensor
from docmill.pipelines.job_attributes import JobAttributes
from docmill.pipelines.job_files import JobFile, check_job
from docmill.pipelines.job_scaffolder import JobScaffolder
from docmill.pipelines.job_text import inside, strict_problems, with_environment
from docmill.pipelines.timetable import arrival_sensor, job_schedule


@scaffold_with(JobScaffolder)
@dataclass(frozen=True)
class DocumentJob(Component, Resolvable):
    """Asks a language model about every document of a source, and writes the answers as Parquet.

    Makes an asset for the documents, one for each task, and one for the report, with checks; a job of the attribute
    `name` over them; a schedule and sensors where the attributes have `schedule`, `arrival` and `on_failure`.

    The attributes are the keys of a docmill job file. Relative paths start from the folder of the `defs.yaml`.
    `${NAME}` and `${NAME:-default}` stand for environment variables, and Dagster's `{{ ... }}` works in every value.
    Secrets never stand here: the stores' own environment variables are read.
    """

    job: Job

    @classmethod
    def get_spec(cls) -> ComponentTypeSpec:
        """What `dg list components` filters by."""
        return ComponentTypeSpec(
            tags=["llm", "batch-inference", "vllm", "parquet"],
            produces=["asset", "asset_check", "job", "schedule", "sensor"],
        )

    @classmethod
    def model(cls) -> type[BaseModel]:
        """Dagster's default would be a model of the field `job`."""
        return JobAttributes

    @classmethod
    def load(cls, attributes: BaseModel | None, context: ComponentLoadContext) -> Self:
        """Without any attributes Dagster would try `cls()`; here each missing one is named."""
        return super().load(attributes or JobAttributes({}), context)

    @classmethod
    def resolve_from_model(cls, context: ResolutionContext, model: BaseModel) -> Self:
        """From the attributes as they came. Raises with all problems, in the words of `docmill run`."""
        assert isinstance(model, JobAttributes)
        source = context.source_position_tree  # none where the attributes come from Python
        path = Path(source.position.filename if source else "defs.yaml").absolute()
        rendered: set[str] = set()
        text = with_environment(_render(model.root, "", context, rendered))
        text.from_environment |= rendered
        if source:
            text.problems += strict_problems(path.read_text(encoding="utf-8"))
        try:
            return cls(check_job(JobFile(path, path.parent), text))
        except JobError as error:
            raise DagsterInvalidDefinitionError(error_message(error)) from None

    def build_defs(self, context: ComponentLoadContext) -> Definitions:  # noqa: ARG002 - Dagster's signature
        """What Dagster asks a component for."""
        return self.definitions()

    def definitions(self) -> Definitions:
        """All that the job is in Dagster."""
        run = job_run(self.job)
        return Definitions(
            assets=job_assets(self.job),
            jobs=[run],
            schedules=[found for found in [job_schedule(self.job, run)] if found],
            sensors=[found for found in [arrival_sensor(self.job, run), failure_sensor(self.job)] if found],
        )


def _render(value: Any, where: str, context: ResolutionContext, rendered: set[str]) -> Any:
    """The value with Dagster's templates put in; adds their places to `rendered`. Other strings stay as they are."""
    if isinstance(value, dict):
        return {
            key: _render(item, inside(where, key), context.at_path(key), rendered)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_render(item, inside(where, i), context.at_path(i), rendered) for i, item in enumerate(value)]
    if isinstance(value, str) and "{{" in value:
        rendered.add(where)
        return context.resolve_value(value)
    return value
