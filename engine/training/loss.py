"""The training objective (engine/model/README.md, "Objective")."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.config import TrainConfig
from engine.model.stars import Stars
from engine.ops import candidate_softmax

from .batches import Batch
from .shared_softmax import shared_softmax


@dataclass(frozen=True)
class Losses:
    """Means over the batch's positions, scalars: L = next + λ_neg negative + λ_aux auxiliary
    + λ_gen general + λ_rep repeat."""

    total: Tensor
    next: Tensor
    general: Tensor
    negative: Tensor
    auxiliary: Tensor
    repeat: Tensor


class _Terms(NamedTuple):
    """Of one head: loss and negative loss [P], repeat loss a scalar."""

    loss: Tensor
    negative: Tensor
    repeat: Tensor


class Objective(nn.Module):
    """Model and loss as one module, so that data-parallel training wraps both."""

    prior: Tensor

    def __init__(self, model: Stars, config: TrainConfig, log_p: Tensor) -> None:
        """log_p: [N] float32, log of the items' smoothed shares."""
        super().__init__()
        self.model = model
        self._config = config
        # Without histories a position lists its targets; it has no repeat term either.
        self._few = config.history_candidates == 0 and config.lambda_neg == 0
        self.register_buffer("prior", -config.lambda_train * log_p, persistent=False)

    def forward(self, batch: Batch) -> Losses:
        """Losses of one batch."""
        model, config = self.model, self._config
        rows = model.items.rows(batch.item)  # [n, d_model]
        items = model.items.candidates(rows)  # [n, d_serve]
        inputs = rows, batch.events, batch.ends, batch.sequence
        if config.lambda_gen:
            last, read_out = model.hidden(*inputs)
            read_out = read_out.flatten(0, 1).index_select(0, batch.position)
        else:
            last, read_out = model.last(*inputs), None
        last = last.flatten(0, 1).index_select(0, batch.position)  # [P, d_model]
        delta = model.context(batch.hour, batch.weekday, batch.week, batch.gap_days, batch.signals)
        h_next = model.head_next(last) + delta
        prior = self.prior[batch.item]
        repeat = model.repeats(batch.candidates.features) if model.config.repeats else None

        following = self._softmax(0, h_next, items, prior, repeat, batch)
        general_loss = auxiliary = torch.zeros_like(following.repeat)
        repeat_loss = following.repeat
        if read_out is not None:
            h_general = model.head_general(read_out) + delta
            general = self._softmax(1, h_general, items, prior, repeat, batch)
            general_loss = general.loss.mean()
            repeat_loss = repeat_loss + config.lambda_gen * general.repeat
        if config.lambda_aux:
            auxiliary = _auxiliary(
                model.auxiliary(last), items.index_select(0, batch.auxiliary), batch.auxiliary
            )
        next_loss, negative = following.loss.mean(), following.negative.mean()
        total = (
            next_loss
            + config.lambda_neg * negative
            + config.lambda_aux * auxiliary
            + config.lambda_gen * general_loss
            + config.lambda_rep * repeat_loss
        )
        return Losses(total, next_loss, general_loss, negative, auxiliary, repeat_loss)

    def _softmax(
        self,
        head: int,
        hidden: Tensor,
        items: Tensor,
        prior: Tensor,
        repeat: Tensor | None,
        batch: Batch,
    ) -> _Terms:
        """The terms of one head."""
        own = batch.candidates
        weight = own.weight_next if head == 0 else own.weight_general
        if self._few and hidden.device.type == "cpu":
            lists = own.shared, own.shared_log_pi, own.own, own.log_pi, weight
            loss = shared_softmax(hidden, items, prior, *lists)
            return _Terms(loss, torch.zeros_like(loss), loss.new_zeros(()))
        offset = torch.zeros_like(own.log_pi)
        repeat_loss = offset.new_zeros(())
        if repeat is not None:
            # ρ = r + (a - 1) h·c, so that a bought item's logit is a h·c + b + r.
            dot = (hidden @ items.T).gather(1, own.own.clamp(min=0))
            flat = torch.zeros_like(own.log_pi).flatten()
            # Under mixed precision r comes in a half type, which CUDA would not copy into fp32.
            r = flat.index_copy(0, own.bought, repeat[:, head].to(flat.dtype)).view_as(dot)
            bought = flat.index_fill(0, own.bought, 1.0).view_as(dot)
            scale = self.model.repeats.scale[head]
            offset = r + (scale - 1) * bought * dot
            if self._config.lambda_rep:
                logits = r + scale * dot.detach() + prior[own.own.clamp(min=0)]
                repeat_loss = _repeat(logits, bought > 0, weight > 0)
        result = candidate_softmax(
            hidden,
            items,
            prior,
            own.shared,
            own.shared_log_pi,
            own.own,
            own.log_pi,
            offset,
            weight,
            own.negative,
        )
        return _Terms(result.loss, result.negative_loss, repeat_loss)


def _repeat(logits: Tensor, bought: Tensor, target: Tensor) -> Tensor:
    """Softmax loss of the targets that were bought before among all that were.

    Args:
        logits: [P, C] of own candidates.
        bought, target: [P, C] bool.
    Returns:
        The mean over such targets, a scalar: every purchase counts alike, in a large session as in
        a small one. 0 where there is none.
    """
    logits = logits.masked_fill(~bought, torch.finfo(logits.dtype).min)
    wanted = (bought & target).to(logits.dtype)
    loss = (torch.logsumexp(logits, dim=1, keepdim=True) - logits) * wanted
    return loss.sum() / wanted.sum().clamp(min=1)


def _auxiliary(projected: Tensor, target: Tensor, item: Tensor) -> Tensor:
    """Contrastive loss of contextual outputs against one target each, the batch as negatives.

    Args:
        projected: [P, D] outputs in the product space.
        target: [P, D] vectors of the targets.
        item: [P] which item each target is; an equal one is no negative.
    """
    logits = projected @ target.T
    same = item[:, None] == item[None, :]
    same.fill_diagonal_(False)
    place = torch.arange(len(item), device=item.device)
    return F.cross_entropy(logits.masked_fill(same, float("-inf")), place)
