"""The highest rate of requests under which an objective holds."""

from collections.abc import Callable

_SPAN = 1000.0  # from where the search starts, down and up


def highest_rate(
    held: Callable[[float], float | None],
    start_per_s: float,
    *,
    step: float = 1.25,
    tolerance: float = 0.05,
    confirm: int = 2,
) -> float:
    """Steps from `start_per_s` to where the objective breaks, bisects, and asks again there.

    A single run errs: a rate counts where the objective held once in the search, and again in most
    of `confirm` further runs; where it did not, a rate lower by `tolerance` is asked.

    Args:
        held: of a rate to send: the rate that was sent where the objective held, else None.
        step: factor by which the search leaves its start.
        tolerance: share of the rate to which the search narrows.
    Returns:
        The lowest rate sent by the runs that confirmed.
    Raises:
        ValueError: the objective holds nowhere, or everywhere, within a factor of 1,000.
    """
    low = high = start_per_s
    if held(start_per_s) is None:
        while held(low := low / step) is None:
            if low < start_per_s / _SPAN:
                raise ValueError(f"highest_rate: expected a rate that holds, got none from {low}/s")
            high = low
    else:
        while held(high := high * step) is not None:
            if high > start_per_s * _SPAN:
                raise ValueError(f"highest_rate: expected a rate that breaks, got none to {high}/s")
            low = high
    while high / low > 1 + tolerance:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if held(middle) is None else (middle, high)
    while True:
        sent = [rate for _ in range(confirm) if (rate := held(low)) is not None]
        if 2 * len(sent) > confirm:
            return min(sent)
        if low < start_per_s / _SPAN:
            raise ValueError(f"highest_rate: expected a rate that holds, got none from {low}/s")
        low /= 1 + tolerance
