"""`dg scaffold defs DocumentJob my_job`: a `defs.yaml` that runs as it stands, to start a job of one's own from."""

from __future__ import annotations

import re
from pathlib import Path

from dagster import Scaffolder, ScaffoldRequest

TEMPLATE = Path(__file__).parent / "scaffolded_job.yaml"


class JobScaffolder(Scaffolder):
    """Fills in the template. It is YAML, also for `--format python`."""

    def scaffold(self, request: ScaffoldRequest) -> None:
        """The job gets the folder's name, as far as a job may have it."""
        name = re.sub(r"[^a-z0-9]+", "_", request.target_path.name.lower()).strip("_")
        if not name[:1].isalpha():
            name = f"job_{name}".strip("_")
        text = TEMPLATE.read_text(encoding="utf-8").replace("my_job", name)
        (request.target_path / "defs.yaml").write_text(text, encoding="utf-8")
