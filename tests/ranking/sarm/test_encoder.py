import numpy as np
import polars as pl
import pytest
import torch

from engine.ranking.sarm.anchors import FIELDS, checked_anchors
from engine.ranking.sarm.config import EncoderConfig
from engine.ranking.sarm.encoder import AnchorEncoder, TokenTensors, mini_lm_vectors
from engine.ranking.sarm.tokens import fit_tokenizer

TEXTS = [
    "late night guitar",
    "late night guitar",
    "fish",
    "",
    "a long talk on chess and tea, again",
]


def anchors() -> pl.DataFrame:
    texts = {name: [""] * len(TEXTS) for name in FIELDS} | {"theme": TEXTS}
    frame = pl.DataFrame({"author_id": range(len(TEXTS)), "time": [0] * len(TEXTS), **texts})
    return checked_anchors(frame, "a")


TOKENIZER = fit_tokenizer(anchors(), 80)
TOKENS = TokenTensors.of(TOKENIZER.encode(anchors(), 20))
AUTHORS = torch.arange(len(TEXTS))
ALL = torch.arange(len(TEXTS))


def encoder(gate: str = "gate", seed: int = 0, *, trained: bool = True) -> AnchorEncoder:
    """One whose parts that start at 0 are moved, as training would."""
    torch.manual_seed(seed)
    config = EncoderConfig(dim=16, hidden=24, max_tokens=20, units=80, gate=gate)  # type: ignore[arg-type]
    found = AnchorEncoder(config, *TOKENIZER.sizes, authors=len(TEXTS))
    if trained:
        for parameter in found.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return found.eval()


def test_without_values_the_gate_is_the_base_encoder() -> None:
    """W_V = 0, as at the start, equals the encoder without domain tokens to the bit."""
    gated, base = encoder("gate"), encoder("none")
    base.load_state_dict(gated.state_dict())
    assert not torch.equal(gated(TOKENS, AUTHORS).cls, base(TOKENS, AUTHORS).cls)
    gated.value.weight.data.zero_()
    for one, other in zip(gated(TOKENS, AUTHORS), base(TOKENS, AUTHORS), strict=True):
        assert torch.equal(one, other)
    assert not encoder("gate", trained=False).value.weight.any()


def test_the_gate_is_its_formula_and_the_sum_is_alpha_one() -> None:
    gated, summed = encoder("gate"), encoder("sum")
    summed.load_state_dict(gated.state_dict())
    h = gated.token(TOKENS.base) + gated.field(TOKENS.field)
    unit = gated.unit.weight[TOKENS.domain.clamp(min=0).long()]
    covered = (TOKENS.domain >= 0)[..., None]
    k, v = gated.key(unit), gated.value(unit)
    norm = torch.nn.functional.rms_norm
    agreement = (norm(h, (16,), eps=1e-6) * gated.gate_scale * norm(k, (16,), eps=1e-6)).sum(-1)
    alpha = torch.sigmoid(agreement / 4)[..., None]
    torch.testing.assert_close(gated._gated(h, TOKENS.domain), h + covered * alpha * v)
    torch.testing.assert_close(summed._gated(h, TOKENS.domain), h + covered * v)


def test_one_text_has_one_content_and_each_author_reads_it_their_own_way() -> None:
    found = encoder()(TOKENS, AUTHORS)
    assert torch.equal(found.cls[0], found.cls[1])
    assert (found.tar[0] - found.tar[1]).abs().max() > 1e-4
    assert (found.cls[0] - found.cls[2]).abs().max() > 1e-2


def test_an_author_never_trained_is_the_default_id() -> None:
    fresh = encoder(trained=False)
    own, default = fresh(TOKENS, AUTHORS), fresh(TOKENS, torch.full_like(AUTHORS, -1))
    assert torch.equal(own.tar, default.tar)
    assert not torch.equal(encoder()(TOKENS, AUTHORS).tar, encoder()(TOKENS, AUTHORS - 1).tar)


@pytest.mark.parametrize("extra", [1, 3, 13])
def test_padding_changes_nothing(extra: int) -> None:
    found = encoder()(TOKENS, AUTHORS)
    longest = TOKENS.base.shape[1]
    assert longest + 3 <= 20
    wide = min(longest + extra, 20)
    shape = (len(TEXTS), wide)
    padded = TokenTensors(
        torch.full(shape, 17), torch.full(shape, 3, dtype=torch.int32), torch.full(shape, 2),
        TOKENS.length,
    )  # fmt: skip
    for part, given in zip(padded[:3], TOKENS[:3], strict=True):
        for row, n in enumerate(TOKENS.length):
            part[row, :n] = given[row, :n].to(part.dtype)
    for one, other in zip(encoder()(padded, AUTHORS), found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_anchors_alone_are_as_in_company() -> None:
    """Rows do not see each other, and columns beyond all lengths are cut."""
    whole, net = encoder()(TOKENS, AUTHORS), encoder()
    for row in range(len(TEXTS)):
        part = TOKENS.at(torch.tensor([row]))
        assert part.base.shape[1] == TOKENS.length[row]
        torch.testing.assert_close(net(part, AUTHORS[[row]]).cls[0], whole.cls[row])
    empty = net(TOKENS.at(torch.zeros(0, dtype=torch.int64)), AUTHORS[:0])
    assert empty.cls.shape == (0, 16)


def test_positions_turn_by_their_distance() -> None:
    """Rotary: scores hang on the difference of places alone."""
    from engine.ranking.sarm.encoder import _rope, _turned

    cos, sin = _rope(12, 16)
    torch.manual_seed(0)
    q, k = torch.randn(2, 16)
    scores = _turned(q.expand(12, -1), cos, sin) @ _turned(k.expand(12, -1), cos, sin).T
    torch.testing.assert_close(scores[:-1, :-1], scores[1:, 1:], rtol=1e-4, atol=1e-4)
    assert (scores[0, 1] - scores[1, 0]).abs() > 1e-3


def test_order_matters_and_tokens_get_gradients() -> None:
    net = encoder()
    turned = TokenTensors(TOKENS.base.clone(), *TOKENS[1:])
    turned.base[0, 1:4] = turned.base[0, 1:4].flip(0)
    assert (net(turned, AUTHORS).cls[0] - net(TOKENS, AUTHORS).cls[0]).abs().max() > 1e-4
    found = net(TOKENS, AUTHORS)
    (found.cls.square().sum() + found.tar.square().sum()).backward()
    touched = net.token.weight.grad.coalesce().indices()[0]  # type: ignore[union-attr]
    assert set(touched.tolist()) == set(TOKENS.base.flatten().tolist())
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name


def test_token_vectors_start_from_pretrained_ones() -> None:
    """Principal directions keep inner products better than any others: neighbours stay near."""
    net, given = encoder(), mini_lm_vectors()
    net.start_from(given)
    kept = net.token.weight.detach()
    assert kept.square().mean().sqrt().item() == pytest.approx(0.1, rel=1e-4)
    words = ["guitar", "piano", "bread"]
    a, b, c = kept[[TOKENIZER.base.token_to_id(word) for word in words]]
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(a, b, 0) > cosine(a, c, 0) + 0.1
    with pytest.raises(ValueError, match=r"vectors: expected \[30522, .* 16\], got \[30522, 8\]"):
        net.start_from(np.zeros((30522, 8), np.float32))
