"""Answers by RecTools or RePlay, in an interpreter that has it; `benchmarks.peers` talks to it.

    PYTHON benchmarks/peer_worker.py WAY HISTORIES.npy N_ITEMS THREADS

A SASRec of `small`'s size: 2 blocks, 2 heads, 128 columns. Weights are random or of one step: what
an answer costs hangs on shapes. Prints "ready"; then, for each line "ask N" or "truth N", a JSON
list of the ten best items after history N: as the library answers, or by its network's output and a
full sort.
"""

import json
import sys
import warnings
from collections.abc import Callable

import numpy as np
import torch

BLOCKS, HEADS, WIDTH, K = 2, 2, 128, 10
Answer = Callable[[int], list[int]]


def rectools(histories: np.ndarray, n_items: int) -> tuple[Answer, Answer]:
    """`SASRecModel.recommend` of datasets made beforehand, one a user."""
    import pandas as pd
    from pytorch_lightning import Trainer
    from rectools import Columns
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel

    def dataset(sequences: np.ndarray) -> Dataset:
        n, length = sequences.shape
        frame = {
            Columns.User: np.repeat(np.arange(n), length),
            Columns.Item: sequences.reshape(-1),
            Columns.Weight: 1.0,
            Columns.Datetime: pd.Timestamp("2024-01-01")
            + pd.to_timedelta(np.tile(np.arange(length), n), unit="min"),
        }
        return Dataset.construct(pd.DataFrame(frame))

    length = histories.shape[1]
    # The catalogue is what training saw: every item once.
    catalogue = np.resize(np.arange(n_items), (-(-n_items // length), length))
    model = SASRecModel(
        n_blocks=BLOCKS, n_heads=HEADS, n_factors=WIDTH, session_max_len=length,
        loss="sampled_softmax", n_negatives=16, recommend_torch_device="cpu",
        get_trainer_func=lambda: Trainer(
            max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        ),
    )  # fmt: skip
    model.fit(dataset(catalogue))
    asked = [dataset(histories[n : n + 1]) for n in range(len(histories))]  # the least to read

    def ask(n: int) -> list[int]:
        found = model.recommend(users=[0], dataset=asked[n], k=K, filter_viewed=False)
        items: list[int] = found[Columns.Item].tolist()
        return items

    known = model.data_preparator.item_id_map

    @torch.inference_mode()
    def truth(n: int) -> list[int]:
        sequence = torch.from_numpy(known.convert_to_internal(histories[n]))[None]
        network = model.torch_model.eval()
        items = network.item_model.get_all_embeddings()
        state = network.encode_sessions({"x": sequence}, items)[:, -1]
        real = np.sort(model.data_preparator.get_known_items_sorted_internal_ids())
        order = torch.argsort(-(state @ items[real].T)[0])[:K]
        best: list[int] = known.convert_to_external(real[order.numpy()]).tolist()
        return best

    return ask, truth


def replay(histories: np.ndarray, n_items: int, threads: int = 0) -> tuple[Answer, Answer]:
    """`SasRec.predict` of one query, the ten best by torch.topk; with threads, compiled."""
    from replay.data import FeatureHint, FeatureSource, FeatureType
    from replay.data.nn import TensorFeatureInfo, TensorFeatureSource, TensorSchema
    from replay.models.nn.sequential import SasRec

    source = TensorFeatureSource(FeatureSource.INTERACTIONS, "item_id")
    feature = TensorFeatureInfo(
        name="item_id", feature_type=FeatureType.CATEGORICAL, is_seq=True,
        feature_hint=FeatureHint.ITEM_ID, feature_sources=[source], cardinality=n_items,
        padding_value=n_items, embedding_dim=WIDTH,
    )  # fmt: skip
    length = histories.shape[1]
    torch.manual_seed(0)
    model = SasRec(
        TensorSchema(feature),
        block_count=BLOCKS, head_count=HEADS, hidden_size=WIDTH, max_seq_len=length,
    ).eval()  # fmt: skip
    served = model
    if threads:
        from replay.models.nn.sequential.compiled import SasRecCompiled

        served = SasRecCompiled.compile(model, mode="one_query", num_threads=threads)

    def batch(n: int) -> dict[str, object]:
        items = torch.from_numpy(histories[n : n + 1])
        return {"feature_tensor": {"item_id": items}, "padding_mask": torch.ones_like(items).bool()}

    @torch.inference_mode()
    def ask(n: int) -> list[int]:
        items: list[int] = torch.topk(served.predict(batch(n)), K).indices[0].tolist()
        return items

    @torch.inference_mode()
    def truth(n: int) -> list[int]:
        items: list[int] = torch.argsort(-model.predict(batch(n))[0])[:K].tolist()
        return items

    return ask, truth


def main(way: str, file: str, n_items: int, threads: int) -> None:
    """Answers until the input ends."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    histories = np.load(file)
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print; the answers stay alone
    ask, truth = (
        rectools(histories, n_items)
        if way == "rectools"
        else replay(histories, n_items, threads if way == "replay_openvino" else 0)
    )
    ask(0)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        which, n = line.split()
        print(json.dumps({"ask": ask, "truth": truth}[which](int(n))), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
