"""What the report asks of LambdaMART's trees besides lists of the whole catalogue."""

import numpy as np

from engine.evaluation.candidate_sets import CandidateSets
from engine.evaluation.lambdamart import collect
from engine.evaluation.lambdamart_answers import given_candidates, without_history
from engine.evaluation.lambdamart_config import LambdaMartConfig
from engine.evaluation.lambdamart_shop import Events
from engine.evaluation.protocol import last_cuts, next_session
from engine.training.history import past
from tests.tiny import tiny_shop


def test_given_candidates_have_the_features_that_the_trees_learned_from() -> None:
    dataset = tiny_shop()
    cuts = last_cuts(dataset)
    task = next_session(dataset, cuts.test, cuts.end)
    events, config = Events(dataset, ("purchase",)), LambdaMartConfig()
    found = collect(dataset, events, task, config, None)
    starts = np.append(0, np.cumsum(found.sizes))
    places = np.array([1, 3, 3])
    items = [np.sort(found.items[starts[q] : starts[q + 1]])[n::3] for n, q in enumerate(places)]
    sets = CandidateSets(places, [own.astype(np.int64) for own in items], np.zeros(3, np.int64))
    given = given_candidates(dataset, events, task, sets, None)
    assert given.sizes.tolist() == [len(own) for own in items]
    ends = np.cumsum(given.sizes)
    for place, end, own in zip(places, ends, items, strict=True):
        mine = slice(end - len(own), end)
        assert np.array_equal(given.items[mine], own)
        theirs = slice(starts[place], starts[place + 1])
        order = np.argsort(found.items[theirs])
        at = order[np.searchsorted(found.items[theirs][order], own)]
        assert np.array_equal(given.rows[mine], found.rows[theirs][at])
    assert (
        given_candidates(
            dataset, events, task, CandidateSets(places[:0], [], places[:0]), None
        ).sizes.tolist()
        == []
    )


def test_what_is_new_is_in_nobodys_own_history() -> None:
    dataset = tiny_shop()
    cuts = last_cuts(dataset)
    task = next_session(dataset, cuts.test, cuts.end)
    found = collect(dataset, Events(dataset, ("purchase",)), task, LambdaMartConfig(), None)
    new = without_history(found, dataset, cuts.test)
    history = past(dataset, cuts.test, 1.0, ("purchase",))
    starts, of_new = (np.append(0, np.cumsum(each.sizes)) for each in (found, new))
    assert 0 < len(new.items) < len(found.items)
    for q, user in enumerate(task.users.tolist()):
        whole = found.items[starts[q] : starts[q + 1]]
        kept = new.items[of_new[q] : of_new[q + 1]]
        own = history.item[history.events(user)]
        assert kept.tolist() == [item for item in whole.tolist() if item not in own]
