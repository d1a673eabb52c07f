import json
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import RequestError
from engine.retrieval.columns import Columns, Scalar
from engine.retrieval.filters import FilterCache
from engine.retrieval.predicate import (
    MAX_CHARACTERS,
    MAX_COMPARISONS,
    MAX_DEPTH,
    compile_predicate,
)

VALUES: dict[str, list[Scalar]] = {
    "brand": ["a", "b", None, "c", "a", "", "b", "ü"],
    "size": [1, 2, 3, None, 2, -(2**63), 2**63 - 1, 2**53 + 1],
    "price": [0.5, 1.0, 2.5, None, -1.0, 1e300, 0.0, 2.0],
    "organic": [True, False, None, True, False, True, None, False],
}
N = 8
COLUMNS = Columns.from_values(VALUES, N)

numbers = st.sampled_from(
    [
        -1,
        0,
        1,
        1.5,
        2,
        2.0,
        3,
        0.5,
        -1e300,
        1e300,
        2**53,
        2**53 + 1,
        2.0**53,
        2**63,
        -(2**63),
        10**30,
    ]
)
VALUE = {
    "brand": st.sampled_from(["a", "b", "c", "", "ü", "zz"]),
    "size": numbers,
    "price": numbers.filter(lambda number: number != 2**53 + 1),  # beyond what float64 can hold
    "organic": st.booleans(),
}


@st.composite
def comparisons(draw: st.DrawFn) -> dict[str, Any]:
    name = draw(st.sampled_from(sorted(VALUES)))
    ordered = ["lt", "le", "gt", "ge"] if name in ("size", "price") else []
    operators = draw(
        st.lists(st.sampled_from(["eq", "ne", "in", *ordered]), min_size=1, max_size=3)
    )
    value = VALUE[name]
    return {
        name: {
            word: draw(st.lists(value | st.none(), max_size=4))
            if word == "in"
            else draw(value if word in ordered else value | st.none())
            for word in operators
        }
    }


predicates = st.recursive(
    comparisons(),
    lambda inner: (
        st.builds(lambda parts: {"and": parts}, st.lists(inner, max_size=3))
        | st.builds(lambda parts: {"or": parts}, st.lists(inner, max_size=3))
        | st.builds(lambda part: {"not": part}, inner)
        | st.builds(lambda left, right: left | right, inner, inner)
    ),
    max_leaves=8,
)

COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}


def holds(node: dict[str, Any], item: int) -> bool:
    """The language's rules in plain Python, for one item."""

    def entry(name: str, rule: Any) -> bool:
        if name == "and":
            return all(holds(part, item) for part in rule)
        if name == "or":
            return any(holds(part, item) for part in rule)
        if name == "not":
            return not holds(rule, item)
        return all(compares(VALUES[name][item], word, rule[word]) for word in rule)

    return all(entry(name, rule) for name, rule in node.items())


def compares(value: Scalar, word: str, wanted: Any) -> bool:
    if word == "in":
        return any(compares(value, "eq", one) for one in wanted)
    if word == "eq":
        return value is None if wanted is None else value is not None and value == wanted
    if word == "ne":
        return value is not None and value != wanted
    return value is not None and COMPARE[word](value, wanted)


@given(node=predicates)
@settings(deadline=None, max_examples=500)
def test_a_predicate_equals_plain_python(node: dict[str, Any]) -> None:
    mask = compile_predicate(json.dumps(node), COLUMNS).evaluate()
    assert mask.dtype == np.bool_
    assert mask.tolist() == [holds(node, item) for item in range(N)]


def select(text: str) -> list[int]:
    return np.flatnonzero(compile_predicate(text, COLUMNS).evaluate()).tolist()


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ('{"brand": {"eq": "a"}}', [0, 4]),
        ('{"brand": {"eq": null}}', [2]),
        ('{"brand": {"ne": null}}', [0, 1, 3, 4, 5, 6, 7]),
        ('{"brand": {"ne": "a"}}', [1, 3, 5, 6, 7]),
        ('{"brand": {"in": ["b", null, "unseen"]}}', [1, 2, 6]),
        ('{"brand": {"in": []}}', []),
        ('{"not": {"price": {"lt": 1e300}}}', [3, 5]),
        ('{"price": {"ge": 0.5, "lt": 2.5}}', [0, 1, 7]),
        ('{"price": {"ge": 1}, "brand": {"eq": "b"}}', [1]),
        ('{"size": {"le": 1.5}}', [0, 5]),
        ('{"size": {"eq": 9007199254740993}}', [7]),
        ('{"size": {"eq": 9007199254740992}}', []),
        ('{"size": {"lt": 1' + "0" * 200 + "}}", [0, 1, 2, 4, 5, 6, 7]),
        ('{"organic": {"eq": false}}', [1, 4, 7]),
        ('{"and": []}', list(range(N))),
        ('{"or": []}', []),
    ],
)
def test_rules_by_example(text: str, items: list[int]) -> None:
    assert select(text) == items


REFUSED = [
    ("", "filter: expected JSON, got Expecting value"),
    ("{", "filter: expected JSON"),
    ('{"price": {"lt": 1}} x', "filter: expected JSON, got Extra data"),
    ('\ufeff{"and": []}', "filter: expected JSON"),
    ("7", "filter: expected an object of and, or, not or a column, got 7"),
    ("null", "filter: expected an object .* got null"),
    ("[]", r"filter: expected an object .* got \[\]"),
    ("{}", r"filter: expected an object of and, or, not or a column, got \{\}"),
    ('{"colour": {"eq": 1}}', r"filter: .* a column \(brand, size, price, organic\), got 'colour'"),
    ('{"\\ud800": {"eq": 1}}', r"filter: .* got '\\ud800'"),
    ('{"and": {}}', r"filter\.and: expected a list of predicates, got \{\}"),
    ('{"or": [{"and": []}, 3]}', r"filter\.or\[1\]: expected an object .* got 3"),
    ('{"not": []}', r"filter\.not: expected an object .* got \[\]"),
    ('{"price": 3}', r"filter\.price: expected an object of eq, ne, in, lt, le, gt, ge, got 3"),
    ('{"price": {}}', r"filter\.price: expected an object of eq, .* got \{\}"),
    ('{"price": {"near": 3}}', r"filter\.price: expected eq, .* for float values, got 'near'"),
    ('{"brand": {"lt": "a"}}', r"filter\.brand: expected eq, ne, in for string values, got 'lt'"),
    (
        '{"organic": {"ge": true}}',
        r"filter\.organic: expected eq, ne, in for bool values, got 'ge'",
    ),
    (
        '{"and": [{"brand": {"eq": "a"}}, {"price": {"lt": "x"}}]}',
        r"filter\.and\[1\]\.price\.lt: expected a number, got 'x'",
    ),
    ('{"size": {"eq": true}}', r"filter\.size\.eq: expected a number, got True"),
    ('{"size": {"lt": null}}', r"filter\.size\.lt: expected a number, got null"),
    ('{"organic": {"eq": 1}}', r"filter\.organic\.eq: expected true or false, got 1"),
    ('{"brand": {"eq": ["a"]}}', r"filter\.brand\.eq: expected a string, got \['a'\]"),
    ('{"brand": {"in": "ab"}}', r"filter\.brand\.in: expected a list, got 'ab'"),
    ('{"brand": {"in": ["a", 3]}}', r"filter\.brand\.in\[1\]: expected a string, got 3"),
    ('{"price": {"lt": NaN}}', r"filter\.price\.lt: expected a finite number, got nan"),
    ('{"price": {"lt": -Infinity}}', r"filter\.price\.lt: expected a finite number, got -inf"),
    ('{"price": {"in": [1, 1e999]}}', r"filter\.price\.in\[1\]: expected a finite number, got inf"),
    (
        '{"size": {"lt": ' + "9" * 5_000 + "}}",
        r"filter\.size\.lt: expected a finite number, got inf",
    ),
    (
        '{"price": {"lt": 1, "lt": 2}}',
        "filter: expected each key once in an object, got 'lt' again",
    ),
    ('{"brand": {"eq": {"a": "' + "x" * 99 + '"}}}', r"got \{'a': 'x{50}\.\.\.$"),
    ("[" * 60_000, "filter: expected (JSON|at most)"),
    (" " * (MAX_CHARACTERS + 1), "filter: expected at most 65536 characters, got 65537"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_other_texts_are_refused(text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message) as raised:
        compile_predicate(text, COLUMNS)
    str(raised.value).encode()  # a reply can carry it


def nested(levels: int) -> str:
    return '{"not": ' * levels + '{"brand": {"eq": "a"}}' + "}" * levels


def test_depth_is_bounded() -> None:
    assert select(nested(MAX_DEPTH - 1)) == [1, 2, 3, 5, 6, 7]
    for levels in (MAX_DEPTH, 6_000):
        with pytest.raises(RequestError, match="expected at most 16 levels of and, or, not"):
            compile_predicate(nested(levels), COLUMNS)


def test_comparisons_are_bounded() -> None:
    def many(count: int) -> str:
        return json.dumps({"or": [{"size": {"eq": number}} for number in range(count)]})

    assert select(many(MAX_COMPARISONS)) == [0, 1, 2, 4]
    with pytest.raises(RequestError, match="expected at most 64 comparisons, got more"):
        compile_predicate(many(MAX_COMPARISONS + 1), COLUMNS)


@given(
    text=st.text(max_size=40)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["and", "or", "not", "price", "brand", "eq", "in"]), inner
            )
        ),
        max_leaves=10,
    ).map(json.dumps)
)
@settings(deadline=None, max_examples=300)
def test_any_text_is_a_predicate_or_a_request_error(text: str) -> None:
    try:
        answer = str(compile_predicate(text, COLUMNS).evaluate().shape)
    except RequestError as error:
        answer = str(error)
    assert answer.startswith(("filter", f"({N},)"))


def canonical(text: str) -> str:
    return compile_predicate(text, COLUMNS).canonical


def test_spellings_of_one_rule_share_a_canonical_form() -> None:
    left = '{"price": {"lt": 2, "ge": 1}, "brand": {"in": ["b", "a", "b"]}}'
    right = '{ "and": [{"brand":{"in":["a","b"]}}, {"price":{"ge":1,"lt":2}}] }'
    assert canonical(left) == canonical(right)
    assert canonical('{"and": [{"size": {"eq": 1}}]}') == canonical('{"size": {"eq": 1}}')
    others = [
        '{"size": {"eq": 1}}',
        '{"size": {"ne": 1}}',
        '{"not": {"size": {"eq": 1}}}',
        '{"price": {"eq": 1}}',
        '{"or": []}',
        '{"and": []}',
        left,
    ]
    assert len({canonical(text) for text in others}) == len(others)


@given(left=predicates, right=predicates)
@settings(deadline=None)
def test_equal_canonical_forms_have_equal_masks(
    left: dict[str, Any], right: dict[str, Any]
) -> None:
    one, two = (compile_predicate(json.dumps(node), COLUMNS) for node in (left, right))
    if one.canonical == two.canonical:
        assert one.evaluate().tolist() == two.evaluate().tolist()


def test_the_cache_evaluates_a_rule_once_and_is_bounded() -> None:
    cache = FilterCache(COLUMNS, max_bytes=3 * N)
    first = cache.mask('{"size": {"eq": 1}}')
    assert cache.mask('{ "size": {"eq": 1} }') is first
    assert not first.flags.writeable
    for size in range(2, 5):
        cache.mask(json.dumps({"size": {"eq": size}}))
        assert cache.mask('{"size": {"eq": 1}}') is first  # used last, so kept
    assert len(cache) == 3
    for size in range(10, 14):
        cache.mask(json.dumps({"size": {"eq": size}}))
    assert cache.mask('{"size": {"eq": 1}}') is not first
    assert len(cache) == 3


def test_the_cache_keeps_one_mask_at_least_and_remembers_no_error() -> None:
    cache = FilterCache(COLUMNS, max_bytes=0)
    cache.mask('{"and": []}')
    with pytest.raises(RequestError, match="filter: expected JSON"):
        cache.mask("{")
    assert len(cache) == 1
    assert cache.mask('{"and": []}').all()
