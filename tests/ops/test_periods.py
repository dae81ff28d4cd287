"""Names of days and hours: which are some, and what lies before them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from docmill.ops.periods import DAY, HOUR, Period


@pytest.mark.parametrize("period", [DAY, HOUR])
def test_a_name_tells_when_it_begins_and_the_other_way_round(period: Period) -> None:
    assert period.value_at(period.start_of(period.example)) == period.example
    start = datetime(2026, 12, 31, 23, tzinfo=UTC)
    names = [period.value_at(start + step * period.length) for step in range(-30, 30)]
    assert sorted(names) == names
    assert len({*names}) == 60


@pytest.mark.parametrize(
    ("period", "value"),
    [
        (DAY, "2026-11-20-05"),
        (DAY, "2026-11-2"),  # sorts behind 2026-11-19
        (DAY, "2026-02-30"),
        (HOUR, "2026-11-20"),
        (HOUR, "2026-11-20-5"),
        (HOUR, "2026-11-20-24"),
        (HOUR, "2026-11-20-05:00"),  # as Dagster would write it
    ],
)
def test_what_is_no_such_name_is_refused(period: Period, value: str) -> None:
    with pytest.raises(ValueError, match=f"is no {period.name} such as {period.example}"):
        period.start_of(value)


def test_before_midnight_of_the_new_year_lies_the_old_one() -> None:
    assert HOUR.before("2027-01-01-00", HOUR.length) == "2026-12-31-23"
    assert HOUR.before("2026-11-20-05", timedelta(days=7)) == "2026-11-13-05"
    assert DAY.before("2026-03-01", DAY.length) == "2026-02-28"
