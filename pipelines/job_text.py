"""The text of a job file: strict YAML, values from the environment, and no secrets.

What PyYAML lets pass and a reader would trip over is an error here: a key that stands twice, a value that holds a
password. `${NAME}` and `${NAME:-default}` in a string stand for environment variables; `$${` stands for `${`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

_REFERENCE = re.compile(r"\$(?:\$(?=\{)|\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\})")
_MALFORMED = re.compile(r"(?<!\$)\$\{(?![A-Za-z_][A-Za-z0-9_]*(?::-[^}]*)?\})")
_SECRET_KEY = re.compile(
    r"(?:^|_)(?:secret|password|passwd|credentials?|private_key|api_key|access_key|access_key_id|secret_key"
    r"|(?:auth|access|session|api|hf|bearer)_token)$|^token$",
    re.IGNORECASE,
)
_SECRET_IN_URI = re.compile(r"://[^/@\s]+:[^/@\s]+@")


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that stands twice; PyYAML would take the last one without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Hashable, int] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key != "<<":
                line = key_node.start_mark.line + 1
                if key in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {key!r} stands twice, in lines {seen[key]} and {line}; keep one",
                        problem_mark=key_node.start_mark,
                    )
                seen[key] = line
        return super().construct_mapping(node, deep=deep)

    def construct_yaml_timestamp(self, node: yaml.ScalarNode) -> Any:
        """As PyYAML does, which lets the ValueError of a 30th of February out."""
        try:
            return super().construct_yaml_timestamp(node)
        except ValueError as error:
            raise yaml.MarkedYAMLError(
                problem=f"{node.value} is no date: {error}", problem_mark=node.start_mark
            ) from error


_StrictLoader.add_constructor("tag:yaml.org,2002:timestamp", _StrictLoader.construct_yaml_timestamp)


@dataclass
class JobText:
    """A file's values with the environment put in. `from_environment` are the places whose values came from there."""

    values: Any
    problems: list[str] = field(default_factory=list)
    from_environment: set[str] = field(default_factory=set)


def read_job_text(content: str, environment: Mapping[str, str] = os.environ) -> JobText:
    """Parse a job file. What is wrong with it is in `problems`; then the values are as far as they could be read."""
    try:
        values = yaml.load(content, _StrictLoader)
    except yaml.YAMLError as error:
        return JobText(None, [_yaml_problem(error)])
    if not isinstance(values, dict):
        return JobText(
            None, [f"the file must be a mapping of keys (name, source, tasks, ...), it is {_kind(values)}"]
        )
    return with_environment(values, environment)


def with_environment(values: dict[str, Any], environment: Mapping[str, str] = os.environ) -> JobText:
    """What has been parsed, with the environment's values put in and secrets refused."""
    text = JobText(values)
    text.values = _interpolate(values, "", text, environment)
    text.problems += _secrets(text.values)
    return text


def strict_problems(content: str) -> list[str]:
    """What a job file may not have and other readers of YAML let pass, e.g. a key that stands twice."""
    try:
        list(yaml.load_all(content, _StrictLoader))
    except yaml.YAMLError as error:
        return [_yaml_problem(error)]
    return []


def place(*parts: object) -> str:
    """How a problem says where it is: `tasks.classifications.labels[2]`."""
    written = ""
    for part in parts:
        written += f"[{part}]" if isinstance(part, int) else f".{part}" if written else str(part)
    return written


def _yaml_problem(error: yaml.YAMLError) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return f"{where}not readable as YAML: {problem or error}"


def _interpolate(value: Any, where: str, text: JobText, environment: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _interpolate(item, inside(where, key), text, environment) for key, item in value.items()}
    if isinstance(value, list):
        return [_interpolate(item, f"{where}[{i}]", text, environment) for i, item in enumerate(value)]
    if not isinstance(value, str) or "${" not in value:
        return value
    if _MALFORMED.search(value):
        text.problems.append(
            f"{where}: a `${{` is not closed or names no variable; write ${{NAME}} or ${{NAME:-default}}, "
            "and $${ for the characters themselves"
        )
        return value

    def resolve(match: re.Match[str]) -> str:
        name, default = match.group(1), match.group(2)
        if name is None:
            return "$"
        text.from_environment.add(where)
        found = environment.get(name) or default  # empty counts as not set, as in a shell's ${NAME:-...}
        if found is None:
            text.problems.append(
                f"{where}: the environment variable {name} is not set; set it, or write ${{{name}:-default}}"
            )
        return found or ""

    return _REFERENCE.sub(resolve, value)


def _secrets(values: dict[str, Any]) -> list[str]:
    problems = []
    for where, key, value in _walk(values, ""):
        if isinstance(key, str) and _SECRET_KEY.search(key):
            problems.append(
                f"{where}: secrets do not belong in a job file. Take the key out and set the store's own environment "
                "variables (for S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
            )
        elif isinstance(value, str) and _SECRET_IN_URI.search(value):
            problems.append(
                f"{where}: the URI holds a password; take it out and set the store's own environment variables"
            )
    return problems


def _walk(value: Any, where: str) -> Iterator[tuple[str, object, Any]]:
    items: list[tuple[object, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    for key, item in items:
        place_of_item = inside(where, key)
        yield place_of_item, key, item
        if key != "json_schema":  # a schema may well describe a field `password`
            yield from _walk(item, place_of_item)


def inside(where: str, key: object) -> str:
    """The place of a key or an index within another place."""
    return f"{where}{place(key)}" if isinstance(key, int) else place(where, key) if where else str(key)


def _kind(value: object) -> str:
    return "empty" if value is None else f"a {type(value).__name__}"
