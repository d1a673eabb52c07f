from datetime import date, timedelta

import pytest

from engine.data.holidays import before_holiday, easter, holidays


@pytest.mark.parametrize(
    ("year", "month", "day"), [(2000, 4, 23), (2017, 4, 16), (2024, 3, 31), (2038, 4, 25)]
)
def test_easter(year: int, month: int, day: int) -> None:
    assert easter(year) == date(year, month, day)


def test_holidays_of_2017() -> None:
    assert sorted(holidays(2017)) == [
        date(2017, 1, 1), date(2017, 4, 16), date(2017, 5, 29), date(2017, 7, 4),
        date(2017, 9, 4), date(2017, 11, 23), date(2017, 12, 25),
    ]  # fmt: skip


def test_the_three_days_before_count_over_the_turn_of_the_year() -> None:
    start = date(2017, 12, 28)
    flags = [before_holiday(start + timedelta(days=n)) for n in range(6)]
    assert flags == [False, True, True, True, True, False]
