"""What `docmill doctor` finds: one thing it looked at, whether it is as a run needs it, and what to do if not."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from docmill.pipelines.logs import without_secrets

if TYPE_CHECKING:
    from rich.console import Console

STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """`warn`: works, but slower or not everything; `fail`: something that is needed does not work."""

    name: str
    level: Literal["ok", "warn", "fail"]
    found: str
    remedy: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {key: without_secrets(value) for key, value in asdict(self).items()}


def print_findings(console: Console, findings: list[Finding]) -> None:
    """One line each, with the remedy below where there is one."""
    from rich.text import Text

    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        line = Text(f"{finding.level:4}  ", style=STYLES[finding.level])
        line.append(f"{finding.name:{width}}  {without_secrets(finding.found)}", style="default")
        console.print(line, soft_wrap=True)
        if finding.remedy:
            console.print(f"{'':{width + 8}}{without_secrets(finding.remedy)}", soft_wrap=True)
