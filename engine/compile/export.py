"""From a trained model to a bundle: folded item tables, request weights, all users' vectors."""

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from engine.bundle import (
    APPEND_FILE,
    APPEND_INT8_FILE,
    CONTENT_FILE,
    ENCODE_FILE,
    ENCODE_INT8_FILE,
    RANKER_FOLDER,
    TAGS_FILE,
    BundleWriter,
)
from engine.config import Config
from engine.data.dataset import Dataset
from engine.features import UserFeatures, encode_inputs
from engine.manifest import Description, Source, source_commit
from engine.model.stars import Stars
from engine.refresh.records import RecordMaker, UserEvents
from engine.retrieval.columns import Columns
from engine.runtime.inputs import Batch
from engine.runtime.registry import choose, open_graph
from engine.serving.discovery import FEATURES as DISCOVERY_FEATURES
from engine.serving.weights import RequestWeights
from engine.training.history import Past, past

from .onnx import save, trace_append, trace_encoder
from .quantize import observe, quantize
from .typed import typed

_ITEMS_AT_ONCE, _USERS_AT_ONCE = 8192, 64
_CALIBRATION_USERS = 256


def export(
    model: Stars,
    dataset: Dataset,
    config: Config,
    cut: int,
    folder: Path,
    lambda_serve: float,
    threads: int = 1,
    ranker: Path | None = None,
    discovery: NDArray[np.float32] | None = None,
) -> None:
    """Writes the bundle that serves `model` with the users' histories up to `cut`.

    Args:
        model: trained, on the CPU.
        dataset: of the shop.
        config: of the run.
        cut: unix seconds; later events stay out of histories, priors and the catalogue.
        folder: of the bundle; one that stands there is replaced.
        lambda_serve: weight of the popularity prior when serving.
        threads: of the encoder that computes the users' vectors.
        ranker: folder with the graphs of a ranker, taken in as they are.
        discovery: weights [2, F] of `fit_discovery`; None orders never-bought items by the vectors
            alone.
    Raises:
        BundleError: the folder holds something else than a bundle.
    """
    history = past(dataset, cut, config.train.alpha, config.train.repeat_types)
    rows, candidates = item_tables(model)
    active = np.zeros(len(rows), np.bool_)
    active[history.catalogue] = True
    statistics = history.statistics
    today = int(history.calendar.fields(np.array([cut]))["day"][0])
    everything = np.arange(len(rows), dtype=np.int32)
    sold = history.sales.recent(everything, np.full(len(rows), history.sales.until))
    with BundleWriter(folder, _description(dataset, config, cut, lambda_serve)) as writer:
        export_graphs(model, writer.folder, calibration(history, config, rows))
        writer.write_items(
            {
                "item_ids": dataset.item_ids,
                "rows": rows,
                "candidates": candidates,
                "log_p": history.log_p,
                "active": active,
                "sold": sold,
                **{name: getattr(statistics, name) for name in statistics.FIELDS},
            }
        )
        writer.write_request(request_weights(model, dataset, discovery).arrays())
        if config.model.promotions:
            writer.write_promotions(dataset.promotions.since(today))
        _write_content(writer.folder, model, dataset)
        frame = dataset.items_frame().drop("item_id")
        values = {name: frame[name].to_list() for name in frame.columns}
        writer.write_columns(Columns.from_values(values, len(frame)))
        choice = choose("auto", config.model.model_dump())
        graph = writer.folder / {"fp32": ENCODE_FILE, "int8": ENCODE_INT8_FILE}[choice.precision]
        maker = RecordMaker(
            open_graph(choice, graph, config.model.window, threads),
            rows,
            history.calendar,
            config.model.window,
            config.model.hop,
            tuple(map(dataset.meta.event_types.index, config.train.repeat_types)),
            statistics.count,
        )
        writer.write_users(maker.records(_users(history)))
        if ranker is not None:
            shutil.copytree(ranker, writer.folder / RANKER_FOLDER)


def export_graphs(model: Stars, folder: Path, batches: Iterable[Batch]) -> None:
    """Writes `encode` and, of a causal model, `append` in fp32 and int8.

    Args:
        model: trained, on the CPU.
        folder: of the bundle.
        batches: of real sequences, to calibrate int8 on.
    """
    encode = typed(trace_encoder(model), "fp32")
    ranges = observe(encode, batches)
    graphs = {ENCODE_FILE: encode, ENCODE_INT8_FILE: quantize(encode, ranges)}
    if model.config.pooling == "causal":
        append = typed(trace_append(model), "fp32")
        graphs |= {APPEND_FILE: append, APPEND_INT8_FILE: quantize(append, ranges)}
    for name, graph in graphs.items():
        save(graph, folder / name)


def calibration(history: Past, config: Config, rows: NDArray[np.float32]) -> Iterator[Batch]:
    """Windows of users of every length, to calibrate int8 on."""
    lengths = np.diff(history.offsets)
    order = np.argsort(lengths, kind="stable")
    chosen = order[np.linspace(0, len(order) - 1, min(_CALIBRATION_USERS, len(order))).astype(int)]
    for start in range(0, len(chosen), _USERS_AT_ONCE):
        yield windows(chosen[start : start + _USERS_AT_ONCE], history, config, rows)


def item_tables(model: Stars) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Rows Proj(v) [N, d_model] and candidates c [N, d_serve] of the whole catalogue."""
    with torch.no_grad():
        index = torch.arange(len(model.items.text_index))
        rows = torch.cat([model.items.rows(part) for part in torch.split(index, _ITEMS_AT_ONCE)])
        return rows.numpy(), model.items.candidates(rows).numpy()


def request_weights(
    model: Stars, dataset: Dataset, discovery: NDArray[np.float32] | None = None
) -> RequestWeights:
    """What the request path applies itself: W_ctx times its tables, the repeat network.

    Args:
        discovery: as `export` takes it.
    """
    if discovery is None:
        kinds = len(dataset.meta.promotions) if model.config.promotions else 0
        discovery = np.zeros((2, len(DISCOVERY_FEATURES) + kinds), np.float32)
        discovery[:, 0] = 1
    d_model = model.hour.shape[1]
    with torch.no_grad():
        weight, repeats = model.context_weight, model.repeats
        of_time, of_gap, of_signals = weight[:d_model], weight[d_model], weight[d_model + 1 :]
        repeat_in = (repeats.layer_in.weight / repeats.std).T
        repeat_in_bias = repeats.layer_in.bias - repeats.mean @ repeat_in
        arrays = {
            "context_hour": model.hour @ of_time,
            "context_weekday": model.weekday @ of_time,
            "context_week": model.week @ of_time,
            "context_gap": of_gap,
            "context_signals": of_signals,
            "repeat_in": repeat_in,
            "repeat_in_bias": repeat_in_bias,
            "repeat_middle": repeats.layer_middle.weight.T,
            "repeat_middle_bias": repeats.layer_middle.bias,
            "repeat_out": repeats.layer_out.weight.T,
            "repeat_out_bias": repeats.layer_out.bias,
            "scale": repeats.scale,
        }
        return RequestWeights(
            **{name: array.contiguous().numpy() for name, array in arrays.items()},
            discovery=discovery,
            signals=dataset.signals,
            first_day=dataset.meta.first_day,
            n_categorical=dataset.user_categorical.shape[1],
            n_numeric=dataset.user_numeric.shape[1],
        )


def _write_content(folder: Path, model: Stars, dataset: Dataset) -> None:
    """What an item's row is made of: tags, their names, and the weights of the unfolded path."""
    items = model.items
    weights = {
        "text_mean": items.text_mean,
        "text_components": items.text_components,
        "delta": items.delta,
        "tag_weight": items.tag_weight,
        **{f"project.{name}": value for name, value in items.project.named_parameters()},
        **{f"attribute.{name}": value for name, value in items.attribute.named_parameters()},
        "to_candidate.weight": items.to_candidate.weight,
    }
    arrays = {name: value.detach().contiguous().numpy() for name, value in weights.items()}
    arrays |= {"tag_ids": dataset.tag_ids, "tag_offsets": dataset.tag_offsets}
    save_file(arrays, folder / CONTENT_FILE)
    names = {"text_model": dataset.meta.text_model, "tags": dataset.meta.tags}
    (folder / TAGS_FILE).write_text(json.dumps(names), encoding="utf-8")


def _users(history: Past) -> UserEvents:
    """Every user and the events before the cut."""
    dataset = history.dataset
    return UserEvents(
        user_ids=dataset.user_ids,
        categorical=dataset.user_categorical,
        numeric=dataset.user_numeric,
        offsets=history.offsets,
        item=history.item,
        time=history.time,
        type=history.type,
        session=history.session,
    )


def windows(
    users: NDArray[np.int64], history: Past, config: Config, rows: NDArray[np.float32]
) -> Batch:
    """The windows of `users`, in their order, as a server would encode them."""
    dataset = history.dataset
    return encode_inputs(
        [history.history(user) for user in users.tolist()],
        UserFeatures(dataset.user_categorical[users], dataset.user_numeric[users]),
        rows,
        history.calendar,
        config.model.window,
        config.model.hop,
    )


def _description(dataset: Dataset, config: Config, cut: int, lambda_serve: float) -> Description:
    meta, train = dataset.meta, config.train
    return Description(
        commit=source_commit(),
        dataset=Source(name=meta.name, fingerprint=meta.fingerprint),
        timezone=meta.timezone,
        has_time=meta.has_time,
        event_types=meta.event_types,
        default_event_type=train.repeat_types[0],
        repeat_types=list(train.repeat_types),
        signals=meta.signals,
        user_categorical=meta.user_categorical,
        user_numeric=meta.user_numeric,
        cut=cut,
        model=config.model.model_dump(),
        lambda_serve=lambda_serve,
    )
