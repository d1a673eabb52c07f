"""From a shop's folder to a prepared dataset."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from engine.errors import DataError

from . import arrange
from .dataset import ARRAYS_FILE, ITEMS_FILE, META_FILE, Dataset, DatasetMeta
from .shop import FILES, Shop
from .tags import MIN_ITEMS, item_tags
from .text import Embedder, check_vectors

_VERSION = 3  # of what this module makes from the same files and settings


def prepare(
    source: Path, out: Path, *, embedder: Embedder, seed: int = 0, min_tag_items: int = MIN_ITEMS
) -> Dataset:
    """Checks the shop in `source` and writes its dataset to `out`.

    A dataset in `out` that was made of the same files with the same settings is loaded instead.

    Args:
        source: a folder in the schema of `shop.py`.
        embedder: gives each distinct item text its vector.
        seed: of the shuffle of events with equal times.
        min_tag_items: tags of fewer items are left out.
    Raises:
        DataError: the source breaks the schema, or `out` holds something that is no dataset.
    """
    settings: dict[str, str | int] = {
        "embedder": embedder.name,
        "seed": seed,
        "min_tag_items": min_tag_items,
    }
    fingerprint = _fingerprint(source, settings)
    _refuse_foreign(out)
    if _fingerprint_of(out) == fingerprint:
        return Dataset.load(out)
    shop = Shop.read(source)
    dataset = _build(shop, embedder, fingerprint, seed, min_tag_items)
    return dataset.save(out, shop.items.drop("available_from", "tags", strict=False))


def _build(
    shop: Shop, embedder: Embedder, fingerprint: str, seed: int, min_tag_items: int
) -> Dataset:
    items, users = shop.items, arrange.users(shop)
    texts, item_text = np.unique(items["text"].to_numpy().astype(object), return_inverse=True)
    text_rows = embedder.embed(texts.tolist())
    check_vectors(text_rows, len(texts), embedder.name)
    subclasses, item_subclass = arrange.codes(items["subclass"])
    tags = item_tags(items, min_tag_items)
    categorical, user_categorical = arrange.categorical(users)
    numeric, user_numeric = arrange.numeric(users)
    signals, first_day, signal_rows = arrange.signals(shop.calendar)
    promotions = arrange.promotions(shop)
    events = arrange.events(shop, users["user_id"], seed)
    pages = arrange.impressions(shop, users["user_id"])
    meta = DatasetMeta(
        name=shop.settings.name,
        timezone=shop.settings.timezone,
        has_time=shop.has_time,
        event_types=events.types,
        outcomes=events.outcomes,
        tags=tags.names,
        subclasses=subclasses,
        user_categorical=categorical,
        user_numeric=numeric,
        signals=signals,
        first_day=first_day,
        promotions=promotions.kinds,
        text_model=embedder.name,
        fingerprint=fingerprint,
    )
    return Dataset(
        meta=meta,
        item_ids=items["item_id"].to_numpy(),
        item_text=item_text.astype(np.int32),
        text_rows=text_rows,
        item_subclass=item_subclass,
        tag_offsets=tags.offsets,
        tag_ids=tags.ids,
        item_from=arrange.available_from(items),
        user_ids=np.array([name.encode() for name in users["user_id"]], dtype="S"),
        user_categorical=user_categorical,
        user_numeric=user_numeric,
        event_offsets=events.offsets,
        event_item=events.item,
        event_time=events.time,
        event_type=events.type,
        event_session=events.session,
        event_outcome=events.outcome,
        signals=signal_rows,
        promotion_offsets=promotions.offsets,
        promotion_first_day=promotions.first_day,
        promotion_last_day=promotions.last_day,
        promotion_strength=promotions.strength,
        impression_user=pages.user,
        impression_time=pages.time,
        impression_offsets=pages.offsets,
        impression_item=pages.item,
        impression_clicked=pages.clicked,
    )


def _fingerprint(source: Path, settings: dict[str, str | int]) -> str:
    """sha256 over the settings and the shop's files."""
    digest = hashlib.sha256(json.dumps({**settings, "version": _VERSION}, sort_keys=True).encode())
    for name in FILES:
        if (source / name).is_file():
            with (source / name).open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"\0{name}\0{content}".encode())
    return digest.hexdigest()


def _refuse_foreign(out: Path) -> None:
    """Raises DataError where writing to `out` would mix with files that are no dataset's."""
    ours = {META_FILE, ARRAYS_FILE, ITEMS_FILE}
    foreign = sorted({path.name for path in out.iterdir()} - ours) if out.is_dir() else []
    if foreign or out.is_file():
        raise DataError(f"{out}: expected a new folder or a dataset's, got {foreign or 'a file'}")


def _fingerprint_of(out: Path) -> str | None:
    """The fingerprint of the dataset in `out`; None where there is none that says so."""
    try:
        return str(json.loads((out / META_FILE).read_bytes())["fingerprint"])
    except (FileNotFoundError, ValueError, KeyError):
        return None
