from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.ranking.auc import auc
from engine.ranking.sarm.config import SarmConfig
from engine.ranking.sarm.model import Sarm, UserSequence
from engine.ranking.sarm.online import batches, run
from engine.ranking.sarm.rungs import GATE, LADDER
from tests.ranking.sarm.tiny import CHANGE_S, CONFIG, contents, made

ROWS = np.arange(64)


def test_a_bank_read_is_a_fresh_encoding_right_after_a_write() -> None:
    online, _ = made()
    for rows in batches(0, 128, 64):
        online.learn(rows)
    online.restart()
    online.refresh(int(online.stream.time[128]))
    held = online.stream.held(int(online.stream.time[128]))
    with torch.no_grad():
        fresh = online.model.authors(torch.from_numpy(held), torch.arange(len(held)))
    read = online.bank.read(np.arange(len(held)))
    for one, other in zip(read, fresh, strict=True):
        np.testing.assert_allclose(one, other.numpy(), rtol=1e-5, atol=1e-6)
    assert (held < 0).sum() == 1  # the streamer without an anchor reads the null vector
    np.testing.assert_array_equal(read.cls[held < 0][0], online.model.null[0].detach().numpy())


def test_a_batch_writes_its_authors_and_no_others() -> None:
    online, _ = made()
    online.learn(ROWS)
    before = online.bank.all()
    rows = np.arange(64, 80)  # few of the streamers
    online.learn(rows)
    after, shown = online.bank.all(), np.unique(online.stream.author[rows])
    changed = np.flatnonzero((before.cls != after.cls).any(1)[:-1] & (online.bank.version >= 0))
    with_anchor = shown[online.stream.held(2**31)[shown] >= 0]
    assert set(changed) == set(with_anchor)
    assert (online.bank.version[with_anchor] == 2).all()
    assert (online.bank.time[with_anchor] == online.stream.time[79]).all()


def test_history_gets_no_gradient() -> None:
    """What a user's clicked authors say moves the sequence alone, never their encoder."""
    online, _ = made()
    online.learn(ROWS)
    rows = np.arange(500, 564)
    assert (online.stream.history[online.stream.request[rows]] >= 0).any()
    online.model.zero_grad()
    user = online.user(rows)
    assert user is not None
    user.square().sum().backward()
    moved = {name for name, p in online.model.named_parameters() if p.grad is not None}
    assert moved == {f"sequence.{name}" for name, _ in online.model.sequence.named_parameters()}  # type: ignore[union-attr]


def test_targets_get_their_gradient_through_the_encoder() -> None:
    online, _ = made()
    before = online.model.content.encoder.token.weight.clone()  # type: ignore[union-attr]
    online.learn(ROWS)
    moved = (online.model.content.encoder.token.weight != before).any(1)  # type: ignore[union-attr]
    used = online.model.content.tokens.base.unique()  # type: ignore[union-attr]
    assert 0 < moved.sum() <= len(used)


def test_what_is_asked_is_read_from_the_bank_alone() -> None:
    online, _ = made()
    online.learn(ROWS)
    rows = np.arange(128, 192)
    asked = online.ask(rows)
    for parameter in online.model.content.parameters():  # type: ignore[union-attr]
        parameter.data.fill_(float("nan"))
    np.testing.assert_array_equal(online.ask(rows), asked)


def test_asking_changes_nothing_that_is_learned() -> None:
    online, _ = made()
    online.learn(ROWS)
    before = {k: v.clone() for k, v in online.model.state_dict().items()}
    online.ask(np.arange(128, 192))
    assert all(torch.equal(v, before[k]) for k, v in online.model.state_dict().items())


def test_later_labels_change_no_answer() -> None:
    """Each batch is asked before it is learned from."""
    found = []
    for _ in range(2):
        online, _ = made(n=400)
        flow = online.stream
        if found:
            labels = flow.labels.clone()
            labels[300:] = 1 - labels[300:]
            flow = replace(flow, labels=labels)
        torch.manual_seed(0)
        found.append(run(CONFIG, flow, online.model, 200)[0])
    half = 300 - 200 - (300 - 200) % 64  # whole batches of the rows before 300
    np.testing.assert_array_equal(found[0][:half], found[1][:half])
    assert np.abs(found[0][-40:] - found[1][-40:]).max() > 1e-3


def test_a_sweep_writes_those_not_seen_for_a_day_and_a_new_anchor_at_once() -> None:
    online, _ = made()
    start = int(online.stream.time[0])
    assert online.refresh(start) == 19
    assert online.refresh(start + 3600) == 0
    assert online.refresh(start + 86_400 + 1) == 19
    assert online.refresh(start + CHANGE_S - 1) == 0
    assert online.refresh(start + CHANGE_S + 1) == 1


@pytest.mark.parametrize("rung", [*LADDER, GATE[1]], ids=lambda rung: rung.name)
def test_every_rung_learns(rung) -> None:  # type: ignore[no-untyped-def]
    config = rung.of(CONFIG)
    online, features = made(config)
    losses = [online.learn(rows) for _ in range(3) for rows in batches(0, 600, 100)]
    assert np.mean(losses[-6:]) < np.mean(losses[:6])
    assert online.ask(ROWS).shape == (64, len(features.objectives))


def test_who_likes_which_text_is_found() -> None:
    """Clicks hang on user and theme alone: what is asked is ordered well above chance."""
    online, _ = made(n=4000)
    config = CONFIG.model_copy(update={"online": CONFIG.online.model_copy(update={"passes": 3})})
    found, _ = run(config, online.stream, online.model, 3000)
    clicks = online.stream.labels[3000:, :1].numpy() > 0
    assert auc(found[:, 0], clicks)[0] > 0.65


def test_the_first_answer_is_near_the_rates() -> None:
    online, _ = made()
    found = online.ask(ROWS).mean(0)
    np.testing.assert_allclose(found, online.stream.labels.mean(0).numpy(), atol=0.1)


def test_the_same_seed_gives_the_same_answers() -> None:
    one, two = (run(CONFIG, o.stream, o.model, 400)[0] for o in (made()[0], made()[0]))
    np.testing.assert_array_equal(one, two)


def test_the_pool_is_the_mean_and_padding_is_not_in_it() -> None:
    torch.manual_seed(0)
    sequence = UserSequence(8, 4)
    history, known = torch.randn(1, 4, 8), torch.tensor([[False, False, True, True]])
    found = sequence(history, known)
    moved = history.clone()
    moved[0, :2] = 99
    torch.testing.assert_close(sequence(moved, known), found)
    short = sequence(history[:, 2:], known[:, 2:])
    torch.testing.assert_close(short, found)
    empty = sequence(history, torch.zeros(1, 4, dtype=torch.bool))
    assert torch.isfinite(empty).all()


@pytest.mark.parametrize(
    ("ranker", "message"),
    [
        ({"content": "frozen"}, "identity: expected content encoder, got frozen"),
        ({"content": "none", "identity": False}, "content none: expected no sequence and"),
    ],
)
def test_parts_that_their_content_cannot_give_are_refused(
    ranker: dict[str, object], message: str
) -> None:
    online, features = made()
    config = SarmConfig(encoder=CONFIG.encoder, ranker=CONFIG.ranker.model_copy(update=ranker))
    flow = online.stream
    with pytest.raises(ValueError, match=message):
        Sarm(config, features, contents(flow, CONFIG), 0, flow.labels.mean(0))
