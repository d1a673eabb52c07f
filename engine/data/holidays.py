"""Days on which United States groceries expect a rush, computed by rule."""

from datetime import date, timedelta

DAYS_AHEAD = 3


def holidays(year: int) -> set[date]:
    """New Year, Easter, Memorial Day, Independence Day, Labor Day, Thanksgiving, Christmas."""
    return {
        date(year, 1, 1),
        easter(year),
        _last_weekday(year, 5, 0),
        date(year, 7, 4),
        _nth_weekday(year, 9, 0, 1),
        _nth_weekday(year, 11, 3, 4),
        date(year, 12, 25),
    }


def before_holiday(day: date) -> bool:
    """Whether a holiday falls on `day` or within the next `DAYS_AHEAD` days."""
    ahead = [day + timedelta(days=n) for n in range(DAYS_AHEAD + 1)]
    return any(later in holidays(later.year) for later in ahead)


def easter(year: int) -> date:
    """Easter Sunday, Gregorian; the anonymous algorithm (Meeus, Astronomical Algorithms, ch. 8)."""
    a, (b, c) = year % 19, divmod(year, 100)
    d, e = divmod(b, 4)
    g = (8 * b + 13) // 25
    h = (19 * a + b - d - g + 15) % 30
    i, k = divmod(c, 4)
    m = (a + 11 * h) // 319
    r = (2 * e + 2 * i - k - h + m + 32) % 7
    month = (h - m + r + 90) // 25
    return date(year, month, (h - m + r + month + 19) % 32)


def _nth_weekday(year: int, month: int, weekday: int, nth: int) -> date:
    first = date(year, month, 1)
    return first + timedelta(days=(weekday - first.weekday()) % 7 + 7 * (nth - 1))


def _last_weekday(year: int, month: int, weekday: int) -> date:
    last = date(year, month + 1, 1) - timedelta(days=1)
    return last - timedelta(days=(last.weekday() - weekday) % 7)
