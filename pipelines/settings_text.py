"""The engine's settings in words."""

from __future__ import annotations

from collections.abc import Mapping


def settings_text(settings: Mapping[str, int | float | str]) -> str:
    """`max_num_seqs 64, kv_cache_gib 1.5`."""
    return ", ".join(f"{name} {setting_text(value)}" for name, value in settings.items())


def setting_text(value: int | float | str) -> str:
    """Whole numbers with their thousands, others as they are."""
    if isinstance(value, str):
        return value
    return f"{int(value):,}" if value == int(value) else f"{value:g}"
