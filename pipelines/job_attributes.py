"""The `attributes` of a job's `defs.yaml`: for Dagster's tools the keys of a job file, for us any mapping.

`dg` shows these keys with their descriptions, and editors complete them. `dg check` holds the file against this schema
before docmill sees it, and ends there where it does not fit, in words that suggest no key and fall silent about tasks.
So the schema describes the keys and refuses next to nothing: `job_files.check_job` refuses, in a job file's words.
"""

from __future__ import annotations

from typing import Any

from pydantic import RootModel

from docmill.ops.job import Job

JsonSchema = dict[str, Any]

_STRING = {"type": "string"}  # stands for any value, as `${NAME}` or `{{ env.NAME }}`
_REFUSALS = frozenset(
    "required discriminator minLength minItems minimum maximum exclusiveMinimum exclusiveMaximum".split()
)


class JobAttributes(RootModel[dict[str, Any]]):
    """The mapping as it came."""

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> JsonSchema:
        """That of `Job`, opened."""
        return _open(Job.model_json_schema(*args, **kwargs))


def _open(schema: JsonSchema) -> JsonSchema:
    """The same keys and descriptions; no key has to be there, others may be, and a string fits everywhere."""
    opened: JsonSchema = {}
    required = schema.get("required", [])
    for word, value in schema.items():
        match word:
            case _ if word in _REFUSALS:
                pass
            case "properties":
                opened[word] = {
                    key: _required(_value(of_key)) if key in required else _value(of_key)
                    for key, of_key in value.items()
                }
            case "$defs":
                opened[word] = {name: _open(part) for name, part in value.items()}
            case "oneOf" | "anyOf":  # the parts of a `oneOf` no longer exclude each other
                opened["anyOf"] = [_open(part) for part in value]
            case "items" | "additionalProperties":
                if value is not False:
                    opened[word] = _value(value) if isinstance(value, dict) else value
            case "enum":
                opened["examples"] = value
            case "const":
                opened["examples"] = [value]
            case _:
                opened[word] = value
    return opened


def _value(schema: JsonSchema) -> JsonSchema:
    """Of the value of a key: opened, and it may also be a string."""
    value = _open(schema)
    if "type" in value:
        return value if value["type"] == "string" else value | {"type": [value["type"], "string"]}
    if "$ref" in value:
        return {"anyOf": [{"$ref": value.pop("$ref")}, _STRING], **value}
    if "anyOf" in value:
        return value if _STRING in value["anyOf"] else value | {"anyOf": [*value["anyOf"], _STRING]}
    return value


def _required(schema: JsonSchema) -> JsonSchema:
    return schema | {"description": f"Required. {schema.get('description', '')}".strip()}
