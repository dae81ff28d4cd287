"""What a document is and where it lies: records, schemas, storage, layout, shards. Imports nothing else of docmill.

For notebooks and scripts: `scan_answers` and `scan_dead_letters`, which bring Polars when they are first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from docmill.data.answers import scan_answers, scan_dead_letters

__all__ = ["scan_answers", "scan_dead_letters"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from docmill.data import answers

    return getattr(answers, name)
