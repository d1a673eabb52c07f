"""SARM as an online stream: each batch is asked of the bank, then learned from.

A batch's target authors are encoded with gradient and written to the bank; users' histories, and
all that is asked, read the bank, without gradient. Before a batch, authors whose anchor is new are
encoded, and so is, once a sweep, whoever was not written for that long.
"""

import numpy as np
import torch
from torch import Tensor, nn

from ..auc import F64, Ids
from .config import OnlineConfig, SarmConfig
from .encoder import AnchorEncoder, Encoded
from .memory_bank import MemoryBank
from .model import Sarm
from .stream import Stream

_CHUNK = 512  # authors that a sweep encodes at once


class Online:
    """A model, its bank and its optimisers over one stream."""

    def __init__(self, config: SarmConfig, stream: Stream, model: Sarm) -> None:
        self.model, self.stream, self.config = model, stream, config
        self.bank = MemoryBank(stream.authors, config.encoder.dim)
        self.steps = 0
        self._written = np.full(len(stream.authors), -2, np.int64)  # anchor of each bank row
        self._swept: int | None = None
        self._optimisers = _optimisers(model, config.online)

    def learn(self, rows: Ids) -> float:
        """One step on a batch of impressions, its authors written to the bank; the loss."""
        at = torch.from_numpy(rows)
        stream, model = self.stream, self.model
        self.refresh(int(stream.time[rows[0]]))
        authors, encoded, anchor = None, None, None
        if model.content is not None:
            anchor, inverse = np.unique(stream.anchor[rows], return_inverse=True)
            encoded = model.authors(torch.from_numpy(anchor), self._author_of(anchor))
            authors = model.read(encoded)[torch.from_numpy(inverse)]
        inputs = stream.inputs.at(at)
        logits = model(*inputs, authors, self.user(rows))
        loss = model.loss(logits, stream.labels[at], authors)
        for optimiser in self._optimisers:
            optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for optimiser in self._optimisers:
            optimiser.step()
        self.steps += 1
        if encoded is not None and anchor is not None:
            self._write(anchor, encoded, int(stream.time[rows[-1]]))
        return float(loss.detach())

    @torch.no_grad()
    def ask(self, rows: Ids) -> F64:
        """Probabilities [n, M] of impressions, authors read from the bank alone."""
        self.refresh(int(self.stream.time[rows[0]]))
        authors = None
        if self.model.content is not None:
            read = self.bank.read(self.stream.author[rows])
            authors = self.model.read(Encoded(*(torch.from_numpy(part) for part in read)))
        inputs = self.stream.inputs.at(torch.from_numpy(rows))
        logits = self.model(*inputs, authors, self.user(rows))
        found: F64 = torch.sigmoid(logits).double().numpy()
        return found

    def user(self, rows: Ids) -> Tensor | None:
        """h_UIN of each impression's user, [n, D]: gradient reaches the sequence, not the bank."""
        if self.model.sequence is None:
            return None
        requests, inverse = np.unique(self.stream.request[rows], return_inverse=True)
        history = self.stream.history[requests]
        read = torch.from_numpy(self.bank.read(np.where(history < 0, len(self.bank), history)).cls)
        found: Tensor = self.model.sequence(read, torch.from_numpy(history >= 0))
        return found[torch.from_numpy(inverse)]

    @torch.no_grad()
    def refresh(self, now: int) -> int:
        """Encodes authors with an anchor not in the bank, and once a sweep those not written for
        so long; how many."""
        if self.model.content is None:
            return 0
        self.bank.write_null(*self.model.null.detach().numpy())
        held = self.stream.held(now)
        asked = held != self._written
        if self._swept is None or not 0 <= now - self._swept < self.config.online.sweep_s:
            asked[self.bank.stale(now - self.config.online.sweep_s)] = True
            self._swept = now
        anchor = held[asked & (held >= 0)]
        for start in range(0, len(anchor), _CHUNK):
            part = anchor[start : start + _CHUNK]
            self._write(
                part, self.model.authors(torch.from_numpy(part), self._author_of(part)), now
            )
        return len(anchor)

    def restart(self) -> None:
        """Time begins again: the next batch sweeps every author."""
        self._written[:] = -2
        self._swept = None

    def _author_of(self, anchor: Ids) -> Tensor:
        """Places of the authors of anchors; -1 for anchor -1."""
        ids = self.stream.anchors["author_id"].to_numpy()[np.maximum(anchor, 0)]
        return torch.from_numpy(np.where(anchor < 0, -1, np.searchsorted(self.stream.authors, ids)))

    def _write(self, anchor: Ids, encoded: Encoded, now: int) -> None:
        """Distinct anchors, ascending: the later of two of one author stays."""
        author = self._author_of(anchor).numpy()
        last = np.r_[author[1:] != author[:-1], True] & (author >= 0)
        kept = np.flatnonzero(last)
        cls, tar = (part.detach().numpy()[kept] for part in encoded)
        self.bank.write(author[kept], cls, tar, version=self.steps, time=now)
        self._written[author[kept]] = anchor[kept]


def _optimisers(model: Sarm, config: OnlineConfig) -> list[torch.optim.Optimizer]:
    """AdamW, tables and the encoder's layers at rates of their own; the base tokens' table has
    sparse gradients, and no decay."""
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding)]
    sparse = [m.weight for m in tables if m.sparse]
    rows = [m.weight for m in tables if not m.sparse]
    held = {id(p) for p in (*sparse, *rows)}
    encoders = [m for m in model.modules() if isinstance(m, AnchorEncoder)]
    read = [p for m in encoders for p in m.parameters() if id(p) not in held]
    held |= {id(p) for p in read}
    groups = [(config.table_lr, rows), (config.encoder_lr, read)]
    groups.append((config.lr, [p for p in model.parameters() if id(p) not in held]))
    dense = torch.optim.AdamW(
        [{"params": group, "lr": lr} for lr, group in groups if group],
        weight_decay=config.weight_decay, fused=True,
    )  # fmt: skip
    return [dense, torch.optim.SparseAdam(sparse, lr=config.token_lr)] if sparse else [dense]


def run(config: SarmConfig, stream: Stream, model: Sarm, first: int) -> tuple[F64, Online]:
    """Probabilities of the impressions from `first` on, each asked before it is learned from.

    Those before are learned from `passes` times.
    """
    online = Online(config, stream, model)
    for _ in range(config.online.passes):
        online.restart()
        for rows in batches(0, first, config.online.batch):
            online.learn(rows)
    found = []
    for rows in batches(first, len(stream), config.online.batch):
        found.append(online.ask(rows))
        online.learn(rows)
    return np.concatenate(found), online


def batches(start: int, end: int, size: int) -> list[Ids]:
    """Runs of `size` places in [start, end), the last one shorter."""
    return [np.arange(at, min(at + size, end)) for at in range(start, end, size)]
