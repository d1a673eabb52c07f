import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.sales import WINDOWS_DAYS, Sales

N_ITEMS = 4
Sold = list[tuple[int, int]]  # item, day


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, N_ITEMS - 1), st.integers(0, 60)), max_size=40),
    st.lists(st.tuples(st.integers(0, N_ITEMS - 1), st.integers(-10, 90)), max_size=10),
    st.integers(0, 70),
)
def test_recent_sales_equal_counting(sold: Sold, asked: Sold, until: int) -> None:
    items, days = (
        (np.array(c, np.int64) for c in zip(*sold, strict=True))
        if sold
        else (np.zeros(0, np.int64),) * 2
    )
    sales = Sales.of(items.astype(np.int32), days, N_ITEMS, until)
    about = np.array([item for item, _ in asked], np.int32)
    found = sales.recent(about, np.array([day for _, day in asked], np.int64))
    assert found.shape == (len(asked), len(WINDOWS_DAYS))
    for row, (item, day) in zip(found, asked, strict=True):
        end = min(day, until)
        counts = [sum(i == item and end - w <= d < end for i, d in sold) for w in WINDOWS_DAYS]
        np.testing.assert_allclose(np.expm1(row), counts, rtol=1e-6, atol=1e-6)


def test_a_day_knows_nothing_of_its_own_sales() -> None:
    sales = Sales.of(np.zeros(3, np.int32), np.array([5, 6, 7]), 1, until=100)
    item = np.zeros(3, np.int32)
    counts = np.expm1(sales.recent(item, np.array([5, 6, 8])))
    np.testing.assert_allclose(counts[:, 0], [0, 1, 3], atol=1e-6)
