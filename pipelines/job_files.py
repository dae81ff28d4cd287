"""From a job's YAML file to its `Job`, with every problem of the file at once.

A job is named by a path (`jobs/tickets.yaml`) or by the name of a file, without `.yaml`, in a folder of the
environment variable DOCMILL_JOBS (a list of folders, as in PATH) or among the bundled jobs in `pipelines/jobs/`. The
first of the same name counts, so a file of yours may replace a bundled one.

Relative paths (`source.uri`, `output.uri`, a `model.source` that starts with `.`, folders of `model.compress`) are
relative to the YAML file. In the bundled jobs they are relative to the current folder, since nobody wants output inside
an installed package.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from docmill.ops.errors import JobError
from docmill.ops.job import Job
from docmill.pipelines.job_problems import combination_problems, describe_invalid, did_you_mean
from docmill.pipelines.job_text import JobText, read_job_text

BUNDLED_FOLDER = Path(__file__).parent / "jobs"
FOLDERS_VARIABLE = "DOCMILL_JOBS"


@dataclass(frozen=True, slots=True)
class JobFile:
    """One job file and the folder that its relative paths start from."""

    path: Path
    base: Path

    @property
    def name(self) -> str:
        """What `docmill run` takes."""
        return self.path.stem

    def __str__(self) -> str:
        return os.path.relpath(self.path) if self.path.is_relative_to(Path.cwd()) else str(self.path)


def load_job(job: str) -> Job:
    """The job that a path or a name means. Raises `JobError` with all problems."""
    return read_job(find_job_file(job))


def load_all_jobs() -> dict[JobFile, Job | JobError]:
    """Every job that has a name here. A file that cannot be used stands with its error and harms no other."""
    loaded: dict[JobFile, Job | JobError] = {}
    owners: dict[str, JobFile] = {}
    for file in list_job_files():
        try:
            job = read_job(file)
            owner = owners.setdefault(job.name, file)
            if owner is not file:
                raise JobError(
                    str(file),
                    [f"name: {job.name!r} is already the name of the job in {owner}"],
                )
            loaded[file] = job
        except JobError as error:
            loaded[file] = error
        except Exception as error:  # noqa: BLE001 - not even a bug in reading it may take the other jobs down
            loaded[file] = JobError(
                str(file), [f"cannot be read: {type(error).__name__}: {error}; please report it"]
            )
    return loaded


def list_job_files() -> list[JobFile]:
    """All files that can be called by name, sorted by it. A folder of DOCMILL_JOBS that is not there is one of them."""
    files: dict[str, JobFile] = {}
    for folder in _user_folders():
        if not folder.is_dir():
            files.setdefault(folder.name, JobFile(folder.absolute(), folder.absolute()))
        for path in sorted((*folder.glob("*.yaml"), *folder.glob("*.yml"))):
            files.setdefault(path.stem, JobFile(path.absolute(), folder.absolute()))
    for path in BUNDLED_FOLDER.glob("*.yaml"):
        files.setdefault(path.stem, JobFile(path, Path.cwd()))
    return [files[name] for name in sorted(files)]


def find_job_file(job: str) -> JobFile:
    """The file that a path or a name means."""
    if job.endswith((".yaml", ".yml")) or "/" in job:
        path = _expanded(job)
        if not path.is_file():
            raise JobError(job, ["there is no such file"])
        return JobFile(path.absolute(), path.absolute().parent)
    files = {file.name: file for file in list_job_files()}
    if job not in files:
        raise JobError(
            job, [f"there is no job of this name; {did_you_mean(job, files)}. A path ends with .yaml"]
        )
    return files[job]


def read_job(file: JobFile) -> Job:
    """Read one file. Raises `JobError` with all problems."""
    if file.path == file.base:
        raise JobError(
            FOLDERS_VARIABLE, [f"{file} is no folder; it takes folders of job files, {os.pathsep!r} between"]
        )
    try:
        content = file.path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(str(file), [f"cannot be read: {error}"]) from error
    return check_job(file, read_job_text(content))


def check_job(file: JobFile, text: JobText) -> Job:
    """The job that the text of a file says. Raises `JobError` with all problems."""
    if text.values is None:
        raise JobError(str(file), text.problems)
    problems = list(text.problems)
    job = None
    try:
        job = Job.model_validate(_with_absolute_paths(text.values, file.base))
    except ValidationError as error:
        named = {
            problem.split(":", 1)[0] for problem in problems
        }  # a refused key is also an unknown one: say it once
        problems += [
            line
            for line in describe_invalid(error, text.from_environment)
            if line.split(":", 1)[0] not in named
        ]
    if job is not None:
        problems += combination_problems(job, text.from_environment)
    if job is None or problems:
        raise JobError(str(file), problems)
    return job


def _expanded(path: str) -> Path:
    """With `~` put in. That of a user who is not there stays as it is, as in a shell."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def _user_folders() -> list[Path]:
    return [_expanded(part) for part in os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep) if part]


def _with_absolute_paths(values: dict[str, Any], base: Path) -> dict[str, Any]:
    """The same values; paths that were relative start from `base`. Anything unexpected is left for the checks."""
    absolute = dict(values)
    for part, key in (("source", "uri"), ("output", "uri"), ("model", "source")):
        inner = absolute.get(part)
        if not isinstance(inner, dict) or not isinstance(path := inner.get(key), str):
            continue
        is_path = path.startswith((".", "~")) if part == "model" else path and "://" not in path
        if is_path:
            absolute[part] = inner | {key: os.path.normpath(base / _expanded(path))}
    model = absolute.get("model")
    if isinstance(model, dict) and isinstance(compress := model.get("compress"), dict):
        paths = {key: path for key in ("out", "keep_texts") if isinstance(path := compress.get(key), str)}
        places = {
            key: os.path.normpath(base / _expanded(path)) for key, path in paths.items() if "://" not in path
        }
        absolute["model"] = model | {"compress": compress | places}
    return absolute
