import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from engine.bundle import (
    CONTENT_FILE,
    ENCODE_FILE,
    ENCODE_INT8_FILE,
    ITEMS_FILE,
    REQUEST_FILE,
    REQUIRED,
    TAGS_FILE,
    Bundle,
    BundleWriter,
)
from engine.data.dataset import NumericFeature
from engine.errors import BundleError
from engine.manifest import FORMAT_VERSION, MANIFEST_FILE, Description, Source
from engine.repeats import repeat_history
from engine.retrieval.columns import Columns
from engine.store.users import UserRecord

N, D, D_MODEL = 5, 3, 8


def description(**changes: Any) -> Description:
    fields: dict[str, Any] = {
        "commit": "0" * 40,
        "dataset": Source(name="shop", fingerprint="f" * 64),
        "timezone": "Europe/Berlin",
        "has_time": True,
        "event_types": ["view", "purchase"],
        "default_event_type": "purchase",
        "repeat_types": ["purchase"],
        "signals": [NumericFeature(name="campaign", mean=0.5, std=2.0)],
        "user_categorical": {"age": ["19-24", "25-34"]},
        "user_numeric": [NumericFeature(name="size", mean=2, std=1)],
        "cut": 1_500_000_000,
        "model": {"preset": "small", "heads": 2},
        "lambda_serve": 0.1,
    }
    return Description(**fields | changes)


def items(**changes: NDArray[Any]) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(0)
    return {
        "item_ids": np.array([3, 5, 8, 2**40, 2**62]),
        "rows": rng.standard_normal((N, D_MODEL), np.float32),
        "candidates": rng.standard_normal((N, D), np.float32),
        "log_p": np.log(np.full(N, 0.2, np.float32)),
        "active": np.array([True, True, False, True, True]),
        "sold": np.zeros((N, 2), np.float32),
        **{name: np.ones(N, np.float32) for name in ("count", "buyers", "again", "span_days")},
        "subclass": np.zeros(N, np.int32),
    } | changes


def users(dim: int = D, n_categorical: int = 1) -> list[UserRecord]:
    none = np.empty(0, np.int32)
    return [
        UserRecord(
            user_id=name,
            h_next=np.ones(dim, np.float32),
            h_gen=np.zeros(dim, np.float32),
            categorical=np.zeros(n_categorical, np.int32),
            numeric=np.zeros(1, np.float32),
            items=np.array([item], np.int32),
            times=np.array([time]),
            types=np.ones(1, np.int32),
            sessions=np.zeros(1, np.int32),
            repeats=repeat_history(none, none.astype(np.int64), none).after(0, time),
        )
        for name, item, time in (("a", 0, 5), ("b", 4, 7))
    ]


def columns(n_items: int = N) -> Columns:
    return Columns.from_values({"name": [f"Käse {place}" for place in range(n_items)]}, n_items)


def fill(writer: BundleWriter) -> None:
    for name in (ENCODE_FILE, ENCODE_INT8_FILE):
        (writer.folder / name).write_bytes(b"onnx" * 100)
    (writer.folder / CONTENT_FILE).write_bytes(b"content")
    (writer.folder / TAGS_FILE).write_text("{}")
    writer.write_items(items())
    writer.write_request({"scale": np.ones((2, 2), np.float32).T, "bias": np.zeros(0, np.float32)})
    writer.write_columns(columns())
    writer.write_users(users())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with BundleWriter(tmp_path / "bundle", description()) as writer:
        fill(writer)
    return tmp_path / "bundle"


def rewrite_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / MANIFEST_FILE
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def rehash(folder: Path, name: str) -> None:
    """Makes the manifest agree with a changed file, so that only its content can be refused."""
    content = (folder / name).read_bytes()
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    rewrite_manifest(folder, lambda manifest: manifest["files"].update({name: entry}))


def test_a_written_bundle_opens(folder: Path) -> None:
    bundle = Bundle.open(folder)
    manifest = bundle.manifest
    assert manifest.format_version == FORMAT_VERSION
    assert {key: getattr(manifest, key) for key in Description.model_fields} == dict(description())
    assert set(REQUIRED) == set(manifest.files)
    assert manifest.versions["numpy"] == np.__version__
    assert manifest.created.endswith("+00:00")
    assert (manifest.default_event_code, manifest.repeat_codes) == (1, (1,))
    for name, array in items().items():
        np.testing.assert_array_equal(bundle.items[name], array)
        assert bundle.items[name].dtype == array.dtype
    assert bundle.request_weights["scale"].shape == (2, 2)
    assert bundle.columns["name"].take([4]) == ["Käse 4"]
    record, unknown = bundle.users.get_many(["b", "c"])
    assert record is not None
    assert record.times.tolist() == [7]
    assert unknown is None
    assert bundle.graphs("fp32").encode.read_bytes() == b"onnx" * 100
    assert bundle.graphs("int8") == (folder / ENCODE_INT8_FILE, None)


def test_further_files_of_the_writer_are_hashed_too(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "new" / "bundle", description()) as writer:
        fill(writer)
        (writer.folder / "encode.onnx.data").write_bytes(b"weights")
    manifest = Bundle.open(tmp_path / "new" / "bundle").manifest
    assert manifest.files["encode.onnx.data"].bytes == 7


def test_a_bundle_is_replaced_and_nothing_is_left_beside_it(folder: Path) -> None:
    with BundleWriter(folder, description(commit="new")) as writer:
        fill(writer)
        assert Bundle.open(folder).manifest.commit == "0" * 40
    assert Bundle.open(folder).manifest.commit == "new"
    assert list(folder.parent.iterdir()) == [folder]


def test_a_failed_writer_leaves_what_stood_there(folder: Path) -> None:
    def fail() -> None:
        with BundleWriter(folder, description()) as writer:
            writer.write_items(items())
            raise RuntimeError("the export failed")

    with pytest.raises(RuntimeError, match="the export failed"):
        fail()
    Bundle.open(folder)
    assert list(folder.parent.iterdir()) == [folder]


def test_a_bundle_comes_back_where_the_new_one_cannot_be_moved(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if target == folder and not self.name.endswith(".old"):
            raise OSError("no space")
        return rename(self, target)

    def write() -> None:
        with BundleWriter(folder, description(commit="new")) as writer:
            fill(writer)
            monkeypatch.setattr(Path, "rename", failing)

    with pytest.raises(OSError, match="no space"):
        write()
    assert Bundle.open(folder).manifest.commit == "0" * 40
    assert list(folder.parent.iterdir()) == [folder]


def write_parts(target: Path, part: Callable[[BundleWriter], object]) -> None:
    with BundleWriter(target, description()) as writer:
        fill(writer)
        part(writer)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (lambda w: (w.folder / ENCODE_FILE).unlink(), "files: expected encode.onnx, got none"),
        (
            lambda w: w.write_items(items(active=np.ones(4, bool))),
            "active: expected 5 rows as item",
        ),
        (lambda w: w.write_items(items(rows=np.zeros((N, 2)))), "rows: expected 2 dimensions of f"),
        (lambda w: w.write_items(items(extra=np.float32(1))), "extra: expected 5 rows as"),
        (lambda w: w.write_items({"active": np.ones(1, bool)}), "expected item_ids, got active"),
        (lambda w: w.write_items({}), "expected item_ids, got none"),
        (
            lambda w: w.write_items(items(item_ids=np.array([3, 3, 4, 5, 6]))),
            "item_ids: expected ascending and unique ids",
        ),
        (lambda w: w.write_columns(columns(4)), "columns.safetensors: expected 5 items, got 4"),
        (
            lambda w: w.write_users(users(dim=2)),
            r"records.bin: expected Shape\(dim=3, .*, got Shape\(dim=2, ",
        ),
        (lambda w: w.write_users(users(n_categorical=3)), "expected .*n_categorical=1, .*=3, "),
    ],
)
def test_parts_that_do_not_fit_are_not_published(
    tmp_path: Path, part: Callable[[BundleWriter], object], message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        write_parts(tmp_path / "bundle", part)
    assert list(tmp_path.iterdir()) == []


def test_other_folders_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("irreplaceable")
    with pytest.raises(BundleError, match="thesis: expected a bundle or nothing to replace"):
        write_parts(tmp_path / "thesis", lambda writer: None)
    (tmp_path / "thesis" / "chapter.txt").unlink()
    write_parts(tmp_path / "thesis", lambda writer: None)
    Bundle.open(tmp_path / "thesis")


def test_event_types_must_be_known() -> None:
    with pytest.raises(ValidationError, match=r"expected event types of .*, got \['sale'\]"):
        description(default_event_type="sale")


@pytest.mark.parametrize("name", [MANIFEST_FILE, *REQUIRED])
@pytest.mark.parametrize("verify", [True, False])
def test_a_missing_file_is_named(folder: Path, name: str, verify: bool) -> None:
    (folder / name).unlink()
    with pytest.raises(BundleError, match=rf"{name}: expected .*, got "):
        Bundle.open(folder, verify=verify)


@pytest.mark.parametrize("name", REQUIRED)
def test_an_altered_file_is_refused(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(BundleError, match=rf"{name}: expected sha256 [0-9a-f]{{64}}, got [0-9a-f]"):
        Bundle.open(folder)


@pytest.mark.parametrize("verify", [True, False])
def test_a_shortened_file_is_refused_with_or_without_hashes(folder: Path, verify: bool) -> None:
    (folder / ENCODE_FILE).write_bytes(b"onnx")
    with pytest.raises(BundleError, match=r"encode.onnx: expected 400 bytes, got 4"):
        Bundle.open(folder, verify=verify)


def test_only_hashes_are_skipped_without_verify(folder: Path) -> None:
    (folder / ENCODE_FILE).write_bytes(b"onyx" * 100)
    Bundle.open(folder, verify=False)


@pytest.mark.parametrize("name", ["extra.bin", "users/.hidden", "more/deep.txt"])
def test_an_unknown_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"")
    with pytest.raises(BundleError, match=rf"{name}: expected only files of the manifest"):
        Bundle.open(folder)


def test_links_are_refused(folder: Path) -> None:
    (folder / ENCODE_FILE).rename(folder.parent / "elsewhere.onnx")
    (folder / ENCODE_FILE).symlink_to(folder.parent / "elsewhere.onnx")
    with pytest.raises(BundleError, match=r"encode.onnx: expected plain files and folders"):
        Bundle.open(folder)


def test_linked_folders_are_refused(folder: Path) -> None:
    (folder / "users").rename(folder.parent / "elsewhere")
    (folder / "users").symlink_to(folder.parent / "elsewhere")
    with pytest.raises(BundleError, match="users: expected plain files and folders"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    "name",
    ["../secret", "/etc/passwd", "users/../../x", "./encode.onnx", "a//b", "", ".", "a\\b", "a\0b"],
)
def test_paths_that_leave_the_bundle_are_refused(folder: Path, name: str) -> None:
    rewrite_manifest(
        folder, lambda manifest: manifest["files"].update({name: manifest["files"][ENCODE_FILE]})
    )
    with pytest.raises(BundleError, match="files: expected paths inside the bundle, got"):
        Bundle.open(folder)


@pytest.mark.parametrize("version", [0, 2, "3", None, [1]])
def test_another_format_version_is_refused(folder: Path, version: object) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest.clear()
        manifest["format_version"] = version

    rewrite_manifest(folder, change)
    with pytest.raises(
        BundleError, match=rf"format_version: expected {FORMAT_VERSION}, got .*; export the bundle"
    ):
        Bundle.open(folder)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[" * 100_000], ids=["empty", "cut", "binary", "deep"]
)
def test_an_unreadable_manifest_is_refused(folder: Path, content: bytes) -> None:
    (folder / MANIFEST_FILE).write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest.json: expected JSON, got"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(surprise=1), "surprise: Extra inputs are not permitted"),
        (lambda m: m.pop("cut"), "cut: Field required"),
        (lambda m: m.update(cut="soon"), "cut: Input should be a valid integer, got 'soon'"),
        (
            lambda m: m.update(format_version=float(FORMAT_VERSION)),
            "format_version: Input should be a valid integer",
        ),
        (lambda m: m.update(repeat_types=["sale"]), r"manifest: .* got \['sale'\]"),
        (lambda m: m.update(lambda_serve=float("nan")), "lambda_serve: Input should be a finite"),
        (lambda m: m["files"][ENCODE_FILE].update(sha256="0"), r"files\.encode\.onnx\.sha256: "),
        (lambda m: m["files"][ENCODE_FILE].update(bytes=-1), r"files\.encode\.onnx\.bytes: "),
        (lambda m: m["files"].pop(ENCODE_FILE), r"files: expected encode\.onnx, got none"),
    ],
)
def test_a_manifest_outside_its_schema_is_refused(
    folder: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    rewrite_manifest(folder, change)
    with pytest.raises(BundleError, match=rf"manifest\.json: {message}"):
        Bundle.open(folder)


def test_python_objects_are_refused(folder: Path) -> None:
    np.save(folder / "users/ids.npy", np.array([object()], object), allow_pickle=True)
    rehash(folder, "users/ids.npy")
    with pytest.raises(BundleError, match=r"ids.npy: expected a plain .npy array, got .*objects"):
        Bundle.open(folder)


@pytest.mark.parametrize("name", [ITEMS_FILE, REQUEST_FILE])
def test_weights_of_another_format_are_refused(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"\x80\x04\x95" + bytes(100))
    rehash(folder, name)
    with pytest.raises(BundleError, match=rf"{name}: expected safetensors, got"):
        Bundle.open(folder)


def test_opening_imports_neither_torch_nor_polars() -> None:
    program = (
        "import sys, engine.bundle, engine.retrieval.exact, engine.retrieval.filters, "
        "engine.retrieval.merge; print({'torch', 'polars', 'pandas'} & set(sys.modules))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "set()"
