"""Every invalid request of the contract on the real server, and a thousand random ones."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from engine.errors import RequestError
from engine.serving.client import StarsClient
from engine.serving.server import TritonServer

USER = "user-000"
UNKNOWN_ID = 999  # the shop's ids start at 1000
Tensors = dict[str, tuple[str, NDArray[Any]]]


def send(server: TritonServer, protocol: str, tensors: Tensors, **parameters: Any) -> None:
    """One raw request; raises what the library raises."""
    library = tritonclient.grpc if protocol == "grpc" else tritonclient.http
    url = server.grpc_url if protocol == "grpc" else server.http_url
    inputs = []
    for name, (datatype, values) in tensors.items():
        inputs.append(library.InferInput(name, values.shape, datatype))
        inputs[-1].set_data_from_numpy(values)
    with library.InferenceServerClient(url) as client:
        client.infer("stars", inputs, parameters=parameters or None)


def user(*ids: bytes) -> Tensors:
    return {"user_id": ("BYTES", np.array([[name] for name in ids], dtype=object))}


def items(*rows: list[int]) -> Tensors:
    return {"item_ids": ("INT64", np.array(rows, dtype=np.int64).reshape(len(rows), -1))}


def types(*rows: list[int]) -> Tensors:
    return {"event_types": ("INT32", np.array(rows, dtype=np.int32))}


def times(*rows: list[int]) -> Tensors:
    return {"event_times": ("INT64", np.array(rows, dtype=np.int64))}


def context(*values: float) -> Tensors:
    return {"context": ("FP32", np.array([values], dtype=np.float32))}


ANNA = user(b"anna")
TWO = items([1000, 1007])
CASES: dict[str, tuple[Tensors, dict[str, Any], str]] = {
    "k of 0": (ANNA, {"k": 0}, "k: expected an integer from 1 to 500, got 0"),
    "k of 501": (ANNA, {"k": 501}, "k: expected an integer from 1 to 500, got 501"),
    "k as text": (ANNA, {"k": "10"}, "k: expected an integer from 1 to 500, got '10'"),
    "k as bool": (ANNA, {"k": True}, "k: expected an integer from 1 to 500, got True"),
    "k as float": (ANNA, {"k": 10.5}, "k: expected an integer from 1 to 500, got 10.5"),
    "strategy": (ANNA, {"strategy": "best"}, "strategy: expected next, general, round_robin"),
    "repeats": (ANNA, {"repeats": "never"}, "repeats: expected allow, exclude, got 'never'"),
    "explain": (ANNA, {"explain": 1}, "explain: expected true or false, got 1"),
    "time before 1970": (ANNA, {"time": -1}, "time: expected unix seconds from 0 to"),
    "time in milliseconds": (ANNA, {"time": 10**13}, "time: expected unix seconds from 0 to"),
    "time as text": (ANNA, {"time": "now"}, "time: expected unix seconds from 0 to"),
    "filter as number": (ANNA, {"filter": 3}, "filter: expected a string of JSON, got 3"),
    "filter that is no JSON": (ANNA, {"filter": "{"}, "filter: expected JSON"),
    "filter of another shape": (ANNA, {"filter": "[1]"}, "filter: expected"),
    "filter on no column": (
        ANNA,
        {"filter": '{"colour":{"eq":1}}'},
        "filter: expected .*got 'colour'",
    ),
    "filter of another type": (
        ANNA,
        {"filter": '{"and":[{"price":{"lt":"x"}}]}'},
        "filter.and[0].price.lt: expected a number",
    ),
    "filter too deep": (ANNA, {"filter": '{"not":' * 2000 + "1"}, "filter"),
    "filter too long": (ANNA, {"filter": " " * 70_000}, "filter: expected at most"),
    "misspelt parameter": (ANNA, {"stratgy": "next"}, "stratgy: expected a parameter of k, "),
    "stage": (ANNA, {"stage": "last"}, "stage: expected retrieve, rank, page, got 'last'"),
    "of another stage": (ANNA, {"diversity": 0.5}, "diversity: expected stage page, got stage"),
    "diversity": (ANNA, {"stage": "page", "diversity": 2}, "diversity: expected a number from 0"),
    "neither": (items([]), {}, "user_id: expected a user or events, got neither"),
    "empty user": (user(b""), {}, "user_id: expected a user or events, got neither"),
    "user not UTF-8": (user(b"\xff\xfe"), {}, "user_id: expected UTF-8 text, got b'"),
    "user with NUL": (user(b"a\0b"), {}, "user_id: expected text without NUL"),
    "user too long": (user(b"x" * 2000), {}, "user_id: expected at most 1024 bytes, got 2000"),
    "negative id": (items([1000, -5]), {}, "item_ids[1]: expected 0 or more, got -5"),
    "unknown id": (items([1000, UNKNOWN_ID]), {}, f"item_ids[1]: expected .*{UNKNOWN_ID}"),
    "padding first": (items([-1, 1000]), {}, "item_ids[0]: expected -1 only as padding"),
    "too many events": (items([1000] * 10_001), {}, "item_ids: expected at most 10000 events"),
    "fewer types": (TWO | types([0]), {}, "event_types: expected as many as item_ids (2)"),
    "more times": (TWO | times([1, 2, 3]), {}, "event_times: expected as many as item_ids (2)"),
    "types alone": (ANNA | types([0]), {}, "event_types: expected as many as item_ids (0)"),
    "negative type": (TWO | types([0, -2]), {}, "event_types[1]: expected 0 or more, got -2"),
    "unknown type": (TWO | types([0, 99]), {}, "event_types[1]: expected .*99"),
    "negative time": (TWO | times([-9, 1]), {}, "event_times[0]: expected 0 or more, got -9"),
    "times decrease": (TWO | times([9, 8]), {}, "event_times[1]: expected a time not before"),
    "event after now": (TWO | times([9, 2**40]), {}, "event_times[1]: expected unix seconds no"),
    "event after time": (
        TWO | times([9, 101]),
        {"time": 100},
        "event_times[1]: expected unix seconds no later than the request's time (100), got 101",
    ),
    "NaN context": (ANNA | context(0, np.nan), {}, "context[1]: expected a number of .*got nan"),
    "infinite context": (ANNA | context(np.inf, 0), {}, "context[0]: expected a number of at most"),
    "huge context": (ANNA | context(0, 3e38), {}, "context[1]: expected a number of at most 1e+09"),
    "short context": (user(USER.encode()) | context(1), {}, "context: expected 2"),
    "bad row": (items([1000], [-2]), {}, "row 1: item_ids[0]: expected 0 or more, got -2"),
    "bad row of the catalogue": (
        items([1000], [1007], [UNKNOWN_ID]),
        {},
        f"row 2: item_ids[0]: expected .*{UNKNOWN_ID}",
    ),
    # Triton Server refuses these itself, in its own words.
    "no tensors": ({}, {}, "request has 0 inputs"),
    "unknown tensor": (ANNA | {"items": ("INT64", np.zeros((1, 1), np.int64))}, {}, "'items'"),
    "dtype": (
        {"item_ids": ("INT32", np.zeros((1, 1), np.int32))},
        {},
        "'item_ids' data-type is 'INT32', but model 'stars' expects 'INT64'",
    ),
    "rank": ({"item_ids": ("INT64", np.zeros(3, np.int64))}, {}, "unexpected shape for input"),
    "two users a row": (
        {"user_id": ("BYTES", np.array([[b"a", b"b"]], dtype=object))},
        {},
        "unexpected shape for input 'user_id'",
    ),
    "rows disagree": (ANNA | items([1000], [1007]), {}, "batch size does not match"),
    "too many rows": (items(*[[1000]] * 65), {}, "batch-size must be <= 64 for 'stars'"),
}


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("case", CASES)
def test_refused(server: TritonServer, protocol: str, case: str) -> None:
    tensors, parameters, text = CASES[case]
    with pytest.raises(InferenceServerException) as refusal:
        send(server, protocol, tensors, **parameters)
    assert refusal.value.status() in ("StatusCode.INVALID_ARGUMENT", "400")
    pattern = ".*".join(re.escape(part) for part in text.split(".*"))
    assert re.search(pattern, refusal.value.message()), refusal.value.message()


def test_parameters_that_are_no_text(server: TritonServer) -> None:
    body = json.dumps(
        {
            "parameters": {"filter": "PLACE"},
            "inputs": [{"name": "user_id", "shape": [1, 1], "datatype": "BYTES", "data": ["a"]}],
        }
    ).encode()
    url = f"http://{server.http_url}/v2/models/stars/infer"
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(url, data=body.replace(b"PLACE", b"\xff\xfe"))
    assert refusal.value.code == 400
    assert "parameters: expected UTF-8 text, got b'" in json.load(refusal.value)["error"]


def spoil(rng: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of a request and a change that makes it invalid, at random."""
    length = int(rng.integers(1, 30))
    ids = (1000 + 7 * rng.integers(0, 100, length)).tolist()
    place = int(rng.integers(length))
    junk = rng.integers(32, 127, rng.integers(1, 60)).astype(np.uint8).tobytes().decode()
    spoilt = [*ids[:place], int(rng.choice([UNKNOWN_ID, -7, 2**62])), *ids[place + 1 :]]
    changes: list[dict[str, Any]] = [
        {"k": int(rng.choice([0, -1, 501, 2**40]))},
        {"k": float(rng.normal())},
        {"strategy": junk},
        {"repeats": junk},
        {"filter": "!" + junk},
        {"filter": json.dumps({junk: {"eq": 1}})},
        {"time": int(rng.choice([-5, 2**45]))},
        {"explain": junk},
        {"user_id": "\0" + junk},
        {"item_ids": spoilt},
        {"event_types": [0] * (length + 1)},
        {"event_types": [int(rng.integers(50, 2**31))] * length},
        {"event_times": [2**50] * length},
        {"event_times": [*range(length, 0, -1), 0]},
        {"context": [float(rng.choice([np.nan, np.inf, -3e38]))] * int(rng.integers(1, 9))},
        {"context": [0.0] * int(rng.integers(3, 200))},
    ]
    return {"user_id": USER, "item_ids": ids}, changes[rng.integers(len(changes))]


def test_after_a_thousand_invalid_requests_a_valid_one_is_answered(client: StarsClient) -> None:
    rng = np.random.default_rng(0)
    for _ in range(1000):
        arguments, change = spoil(rng)
        with pytest.raises(RequestError, match=f"^{next(iter(change))}"):
            client.recommend(**arguments | change)
    assert len(client.recommend(USER).item_ids) == 10
