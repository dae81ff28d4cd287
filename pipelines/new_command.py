"""`docmill new`: a job file of one's own from a template."""

from __future__ import annotations

import json
import re
from pathlib import Path

from docmill.pipelines.console import print_json, stdout_console
from docmill.pipelines.exit_codes import WrongUsage
from docmill.pipelines.job_files import load_job
from docmill.pipelines.job_problems import did_you_mean

FOLDER = Path(__file__).parent / "templates"
SUFFIX = ".yaml.j2"


def template_names() -> list[str]:
    """What `docmill new` takes."""
    return sorted(
        path.name.removesuffix(SUFFIX) for path in FOLDER.glob(f"*{SUFFIX}") if path.stem != "base.yaml"
    )


def new_command(
    template: str,
    file: str | None,
    *,
    source: str,
    output: str,
    id_column: str,
    text_column: str,
    as_json: bool,
) -> None:
    """Write the file, unless one is there. What was written is read once, so that it is known to be a job."""
    if template not in template_names():
        raise WrongUsage(f"there is no template {template!r}; {did_you_mean(template, template_names())}")
    path = Path(file or f"{template}.yaml")
    if path.exists():
        raise WrongUsage(f"{path} is there already; name another file")
    if not path.parent.is_dir():
        raise WrongUsage(f"there is no folder {path.parent}; make it, or name another file")
    text = render(
        template,
        file=str(path),
        name=job_name(path.stem),
        source=source,
        output=output,
        id_column=id_column,
        text_column=text_column,
    )
    path.write_text(text)
    try:
        job = load_job(str(path))
    except BaseException:
        path.unlink()
        raise
    if as_json:
        print_json({"file": str(path), "job": job.name, "tasks": list(job.tasks)})
    else:
        stdout_console().print(f"wrote {path}; next: docmill doctor {path}", soft_wrap=True)


def render(template: str, *, file: str, **values: str) -> str:
    """The text of a job file. Values are quoted where YAML would read them as something else."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        undefined=StrictUndefined,
        autoescape=False,
        keep_trailing_newline=True,
    )
    quoted = {name: _as_yaml(value) for name, value in values.items()}
    return environment.get_template(f"{template}{SUFFIX}").render(file=file, **quoted)


def job_name(stem: str) -> str:
    """The file's name as a job may be called."""
    name = re.sub(r"[^a-z0-9]+", "_", stem.lower()).strip("_")
    return name if name[:1].isalpha() else f"job_{name}".rstrip("_")


def _as_yaml(value: str) -> str:
    """As it is where YAML reads it so, else in quotes."""
    import yaml

    try:
        is_plain = yaml.safe_load(f"[{value}]") == [value]
    except yaml.YAMLError:
        is_plain = False
    return value if is_plain else json.dumps(value, ensure_ascii=False)
