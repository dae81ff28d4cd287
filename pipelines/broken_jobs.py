"""What Dagster shows for a job file that cannot be used: an asset that says so, beside all jobs that can.

One typo must not take every schedule down, which failing to load would do; nor may the job vanish without a word.
"""

from __future__ import annotations

import logging
import re

import xxhash
from dagster import AssetsDefinition, Failure, asset

from docmill.ops.errors import JobError
from docmill.pipelines.exit_codes import error_message
from docmill.pipelines.job_files import JobFile
from docmill.pipelines.logs import without_secrets

log = logging.getLogger(__name__)

GROUP = "broken_job_files"


def broken_job_asset(file: JobFile, error: JobError) -> AssetsDefinition:
    """A stand-in whose description lists the file's problems. Materialising it fails with them."""
    message = error_message(error)
    log.error("job file %s cannot be used: %s", file, message)
    name = re.sub(r"\W", "_", file.name, flags=re.ASCII)  # what Dagster allows in a key of an asset
    if name != file.name:  # `a-b.yaml` and `a_b.yaml` may both be broken
        name = f"{name}_{xxhash.xxh3_64_hexdigest(str(file.path).encode())[:6]}"
    problems = "\n".join(f"- `{without_secrets(problem)}`" for problem in error.problems)

    @asset(
        key=[GROUP, name],
        group_name=GROUP,
        description=f"**{file} cannot be used. Its assets are missing until it is mended:**\n\n{problems}",
        kinds={"yaml"},
    )
    def broken_job_file() -> None:
        raise Failure(message, allow_retries=False)

    return broken_job_file
