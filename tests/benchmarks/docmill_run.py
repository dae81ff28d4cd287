"""One run of a job by docmill, from the loaded model to the manifest. Timed by turns, see `turns.py`.

    python docmill_run.py JOB PARTITION

JOB is the job as JSON. A program of its own, so that nothing of an earlier run is left.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from turns import timed

from docmill.engine.open_engine import start_engine
from docmill.engine.tokenizer import ModelTokenizer
from docmill.ops.job import Job
from docmill.ops.partition_job import run_partition


def main(job_json: str, partition: str) -> None:
    """Where the process begins."""
    job = Job.model_validate_json(job_json)
    tokenizer = ModelTokenizer(job.model)
    engine = start_engine(job.model, job.engine)

    def run() -> dict[str, Any]:
        computed = time.process_time()
        report = run_partition(job, job.partition(partition), engine=engine, tokenizer=tokenizer)
        tokens = report.computed_tokens
        return {
            "engine_steps": engine.num_steps,
            "prompt_tokens": tokens.prompt,
            "cached_tokens": tokens.cached,
            "computed_prompt_tokens": tokens.prompt - tokens.cached,
            "output_tokens": tokens.output,
            "driver_cpu_seconds": round(time.process_time() - computed, 3),
            "device": engine.info.device,
            "versions": engine.info.versions,
        }

    try:
        engine.wait_until_loaded()
        timed(run)
    finally:
        engine.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
