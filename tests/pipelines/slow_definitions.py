"""What Dagster loads in tests of interrupted steps: all jobs of DOCMILL_JOBS, answered by the slow engine."""

from __future__ import annotations

import slow_docmill  # noqa: F401 - it stands beside this file, and puts the slow engine in

from docmill.pipelines.definitions import defs

__all__ = ["defs"]
