import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from engine.errors import BundleError
from engine.ranking.sarm.memory_bank import MemoryBank

ROOT = Path(__file__).resolve().parents[3]


def bank() -> MemoryBank:
    found = MemoryBank(np.array([3, 7, 9]), 2)
    found.write_null(np.full(2, -1, np.float32), np.full(2, -2, np.float32))
    found.write(
        np.array([2, 0]), np.array([[1, 2], [3, 4]], np.float32), np.ones((2, 2), np.float32),
        version=4, time=50,
    )  # fmt: skip
    return found


def test_what_was_written_is_read_and_the_rest_is_null() -> None:
    found = bank()
    rows = found.rows(np.array([9, 3, 7, 8, 0, 100]))
    assert rows.tolist() == [2, 0, 1, 3, 3, 3]
    assert found.read(rows).cls.tolist() == [[1, 2], [3, 4], *[[-1, -1]] * 4]
    assert found.read(np.array([[1], [2]])).tar.tolist() == [[[-2, -2]], [[1, 1]]]
    assert found.all().cls.tolist() == [[3, 4], [-1, -1], [1, 2], [-1, -1]]
    assert found.version.tolist() == [4, -1, 4]
    assert found.stale(50).tolist() == [1]
    assert found.stale(51).tolist() == [0, 1, 2]


def test_a_read_is_a_copy() -> None:
    found = bank()
    found.read(np.array([0])).cls[:] = 99
    found.all().tar[:] = 99
    assert found.read(np.array([0])).cls.tolist() == [[3, 4]]
    assert found.read(np.array([0])).tar.tolist() == [[1, 1]]


def test_new_authors_move_nobody_s_values() -> None:
    found = bank()
    found.add(np.array([8, 1, 3]))
    assert found.authors.tolist() == [1, 3, 7, 8, 9]
    rows = found.rows(np.array([3, 9, 1, 7, 555]))
    assert found.read(rows).cls.tolist() == [[3, 4], [1, 2], *[[-1, -1]] * 3]
    assert found.time.tolist() == [-1, 50, -1, -1, 50]


def test_a_bank_of_nobody_answers_null() -> None:
    found = MemoryBank(np.zeros(0, np.int64), 2)
    assert found.read(found.rows(np.array([1, 2]))).cls.tolist() == [[0, 0]] * 2


def test_a_saved_bank_is_the_same(tmp_path: Path) -> None:
    bank().save(tmp_path / "bank.safetensors")
    again = MemoryBank.load(tmp_path / "bank.safetensors")
    for name, value in bank().__dict__.items():
        np.testing.assert_array_equal(again.__dict__[name], value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"none.safetensors: expected a memory bank"):
        MemoryBank.load(tmp_path / "none.safetensors")
    save_file({"x": np.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(BundleError, match="expected format stars-sarm-bank-1, got None"):
        MemoryBank.load(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("rows", "value", "message"),
    [
        ([0], np.ones((2, 2)), r"vectors: expected shape \(1, 2\), got \(2, 2\)"),
        ([3], np.ones((1, 2)), "rows: expected 0 to 2, got others"),
        ([-1], np.ones((1, 2)), "rows: expected 0 to 2, got others"),
        ([1, 1], np.ones((2, 2)), "rows: expected each once"),
        ([1], np.full((1, 2), np.nan), "vectors: expected finite values, got others"),
    ],
)
def test_a_bad_write_is_refused_and_changes_nothing(
    rows: list[int], value: np.ndarray, message: str
) -> None:
    found = bank()
    with pytest.raises(ValueError, match=message):
        found.write(np.array(rows), value, value, version=5, time=60)
    assert found.all().cls.tolist() == bank().all().cls.tolist()
    assert found.version.tolist() == [4, -1, 4]


def test_authors_ascend_and_vectors_have_a_dimension() -> None:
    with pytest.raises(ValueError, match="authors: expected ascending distinct ids"):
        MemoryBank(np.array([1, 1]), 2)
    with pytest.raises(ValueError, match="dim: expected at least 1, got 0"):
        MemoryBank(np.array([1]), 0)


def test_serving_imports_no_encoder() -> None:
    script = (
        "import sys\n"
        "import engine.ranking.sarm.memory_bank, engine.ranking.sarm.serving\n"
        "print(sorted(m for m in sys.modules if m.split('.')[0] in"
        " ('torch', 'polars', 'tokenizers', 'transformers', 'kernels')"
        " or m.endswith(('sarm.encoder', 'sarm.model'))))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert result.stdout == "[]\n"
