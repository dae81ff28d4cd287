"""What is wrong with a job, each in one line that starts with its place: `tasks.classifications.labels: ...`."""

from __future__ import annotations

import difflib
import keyword
import types
import typing
from collections.abc import Iterable, Set
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from docmill.data.layout import Layout
from docmill.data.records import Partition
from docmill.ops.job import DemoCorpus, DistributionsCorpus, Job
from docmill.pipelines.job_text import place

_LONGEST_VALUE = 60
# Dagster refuses them as names of its jobs, and one refused job takes the whole code location down.
_DAGSTER_WORDS = frozenset(
    "context conf config meta arg_dict dict input_arg_dict output_arg_dict int str float bool input output type".split()
) | frozenset(keyword.kwlist)


def did_you_mean(name: object, allowed: Iterable[str]) -> str:
    """The end of a message about an unknown name: the closest one, if any is close, and all there are."""
    names = list(allowed)
    close = difflib.get_close_matches(str(name), names, n=1)
    return (f"did you mean {close[0]!r}? Allowed: " if close else "allowed: ") + ", ".join(names)


def describe_invalid(error: ValidationError, from_environment: set[str]) -> list[str]:
    """Lines for what pydantic found. Values that came from the environment are not repeated."""
    return [_describe(details, from_environment) for details in error.errors(include_url=False)]


def combination_problems(job: Job, from_environment: Set[str]) -> list[str]:
    """What only shows when settings are seen together, and the job's own model cannot know."""
    source, problems = job.source, []
    if job.name in _DAGSTER_WORDS:
        problems.append(f"name: {job.name!r} is a word of Python's or Dagster's own; choose another")
    if isinstance(source.generate, DemoCorpus) and source.partition_key != "dt":
        problems.append("source.partition_key: the demo corpus lies in folders `dt=...`; leave the key out")
    if source.partition_every == "hour" and (
        isinstance(source.generate, DemoCorpus) or not source.partition_key
    ):
        lies = "the demo corpus lies in days" if source.partition_key else "the whole source is one partition"
        problems.append(f"source.partition_every: {lies}; leave the key out")
    if isinstance(source.generate, DistributionsCorpus) and source.partition_key is not None:
        problems.append("source.partition_key: the distributions are one partition; set it to null")
    if source.partition_key and source.generate is None and source.start_date is None:
        problems.append(
            f"source.start_date: is missing. Say the first day that lies under {source.partition_key}=..., "
            f"or set source.partition_key: null if the source is not cut into {source.period.name}s"
        )
    if job.schedule is not None and not _is_cron(job.schedule.cron):
        problems.append(
            f"schedule.cron: {job.schedule.cron!r} is no cron string; expected minute, hour, day of the month, "
            'month and day of the week, e.g. "30 2 * * *" for every night at half past two'
        )
    problems += [
        f"owners[{index}]: {owner!r} is no owner; expected a team such as team:search, or an e-mail address"
        for index, owner in enumerate(job.owners)
        if not _is_owner(owner)
    ]
    if job.on_failure and job.on_failure.url.get_secret_value() and "on_failure.url" not in from_environment:
        problems.append(
            "on_failure.url: whoever knows it may post there, so it does not belong in a job file; put it into an "
            "environment variable, and write url: ${NAME}"
        )
    if len(set(source.carry)) < len(source.carry):
        problems.append("source.carry: a column stands more than once; list each once")
    # Shards of an unpartitioned source are all files below it, and a task's folder could be the source itself.
    source_uri, output_uri = source.uri.rstrip("/") + "/", job.output.uri.rstrip("/") + "/"
    if source.partition_key is None and output_uri.startswith(source_uri) and output_uri != source_uri:
        problems.append("output.uri: lies below source.uri; the next run would read the answers as documents")
    for task in job.tasks:
        answers = Layout(job.output.uri, Partition()).answers_folder(task) + "/"
        if source_uri.startswith(answers):
            problems.append(f"output.uri: answers of task {task!r} would be written over the documents")
    return problems


def _is_cron(cron: str) -> bool:
    from dagster._utils.schedules import is_valid_cron_string  # as Dagster itself will look at it

    return is_valid_cron_string(cron)


def _is_owner(owner: str) -> bool:
    from dagster._core.definitions.utils import is_valid_owner  # the same: one it refuses takes all jobs down

    return is_valid_owner(owner)


def _describe(details: ErrorDetails, from_environment: set[str]) -> str:
    location, kind, context = details["loc"], details["type"], details.get("ctx", {})
    where = place(*_without_tags(location))
    value = "" if where in from_environment else _shown(details["input"])
    if kind == "extra_forbidden":
        return f"{where}: there is no such key; {did_you_mean(location[-1], _fields_at(location))}"
    if kind == "missing":
        return f"{where}: is missing"
    if kind == "union_tag_not_found":
        return f"{where}.kind: is missing. Allowed: {', '.join(_tags_at(location))}"
    if kind == "union_tag_invalid":
        return f"{where}.kind: there is no kind {context['tag']!r}; {did_you_mean(context['tag'], _tags_at(location))}"
    if kind in ("value_error", "assertion_error"):
        return f"{where}: {context['error']}" if where else str(context["error"])
    if kind == "literal_error":
        return f"{where}: expected {context['expected']}{value}"
    if kind == "string_type" and not isinstance(details["input"], (dict, list, type(None))):
        return (
            f"{where}: expected text{value}; put it in quotes (YAML reads yes, no, numbers and dates as such)"
        )
    if kind == "string_too_short" and not details["input"]:
        return f"{where}: is empty"
    message = details["msg"].removeprefix("Input should be ")
    return f"{where}: expected {message}{value}"


def _shown(value: object) -> str:
    if isinstance(value, (dict, list)):
        return ", got a mapping" if isinstance(value, dict) else ", got a list"
    written = repr(value)
    return f", got {written if len(written) <= _LONGEST_VALUE else written[:_LONGEST_VALUE] + '...'}"


def _without_tags(location: tuple[int | str, ...]) -> list[int | str]:
    """The location as it stands in the file. Pydantic adds the chosen `kind` of a task or of `generate`."""
    parts = list(location)
    if len(parts) > 2 and (parts[0] == "tasks" or parts[:2] == ["source", "generate"]):
        del parts[2]
    return [
        part for part in parts if not str(part).startswith(("literal[", "tuple["))
    ]  # of "one of these types"


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    """Keys that the mapping around `location` may have."""
    found = _annotation_at(location[:-1])
    if typing.get_origin(found) in (typing.Union, types.UnionType):  # a part that may be left out
        found = next((choice for choice in typing.get_args(found) if choice is not type(None)), None)
    return list(found.model_fields) if isinstance(found, type) and issubclass(found, BaseModel) else []


def _tags_at(location: tuple[int | str, ...]) -> list[str]:
    return list(_by_kind(_annotation_at(location)))


def _annotation_at(location: tuple[int | str, ...]) -> Any:
    annotation: Any = Job
    for part in location:
        annotation = _step(annotation, part)
    return annotation


def _step(annotation: Any, part: int | str) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation.model_fields[str(part)].annotation
    if typing.get_origin(annotation) is dict:
        return typing.get_args(annotation)[1]
    return _by_kind(annotation).get(str(part))


def _by_kind(annotation: Any) -> dict[str, Any]:
    """`kind` -> model, of a union of models that are told apart by it; also inside Annotated and Optional."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _by_kind(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return {
            kind: model for choice in typing.get_args(annotation) for kind, model in _by_kind(choice).items()
        }
    if (
        isinstance(annotation, type)
        and issubclass(annotation, BaseModel)
        and "kind" in annotation.model_fields
    ):
        return dict.fromkeys(typing.get_args(annotation.model_fields["kind"].annotation), annotation)
    return {}
