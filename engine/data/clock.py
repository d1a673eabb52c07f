"""Local calendar of a shop: unix seconds to hour, weekday, week and day, in numpy alone."""

from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

from engine.errors import ConfigError

HOURS, WEEKDAYS, WEEKS = 24, 7, 53
DAY_S = 86_400

_SCAN_FIRST_S = int(datetime(1970, 1, 1, tzinfo=UTC).timestamp())
_SCAN_LAST_S = int(datetime(2100, 1, 1, tzinfo=UTC).timestamp())


class LocalTime(NamedTuple):
    """Calendar fields of the same shape as the times: hour 0-23, weekday 0 = Monday, week 0-52
    (day of the year // 7), day = days since 1970-01-01 in local time."""

    hour: NDArray[np.int64]
    weekday: NDArray[np.int64]
    week: NDArray[np.int64]
    day: NDArray[np.int64]


class Clock:
    """Converts unix seconds to local calendar fields in one IANA time zone."""

    def __init__(self, timezone: str) -> None:
        """Raises ConfigError for a name that the time-zone database does not hold."""
        self.timezone = timezone
        self._starts, self._offsets = _transitions(timezone)

    def local(self, times: NDArray[np.int64]) -> LocalTime:
        """Local fields of `times` (unix seconds, any shape)."""
        seconds = times + self._offsets[np.searchsorted(self._starts, times, side="right") - 1]
        day = seconds // DAY_S
        year_start = day.astype("datetime64[D]").astype("datetime64[Y]").astype("datetime64[D]")
        return LocalTime(
            hour=seconds % DAY_S // 3600,
            weekday=(day + 3) % 7,  # 1970-01-01 was a Thursday
            week=(day - year_start.astype(np.int64)) // 7,
            day=day,
        )

    def day(self, times: NDArray[np.int64]) -> NDArray[np.int64]:
        """Local days since 1970-01-01 of `times` (unix seconds)."""
        return self.local(times).day

    def start_of_day(self, day: int) -> int:
        """Unix seconds of the first local second of `day` (days since 1970-01-01)."""
        year, month, date = map(int, str(np.datetime64(int(day), "D")).split("-"))
        return int(datetime(year, month, date, tzinfo=ZoneInfo(self.timezone)).timestamp())


@lru_cache(maxsize=32)
def _transitions(timezone: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Starts [n] (unix seconds) and UTC offsets [n] (seconds) of the zone's periods."""
    try:
        zone = ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ConfigError(f"timezone: expected an IANA name, got {timezone!r}") from error

    def offset(at_s: int) -> int:
        delta = datetime.fromtimestamp(at_s, zone).utcoffset()
        assert delta is not None
        return int(delta.total_seconds())

    starts, offsets = [np.iinfo(np.int64).min], [offset(_SCAN_FIRST_S)]
    step = 7 * DAY_S
    for low in range(_SCAN_FIRST_S, _SCAN_LAST_S, step):
        low_offset, high = offset(low), low + step
        high_offset = offset(high)
        if low_offset == high_offset:
            continue
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if offset(middle) == low_offset else (low, middle)
        starts.append(high)
        offsets.append(high_offset)
    return np.asarray(starts, np.int64), np.asarray(offsets, np.int64)
