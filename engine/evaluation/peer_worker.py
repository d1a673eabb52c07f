"""Lists of a peer, in an interpreter that has its library; `peers` runs it and reads its answer.

    PYTHON -P peer_worker.py FOLDER

FOLDER holds request.json (name, settings, k, minutes, threads, epochs, seed) and sequences.npz
(users, and offsets, item, session, held of `train` and `asked`). Written are lists.npz (lists and
discovery, [Q, k] int64, -1 pads) and answer.json. Nothing of the project is imported: the library's
environment does not have it.
"""

import json
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

VALIDATION_USERS = 2048  # whose held event chooses when to stop; RecTools' benchmarks use as many
Arrays = dict[str, NDArray[Any]]
Lists = tuple[NDArray[np.int64], NDArray[np.int64]]


def transformer(request: dict[str, Any], arrays: Arrays, folder: Path) -> tuple[Lists, Any]:
    """RecTools' `SASRecModel` or `BERT4RecModel`: trained, then asked twice."""
    import torch
    from pytorch_lightning import seed_everything  # type: ignore[import-not-found]
    from rectools.dataset import Dataset  # type: ignore[import-not-found]
    from rectools.models import BERT4RecModel, SASRecModel  # type: ignore[import-not-found]
    from rectools.models.nn.transformers.ligr import LiGRLayers  # type: ignore[import-not-found]

    torch.set_num_threads(request["threads"])
    seed_everything(request["seed"], workers=True, verbose=False)
    settings = dict(request["settings"])
    max_epochs, patience = settings.pop("max_epochs"), settings.pop("patience")
    if settings.pop("layers") == "ligr":
        settings |= {"transformer_layers_type": LiGRLayers, "use_key_padding_mask": True}
    frame, held = _frame(arrays, "train"), arrays["train_held"]
    if held.any():
        chosen = _some(frame["user_id"].to_numpy()[held], request["seed"])
        keep = ~held | frame["user_id"].isin(chosen).to_numpy()
        frame, held = frame[keep].reset_index(drop=True), held[keep]
    epochs = request["epochs"] or max_epochs
    model = {"sasrec": SASRecModel, "bert4rec": BERT4RecModel}[request["name"]](
        **settings,
        deterministic=True,
        recommend_torch_device="cpu",
        get_val_mask_func=(lambda interactions: held) if held.any() else None,
        get_trainer_func=lambda: _trainer(
            epochs, request["minutes"], patience if held.any() else None, folder
        ),
    )
    start = time.monotonic()
    model.fit(Dataset.construct(frame))
    minutes = (time.monotonic() - start) / 60
    answer = {"minutes": minutes, **_kept(model), "events": int((~held).sum())}
    start = time.monotonic()
    asked = _frame(arrays, "asked")
    asked = Dataset.construct(asked[asked["user_id"].isin(arrays["users"])])
    lists = tuple(
        _rows(
            model.recommend(
                users=arrays["users"],
                dataset=asked,
                k=request["k"],
                filter_viewed=exclude,
                on_unsupported_targets="ignore",
            ),
            arrays["users"],
            request["k"],
        )
        for exclude in (False, True)
    )
    return (lists[0], lists[1]), answer | {"answer_minutes": (time.monotonic() - start) / 60}


def _frame(arrays: Arrays, which: str) -> Any:
    """Interactions as RecTools wants them: the place of an event stands for its time."""
    import pandas as pd  # type: ignore[import-untyped]

    offsets, item = arrays[f"{which}_offsets"], arrays[f"{which}_item"]
    user = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    place = np.arange(len(item)) - offsets[user]
    times = pd.Timestamp("2000-01-01") + pd.to_timedelta(place, unit="s")
    return pd.DataFrame({"user_id": user, "item_id": item, "weight": 1.0, "datetime": times})


def _some(users: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """At most VALIDATION_USERS of them."""
    rng = np.random.default_rng(seed)
    return rng.permutation(users)[:VALIDATION_USERS]


def _trainer(epochs: int, minutes: float, patience: int | None, folder: Path) -> Any:
    """A Lightning trainer that ends by epochs, by time or, given patience, by validation loss."""
    from pytorch_lightning import Trainer  # type: ignore[import-not-found]
    from pytorch_lightning.callbacks import (  # type: ignore[import-not-found]
        EarlyStopping,
        ModelCheckpoint,
    )

    callbacks: list[Any] = []
    if patience is not None:
        callbacks = [
            EarlyStopping("val_loss", patience=patience, mode="min"),
            ModelCheckpoint(folder, "{step}", "val_loss", mode="min", save_weights_only=True),
        ]
    return Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        min_epochs=0,
        max_time=timedelta(minutes=minutes),
        deterministic=True,
        callbacks=callbacks,
        enable_checkpointing=patience is not None,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def _kept(model: Any) -> dict[str, Any]:
    """Puts the weights of the lowest validation loss back; says what ended the training."""
    trainer = model.fit_trainer
    epochs = trainer.global_step / trainer.num_training_batches
    kept, stopping, checkpoint = (
        epochs,
        trainer.early_stopping_callback,
        trainer.checkpoint_callback,
    )
    if checkpoint is not None:
        model.load_weights_from_checkpoint(checkpoint.best_model_path)
        step = int(Path(checkpoint.best_model_path).stem.removeprefix("step="))
        kept = step / trainer.num_training_batches
    if stopping is not None and stopping.stopped_epoch:
        stopped_by = "early stopping"
    else:
        stopped_by = "epochs" if epochs >= trainer.max_epochs else "time"
    return {"epochs": epochs, "kept": kept, "stopped_by": stopped_by}


def _rows(found: Any, users: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """[Q, k] of a frame of user, item and rank; who is not in it has -1 alone."""
    rows = np.full((len(users), k), -1, np.int64)
    order = np.argsort(users)
    place = order[np.searchsorted(users[order], found["user_id"].to_numpy())]
    rows[place, found["rank"].to_numpy() - 1] = found["item_id"].to_numpy()
    return rows


def nearest(request: dict[str, Any], arrays: Arrays) -> tuple[Lists, Any]:
    """Cornac's `UPCF`: what a user's neighbours bought lately."""
    import similaripy  # type: ignore[import-not-found]
    from cornac.data.dataset import BasketDataset  # type: ignore[import-not-found]
    from cornac.models import UPCF  # type: ignore[import-not-found]
    from scipy.sparse import csr_matrix

    start = time.monotonic()
    events = list(_events(arrays, "train"))
    known = BasketDataset.from_ubi(events, seed=request["seed"])
    # UPCF takes a row of the similarities, and a row of the arrays that this version gives has one
    # dimension. Scores beyond the first hundred are dropped, and most of those are of the history.
    cosine = similaripy.asymmetric_cosine
    similaripy.asymmetric_cosine = lambda *a, **options: csr_matrix(cosine(*a, **options))
    similaripy.dot_product = partial(similaripy.dot_product, k=known.num_items)
    model = UPCF(**request["settings"]).fit(known)
    minutes, start = (time.monotonic() - start) / 60, time.monotonic()
    item_ids = np.array(list(known.iid_map), np.int64)
    rows: list[list[NDArray[np.int64]]] = [[], []]
    baskets = _baskets(arrays, known.iid_map)
    for user in arrays["users"].tolist():
        with _without(model, known.uid_map.get(user)):
            scores = model.score(user, baskets[user]) if baskets[user] else np.zeros(len(item_ids))
        rows[0].append(_best(scores, item_ids, request["k"]))
        scores[[item for basket in baskets[user] for item in basket]] = 0
        rows[1].append(_best(scores, item_ids, request["k"]))
    answer = {
        "minutes": minutes, "epochs": 0.0, "kept": 0.0, "stopped_by": "epochs",
        "events": len(events), "answer_minutes": (time.monotonic() - start) / 60,
    }  # fmt: skip
    return (np.stack(rows[0]), np.stack(rows[1])), answer


def _best(scores: NDArray[Any], item_ids: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """[k] items of the highest scores above 0, ties to the lower item, then -1."""
    best = np.lexsort((item_ids, -scores))[:k]
    best = best[scores[best] > 0]
    return np.append(item_ids[best], np.full(k - len(best), -1))


def _events(arrays: Arrays, which: str) -> Iterator[tuple[int, tuple[int, int], int]]:
    """(user, basket, item) of what may be trained on."""
    offsets, item, session, held = (
        arrays[f"{which}_{name}"] for name in ("offsets", "item", "session", "held")
    )
    for user, (low, high) in enumerate(pairwise(offsets.tolist())):
        for n in range(low, high):
            if not held[n]:
                yield user, (user, int(session[n])), int(item[n])


def _baskets(arrays: Arrays, index: Mapping[int, int]) -> list[list[list[int]]]:
    """Each user's asked baskets, oldest first, of the items that were trained on."""
    offsets, item, session = (arrays[f"asked_{name}"] for name in ("offsets", "item", "session"))
    every = []
    for low, high in pairwise(offsets.tolist()):
        starts = low + np.flatnonzero(np.diff(session[low:high], prepend=-1))
        parts = pairwise([*starts.tolist(), high])
        of_user = [[index[i] for i in item[a:b].tolist() if i in index] for a, b in parts]
        every.append([basket for basket in of_user if basket])
    return every


@contextmanager
def _without(model: Any, user: int | None) -> Iterator[None]:
    """The model while a user is no neighbour: `score` adds the asked one anew."""
    if user is None:
        yield
        return
    matrix = model.user_wise_popularity
    at = slice(matrix.indptr[user], matrix.indptr[user + 1])
    row = matrix.data[at].copy()
    matrix.data[at] = 0
    try:
        yield
    finally:
        matrix.data[at] = row


LIBRARIES: dict[str, tuple[str, ...]] = {
    "sasrec": ("rectools", "torch"), "bert4rec": ("rectools", "torch"),
    "upcf": ("cornac", "similaripy"),
}  # fmt: skip


def main(folder: Path) -> None:
    """Reads the request, writes the answer."""
    warnings.simplefilter("ignore")
    request = json.loads((folder / "request.json").read_text())
    with np.load(folder / "sequences.npz") as file:
        arrays = dict(file)
    if request["name"] == "upcf":
        (lists, discovery), answer = nearest(request, arrays)
    else:
        (lists, discovery), answer = transformer(request, arrays, folder)
    np.savez(folder / "lists.npz", lists=lists, discovery=discovery)
    versions = {library: version(library) for library in LIBRARIES[request["name"]]}
    (folder / "answer.json").write_text(json.dumps(answer | {"versions": versions}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
