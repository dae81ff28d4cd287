"""From where on a run's answers want a look: `checks` of the job."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]


class CheckLimits(BaseModel):
    """What the checks of `ops.checks` let pass."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    max_failed_share: Share = 0.05
    """Of the rows that were asked about."""
    max_truncated_share: Share = 0.05
    """Of the answers: cut off at the task's token limit."""
    max_empty_share: Share = 0.01
    """Of the answers: nothing but white space."""
    max_other_language_share: Share = 0.05
    """Of a translation's answers that say enough to tell: surely in another language than its `target_language`."""
    max_label_shift: Share = 0.25
    """How many of a classification's rows have another label than they would in the days before (total variation)."""
    max_estimate_error: Annotated[float, Field(gt=0)] = 0.5
    """Of the bill, against what `docmill plan` expected."""
