"""How much time a partition covers, a day or an hour, and how the name of its folder says so."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta


@dataclass(frozen=True, slots=True)
class Period:
    """Names sort as text in the order of time, and hold no character that a store or a Hive reader would escape."""

    name: str
    format: str
    length: timedelta
    example: str

    def start_of(self, value: str) -> datetime:
        """When the partition of this name begins. Raises `ValueError` for a name that is none."""
        try:
            start = datetime.strptime(value, self.format).replace(tzinfo=UTC)
        except ValueError:
            start = None
        if start is None or self.value_at(start) != value:  # strptime also takes 2026-11-2
            raise ValueError(f"{value!r} is no {self.name} such as {self.example}")
        return start

    def value_at(self, start: datetime) -> str:
        """The name of the partition that begins then."""
        return start.strftime(self.format)

    def before(self, value: str, time: timedelta) -> str:
        """The name of the partition that lies so much earlier."""
        return self.value_at(self.start_of(value) - time)


DAY = Period("day", "%Y-%m-%d", timedelta(days=1), "2026-11-20")
HOUR = Period("hour", "%Y-%m-%d-%H", timedelta(hours=1), "2026-11-20-05")  # by UTC: no hour comes twice
