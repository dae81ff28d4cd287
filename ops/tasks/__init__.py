"""The kinds of task. A new kind is a file here and a place in `AnyTask`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from docmill.ops.tasks.classify import Classify
from docmill.ops.tasks.generate import Generate
from docmill.ops.tasks.summarize import Summarize
from docmill.ops.tasks.translate import Translate

AnyTask = Annotated[Translate | Classify | Summarize | Generate, Field(discriminator="kind")]

__all__ = ["AnyTask", "Classify", "Generate", "Summarize", "Translate"]
