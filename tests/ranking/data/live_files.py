"""Files of KuaiLive's published form, small and random, with no row of the real ones."""

from pathlib import Path

import numpy as np
import polars as pl

START_MS = 1_746_374_400_000


def write_files(folder: Path, n: int = 400, seed: int = 0) -> dict[str, pl.DataFrame]:
    """Clicks, answers to some of them, rooms shown and not entered; returns the tables by name."""
    rng = np.random.default_rng(seed)
    n_users, n_rooms, n_streamers = 12, 40, 15
    streamer = rng.integers(0, n_streamers, n_rooms)
    opened = START_MS - rng.integers(0, 3_600_000, n_rooms)
    rooms = pl.DataFrame(
        {
            "p_date": [20250505] * n_rooms, "live_id": range(n_rooms), "streamer_id": streamer,
            "live_type": rng.integers(0, 3, n_rooms), "start_timestamp": opened,
            "end_timestamp": opened + 10_000_000_000,
            "live_content_category": [["shop", "game", None][i % 3] for i in range(n_rooms)],
            "live_name_id": rng.integers(0, 30, n_rooms),
        }
    )  # fmt: skip

    def events(rows: int) -> pl.DataFrame:
        live = rng.integers(0, n_rooms, rows)
        return pl.DataFrame(
            {
                "user_id": rng.integers(0, n_users, rows), "live_id": live,
                "streamer_id": streamer[live],
                "timestamp": START_MS + rng.integers(0, 86_400_000, rows),
            }
        )  # fmt: skip

    click = events(n).with_columns(watch_live_time=pl.Series(rng.integers(0, 600_000, n)))
    tables = {"click": click, "negative": events(n), "room": rooms}
    for name, rows in (("comment", 60), ("like", 50), ("gift", 30)):
        answered = click.drop("watch_live_time").sample(rows, seed=seed + rows)
        tables[name] = answered.with_columns(pl.col("timestamp") + 1000)
    tables["gift"] = tables["gift"].with_columns(gift_price=pl.Series(rng.integers(1, 9, 30)))
    for name, rows in (("user", n_users), ("streamer", n_streamers)):
        tables[name] = pl.DataFrame(
            {
                f"{name}_id": range(rows), "age": ["18-23"] * rows,
                "gender": ["M", "F", "M"] * (rows // 3),
                "reg_timestamp": ["2023-05-03"] * rows, "onehot_feat0": [0] * rows,
            }
        )  # fmt: skip
    for name, table in tables.items():
        table.write_csv(folder / f"{name}.csv")
    np.save(folder / "title_embeddings_pca128.npy", rng.normal(size=(30, 128)).astype(np.float32))
    return tables
