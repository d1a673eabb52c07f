import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from benchmarks.hashed_words import HashedWords
from engine.data.dataset import ARRAYS, Dataset
from engine.data.prepare import prepare
from engine.errors import DataError
from tests.shop import write_shop


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return prepare(
        write_shop(tmp_path / "shop", users=7, items=40, days=30, impressions=True),
        tmp_path / "prepared",
        embedder=HashedWords(),
    )


def test_load_gives_back_what_was_saved(dataset: Dataset, tmp_path: Path) -> None:
    again = Dataset.load(tmp_path / "prepared")
    assert again.meta == dataset.meta
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(again, name), getattr(dataset, name), name)
        assert getattr(again, name).dtype == getattr(dataset, name).dtype, name


def test_items_frame_is_aligned(dataset: Dataset) -> None:
    frame = dataset.items_frame()
    assert frame["item_id"].to_list() == dataset.item_ids.tolist()
    assert frame.columns == [
        "item_id", "text", "name", "subclass", "category", "brand", "price", "pack", "in_stock",
    ]  # fmt: skip
    assert [dataset.meta.subclasses[code] for code in dataset.item_subclass] == frame[
        "subclass"
    ].to_list()


def test_user_ids_of_any_script_and_length(dataset: Dataset, tmp_path: Path) -> None:
    names = np.array(sorted(n.encode() for n in ("a", "ünï", "购物者-12345")), dtype="S")
    saved = replace(dataset, user_ids=names).save(tmp_path / "named", dataset.items_frame())
    assert Dataset.load(tmp_path / "named").user_ids.tolist() == saved.user_ids.tolist()


def test_an_unsaved_dataset_has_no_frame(dataset: Dataset) -> None:
    with pytest.raises(DataError, match="expected a saved dataset, got one without a folder"):
        replace(dataset, folder=None).items_frame()


def test_items_out_of_order_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected one row per item id, ascending"):
        dataset.save(tmp_path / "other", dataset.items_frame().reverse())


@pytest.mark.parametrize("name", ["meta.json", "arrays.safetensors", "items.parquet"])
def test_a_missing_file_is_refused(dataset: Dataset, tmp_path: Path, name: str) -> None:
    (tmp_path / "prepared" / name).unlink()
    with pytest.raises(DataError, match=f"expected a prepared dataset .* got no {name}"):
        Dataset.load(tmp_path / "prepared")


def test_unknown_meta_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "prepared" / "meta.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "colour": "red"}))
    with pytest.raises(DataError, match=r"meta.json: .*\ncolour"):
        Dataset.load(tmp_path / "prepared")


def test_damaged_arrays_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "prepared" / "arrays.safetensors").write_bytes(b"not arrays")
    with pytest.raises(DataError, match=r"arrays.safetensors: unreadable"):
        Dataset.load(tmp_path / "prepared")


def test_other_arrays_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    save_file({"a": np.zeros(1)}, tmp_path / "prepared" / "arrays.safetensors")
    with pytest.raises(DataError, match=r"expected the arrays .*, got \['a'\]"):
        Dataset.load(tmp_path / "prepared")


def test_reading_a_dataset_imports_neither_torch_nor_a_data_frame() -> None:
    code = "import sys, engine.data.dataset; print({'torch', 'polars'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
