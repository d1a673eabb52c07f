"""Same-page negatives: shown with a session's purchases and not clicked."""

import numpy as np
from numpy.typing import NDArray

from .history import Past


def page_negatives(past: Past, most: int) -> dict[tuple[int, int], NDArray[np.int64]]:
    """(user, session ordinal) to the items [<= most] shown on that session's pages, not clicked
    on any of them.

    A page belongs to the user's session of the same local day. Empty where the data has no
    impressions, and where it has no time, since nothing then ties a page to a session.
    """
    data, calendar = past.dataset, past.calendar
    shown: dict[tuple[int, int], list[NDArray[np.int32]]] = {}
    clicked: dict[tuple[int, int], list[NDArray[np.int32]]] = {}
    if not len(data.impression_user) or not calendar.has_time:
        return {}
    page_day = calendar.clock.day(data.impression_time)
    for page in np.flatnonzero(data.impression_time < past.cut).tolist():
        user = int(data.impression_user[page])
        starts = past.session_start[user][:-1]
        session_day = calendar.clock.day(past.time[past.offsets[user] + starts])
        session = int(np.searchsorted(session_day, page_day[page]))
        if session < len(starts) and session_day[session] == page_day[page]:
            at = slice(data.impression_offsets[page], data.impression_offsets[page + 1])
            items, was_clicked = data.impression_item[at], data.impression_clicked[at]
            shown.setdefault((user, session), []).append(items)
            clicked.setdefault((user, session), []).append(items[was_clicked])
    rng = np.random.default_rng(0)
    pages: dict[tuple[int, int], NDArray[np.int64]] = {}
    for key, lists in shown.items():
        # Clicked on one page of the session is clicked, whatever other pages showed.
        left = np.setdiff1d(np.concatenate(lists), np.concatenate(clicked[key]))
        pages[key] = rng.permutation(left)[:most].astype(np.int64)
    return pages
