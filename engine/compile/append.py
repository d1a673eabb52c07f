"""The append graph: new events of users whose keys and values are kept, and the vectors after them.

Equals the encode graph on the whole window, as long as the window has not hopped (`Stars`, "Mask"):
nothing that an event's keys and values depend on comes after it. It computes the new events and the
read-out; the read-out's keys and values are used by nobody and leave no trace.

A window that nothing is kept of goes in whole, with `is_user` set at its first row: then the row
of that place is the [USER] vector, which stands before all events.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.model.stars import Stars

from .graph import Block, Graph, Precision, graph_inputs

PAST = ("past_key", "past_value", "past_length", "past_day")
OUTPUTS = ("h_next", "h_gen", "key", "value")


def append_inputs(model: Stars) -> tuple[str, ...]:
    """Names of the graph's inputs, in order."""
    names = tuple(name for name in graph_inputs(model) if name != "length")
    return (*names, "is_user", *(PAST if "day" in names else PAST[:-1]))


class AppendGraph(Graph):
    """h_next, h_gen [B, d_serve] fp32 and the new rows' keys and values.

    Its inputs are the encode graph's over n new rows instead of L events, without `length`, and:

    - is_user [B, n] int32: 1 where the row is the [USER] vector;
    - past_key [B, layers, H, d, P] and past_value [B, layers, H, P, d] in the graph's dtype, [USER]
      first; the new `key` and `value` come out in the same layout, with n in the place of P;
    - past_length [B] int32: rows of them that are filled; the rest is padding, and finite;
    - past_day [B, P] int32, where layers have a day bias; [USER] has the first event's.

    Every user has n new rows. A user's first event follows its [USER] row; a [USER] row alone has
    no day yet, so it goes in with the first event.

    Kept and new rows meet in the logits and nowhere else, so that what is kept is read where it
    lies: keys transposed, as a product's right side.
    """

    def __init__(self, model: Stars, precision: Precision = "fp32") -> None:
        if model.config.pooling != "causal":
            raise ValueError(f"append: pooling: expected 'causal', got {model.config.pooling!r}")
        super().__init__(model, precision, append_inputs(model))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Both vectors, new keys and new values; `tensors` in the order of `self.inputs`."""
        given = dict(zip(self.inputs, tensors, strict=True))
        states = self._states(given)  # [B, n + 1, D], the read-out last
        n, n_kept = states.shape[1] - 1, given["past_key"].shape[4]
        kept_biases, new_biases = self._biases(given, n)
        keys, values = [], []
        for i, block in enumerate(self.layers):
            assert isinstance(block, Block)
            normed = block.norm_attention(states)
            key = block.split(block.key(normed[:, :n])).transpose(2, 3)  # [B, H, d, n]
            value = block.split(block.value(normed[:, :n]))
            keys.append(key)
            values.append(value)
            kept_bias, new_bias = kept_biases[i], new_biases[i]
            if i == len(self.layers) - 1:
                # Both vectors are read at the last two rows alone.
                states, normed = states[:, n - 1 :], normed[:, n - 1 :]
                kept_bias, new_bias = kept_bias[:, :, n - 1 :], new_bias[:, :, n - 1 :]
            query = block.split(block.query(normed))
            kept = (query @ given["past_key"][:, i]).float() + kept_bias
            logits = torch.cat([kept, (query @ key).float() + new_bias], dim=3)
            weights = torch.softmax(logits, dim=3).to(block.dtype)
            of_kept, of_new = weights[..., :n_kept], weights[..., n_kept:]
            attended = of_kept @ given["past_value"][:, i] + of_new @ value
            states = block.feed(states, attended)
        states = self.norm(states)
        h_next, h_gen = self.next(states[:, 0]).float(), self.general(states[:, 1]).float()
        return h_next, h_gen, torch.stack(keys, dim=1), torch.stack(values, dim=1)

    def _states(self, given: dict[str, Tensor]) -> Tensor:
        """Tokens of the new rows, and the read-out."""
        rows = self.tokens.events(given)
        place = torch.arange(rows.shape[1], dtype=torch.int32, device=rows.device)
        # The first filled row is [USER]: the event after it is at position 0.
        position = (given["past_length"][:, None] + place - 1).clamp(min=0)
        rows = rows + F.embedding(position, self.tokens.position)
        user = self.tokens.user(given, rows.shape[0])[:, None]
        is_user = given["is_user"][:, :, None].to(rows.dtype)
        read_out = user + self.tokens.read_out
        return torch.cat([rows * (1 - is_user) + user * is_user, read_out], dim=1)

    def _biases(self, given: dict[str, Tensor], n: int) -> tuple[list[Tensor], list[Tensor]]:
        """Bias and mask of every layer in fp32: over kept [B, H or 1, n + 1, P] and new rows."""
        length = given["past_length"][:, None]  # [B, 1]
        kept = torch.arange(given["past_key"].shape[4], dtype=torch.int32, device=length.device)
        new = torch.arange(n, dtype=torch.int32, device=length.device)
        # All see what is kept; of the new ones row i sees 0 … i, and the read-out all.
        cut_kept = length.expand(-1, n + 1)
        cut_new = torch.cat([new + 1, torch.full_like(new[:1], n)]).expand(length.shape[0], -1)
        if "past_day" not in given:
            masks = self.bias.mask(cut_kept, kept), self.bias.mask(cut_new, new)
            both = [[mask.float()] * len(self.layers) for mask in masks]
            return both[0], both[1]
        day = given["day"]
        queries = torch.cat([day, day[:, -1:]], dim=1)
        biases = (
            self.bias.product(self.bias.table, cut_kept, kept, queries, given["past_day"]),
            self.bias.product(self.bias.table, cut_new, new, queries, day),
        )
        both = [list(torch.split(bias.float(), self.bias.heads, dim=1)) for bias in biases]
        return both[0], both[1]
