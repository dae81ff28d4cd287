"""When a job runs by itself, by the clock or once a partition's files have arrived, and how old answers may become."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, field_validator


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Schedule(_Part):
    """By the clock: the last partition that is complete then, or the whole source of an unpartitioned job."""

    cron: str
    """Five fields: minute, hour, day of the month, month, day of the week."""
    timezone: str = "UTC"

    @field_validator("timezone")
    @classmethod
    def _check_timezone(cls, timezone: str) -> str:
        try:
            ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(
                f"{timezone!r} is no time zone; expected a name such as Europe/Berlin"
            ) from error
        return timezone


class Arrival(_Part):
    """By the files: a partition whose files have not changed for a while, and are others than the last time it ran.

    Files that come later start it again, which costs what is new in them.
    """

    settled_minutes: Annotated[float, Field(ge=0)] = 15
    look_back: Annotated[int, Field(gt=0)] = 7
    """Of the newest partitions, so many are watched."""
    interval_seconds: Annotated[int, Field(ge=1)] = 60
    """Between two looks."""

    @property
    def settled(self) -> timedelta:
        """How long files must have been the same."""
        return timedelta(minutes=self.settled_minutes)


class Freshness(_Part):
    """Answers that are older count as overdue, whatever kept them from being made: Dagster then shows them so."""

    within_hours: Annotated[float, Field(ge=0.1, le=8760)]
    """Since the last run over any partition. For one a night 26: a day, and the time that it may take."""

    @property
    def within(self) -> timedelta:
        """The same."""
        return timedelta(hours=self.within_hours)
