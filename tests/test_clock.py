from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.data.clock import DAY_S, HOURS, WEEKDAYS, WEEKS, Clock
from engine.errors import ConfigError

ZONES = ["UTC", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "Pacific/Apia"]
LAST_S = int(datetime(2099, 12, 25, tzinfo=UTC).timestamp())


@pytest.mark.parametrize("zone", ZONES)
@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, LAST_S), min_size=1, max_size=20))
# New York: the seconds around both changes of 2017, and a new year's eve in a leap year.
@example([1489301999, 1489302000, 1509861599, 1509861600, 1609459199 + 5 * 3600])
def test_fields_equal_zoneinfo(zone: str, times: list[int]) -> None:
    fields = Clock(zone).local(np.array(times, np.int64))
    for at, hour, weekday, week, day in zip(times, *fields, strict=True):
        local = datetime.fromtimestamp(at, ZoneInfo(zone))
        assert hour == local.hour
        assert weekday == local.weekday()
        assert week == (local.timetuple().tm_yday - 1) // 7
        assert day == (local.date() - date(1970, 1, 1)).days


def test_fields_stay_inside_their_tables() -> None:
    times = np.arange(0, 4 * 366 * DAY_S, 3599, dtype=np.int64).reshape(2, -1)
    fields = Clock("America/New_York").local(times)
    for values, size in zip(fields[:3], (HOURS, WEEKDAYS, WEEKS), strict=True):
        assert values.shape == times.shape
        assert values.min() == 0
        assert values.max() == size - 1


def test_a_day_lasts_as_long_as_the_zone_says() -> None:
    clock = Clock("America/New_York")
    epoch = date(1970, 1, 1)
    for day, hours in [(date(2017, 3, 12), 23), (date(2017, 11, 5), 25), (date(2017, 7, 4), 24)]:
        start = clock.start_of_day((day - epoch).days)
        end = clock.start_of_day((day + timedelta(1) - epoch).days)
        assert end - start == hours * 3600
        seconds = np.array([start - 1, start, end - 1, end])
        assert (clock.day(seconds) - (day - epoch).days).tolist() == [-1, 0, 0, 1]


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "../etc/passwd"])
def test_an_unknown_zone_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^timezone: expected an IANA name, got {name!r}$"):
        Clock(name)
