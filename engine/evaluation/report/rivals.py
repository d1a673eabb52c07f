"""The report's parts that other methods make: LambdaMART, other libraries, and both on Amazon."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.data.complete_journey import NAME as COMPLETE_JOURNEY
from engine.data.dataset import Dataset
from engine.data.text import MiniLmEmbedder
from engine.evaluation import amazon
from engine.evaluation.lambdamart_promotions import Promotions, complete_journey_promotions
from engine.evaluation.leave_one_out import accuracy, next_items
from engine.evaluation.peer_settings import Name
from engine.evaluation.peers import PeerResult, leave_one_out_lists, next_session_lists
from engine.evaluation.protocol import next_session

from .config import ReportConfig
from .setting import Setting

AMAZON = "amazon"
PROTOCOLS: tuple[amazon.Protocol, ...] = ("strict", "refit")


def promotions_of(dataset: Dataset) -> Promotions | None:
    """What the shop announces by store and week, where the project reads it."""
    return complete_journey_promotions(dataset) if dataset.meta.name == COMPLETE_JOURNEY else None


def lambdamart(setting: Setting, config: ReportConfig, cut: int) -> dict[str, Any]:
    """Lists of the whole catalogue, of new items, and at the final cut of the candidate sets."""
    # Not above: without LightGBM the other parts are made all the same.
    from engine.evaluation.lambdamart_answers import lambdamart_answers

    dataset = setting.dataset()
    task = next_session(dataset, *setting.cuts[cut])
    sets = setting.candidate_sets(task.cut) if cut == 0 else {}
    answers = lambdamart_answers(
        dataset, task, config.lambdamart, sets,
        promotions=promotions_of(dataset), threads=torch.get_num_threads(),
    )  # fmt: skip
    lists = {"lists": answers.lists, "discovery": answers.discovery}
    lists |= {f"candidates_{size}": rows for size, rows in answers.sets.items()}
    return {"lists": {name: rows.tolist() for name, rows in lists.items()}, **answers.info}


def peer(setting: Setting, config: ReportConfig, name: Name) -> dict[str, Any]:
    """Lists of another library at the final cut."""
    dataset = setting.dataset()
    result = next_session_lists(
        name,
        dataset,
        next_session(dataset, *setting.cuts[0]),
        setting.work,
        minutes=config.peer_minutes,
        threads=torch.get_num_threads(),
    )
    found = asdict(result)
    lists = {key: np.asarray(found.pop(key)).tolist() for key in ("lists", "discovery")}
    return {"lists": lists, **found}


def prepare_amazon(source: Path, work: Path, config: ReportConfig) -> None:
    """Prepares what several parts read, before they run beside one another."""
    for without in ((), amazon.PARTS):
        amazon.prepared(source, work / AMAZON, config.next_item, MiniLmEmbedder(), without)


def amazon_stars(
    source: Path, work: Path, config: ReportConfig, without: tuple[amazon.Part, ...]
) -> dict[str, Any]:
    """protocol -> the result; `refit` goes on from `strict`, so one part makes both."""
    return {
        protocol: amazon.run(
            source, work / AMAZON, protocol, config.next_item, MiniLmEmbedder(), without=without
        ).as_json()
        for protocol in PROTOCOLS
    }


def amazon_peer(source: Path, work: Path, config: ReportConfig, name: Name) -> dict[str, Any]:
    """protocol -> test, standard_error, minutes and what the peer says of itself.

    `strict` keeps the epoch of the lowest loss on the validation items; `refit` trains anew on them
    too, for as many epochs.
    """
    folder = work / AMAZON
    _, dataset, cuts = amazon.prepared(source, folder, config.next_item, MiniLmEmbedder())
    asked = next_items(dataset, cuts[1])

    def trained(protocol: amazon.Protocol, epochs: int | None) -> PeerResult:
        return leave_one_out_lists(
            name,
            dataset,
            cuts,
            asked.users,
            folder,
            protocol=protocol,
            epochs=epochs,
            minutes=config.amazon_minutes,
            threads=torch.get_num_threads(),
        )

    strict = trained("strict", None)
    again = None if name == "upcf" else max(round(strict.kept), 1)  # UP-CF counts, without epochs
    results: dict[str, Any] = {}
    for protocol, result in (("strict", strict), ("refit", trained("refit", again))):
        means, errors = accuracy(result.discovery, asked.target)
        kept = asdict(result)
        kept = {key: value for key, value in kept.items() if key not in ("lists", "discovery")}
        results[protocol] = {
            "test": means, "validation": None, "standard_error": {"test": errors}, **kept,
        }  # fmt: skip
    return results
