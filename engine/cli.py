"""The `stars` command: data, training, export, evaluation, serving. Thin; the work is elsewhere."""

import json
import os
import shlex
import subprocess
import sys
from datetime import date
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from .catalogue.commands import app as items_app
from .config import Preset
from .errors import BackendUnavailable, StarsError

app = typer.Typer(no_args_is_help=True, help="STARS: train, export and serve recommendations.")
data_app = typer.Typer(no_args_is_help=True, help="Prepare and describe a shop's data.")
app.add_typer(data_app, name="data")
app.add_typer(items_app, name="items")
rank_app = typer.Typer(no_args_is_help=True, help="The funnel after retrieval.")
app.add_typer(rank_app, name="rank")

_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
_BENCHMARKS = {
    "retrieval": "benchmarks.scale_items",
    "refresh": "benchmarks.scale_users",
    "report": "benchmarks.report",
}
_DATA = Annotated[Path, typer.Option("--data", help="folder of a prepared dataset")]
_BUNDLE = Annotated[Path, typer.Option("--bundle", help="folder of a bundle")]
_STORE = Annotated[
    str, typer.Option("--store", help="users: a folder, or redis://host:port/database")
]
_API_KEY = Annotated[
    str, typer.Option(envvar="OPENAI_API_KEY", help="of the endpoint; best by the environment")
]
_JSON = Annotated[Path | None, typer.Option("--json", help="also write the result here")]


@data_app.command("complete-journey")
def complete_journey(
    out: Annotated[Path, typer.Option(help="folder for the shop's Parquet files")],
) -> None:
    """Write the Complete Journey purchases as a shop folder."""
    from .data.complete_journey import write_complete_journey

    write_complete_journey(out)
    print(out)


@data_app.command("prepare")
def prepare(
    source: Annotated[Path, typer.Argument(help="folder of a shop's Parquet files")],
    out: Annotated[Path, typer.Option(help="folder for the prepared dataset")],
    embeddings_url: Annotated[
        str | None, typer.Option(help="OpenAI-compatible endpoint instead of the local MiniLM")
    ] = None,
    embeddings_model: Annotated[str, typer.Option(help="model of that endpoint")] = "",
    api_key: _API_KEY = "none",
) -> None:
    """Check a shop's files and prepare them for training."""
    from .data.describe import describe, describe_table
    from .data.prepare import prepare as prepare_dataset
    from .data.text import CachedEmbedder, open_embedder

    embedder = open_embedder(embeddings_url, embeddings_model, api_key)
    cached = CachedEmbedder(embedder, out.parent / "embeddings")
    dataset = prepare_dataset(source, out, embedder=cached)
    Console().print(describe_table(describe(dataset)))


@data_app.command("describe")
def describe(
    folder: Annotated[Path, typer.Argument(help="folder of a prepared dataset")],
    json_to: _JSON = None,
) -> None:
    """Counts, dates, popularity and repeats of a prepared dataset."""
    from .data.dataset import Dataset
    from .data.describe import describe as describe_dataset
    from .data.describe import describe_table

    description = describe_dataset(Dataset.load(folder))
    Console().print(describe_table(description))
    _write(json_to, description)


@data_app.command("tag")
def tag(
    items: Annotated[Path, typer.Argument(help="items.parquet to tag")],
    out: Annotated[Path, typer.Option(help="the same table with a column `tags`")],
    answers: Annotated[Path, typer.Option(help="JSON lines of answers; a restart goes on from it")],
    vocabulary: Annotated[Path, typer.Option(help="JSON file: facet to allowed values")],
    url: Annotated[str, typer.Option(help="OpenAI-compatible chat endpoint")],
    model: Annotated[str, typer.Option(help="model to ask")],
    workers: Annotated[int, typer.Option(help="requests in flight")] = 4,
    api_key: _API_KEY = "none",
) -> None:
    """Tag items by a chat model in a controlled vocabulary."""
    from .data.endpoint import Endpoint
    from .data.tagger import Vocabulary, tag_items

    counts = tag_items(
        items,
        out,
        answers,
        endpoint=Endpoint(url, api_key),
        model=model,
        vocabulary=Vocabulary.read(vocabulary),
        workers=workers,
    )
    print(counts)


@app.command()
def train(
    data: _DATA,
    out: Annotated[Path, typer.Option(help="run folder")],
    preset: Annotated[Preset, typer.Option(help="shape of the model")] = "small",
    config: Annotated[Path | None, typer.Option(help="TOML laid over the preset")] = None,
    until: Annotated[
        str | None, typer.Option(help="first local day not trained on (YYYY-MM-DD), or `end`")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads")] = None,
    only: Annotated[
        Literal["context"] | None, typer.Option(help="train W_ctx alone: new or other signals")
    ] = None,
    start: Annotated[Path | None, typer.Option(help="finished run that `--only` begins at")] = None,
) -> None:
    """Train a model; λ_serve is chosen on its last 28 days before they are trained on too.

    Without `--until`, the data's last 28 days are left for `stars evaluate`.
    """
    import torch

    from .config import load_config
    from .data.dataset import Dataset
    from .pipeline import train_context, train_run

    if threads:
        torch.set_num_threads(threads)
    dataset = Dataset.load(data)
    resolved = load_config(preset, config)
    quiet, end = not sys.stderr.isatty(), _until(dataset, until)
    if (only is None) != (start is None):
        raise typer.BadParameter("--only and --start: expected both or neither")
    if start is not None:
        done = train_context(dataset, end, resolved.train, start, out, quiet)
    else:
        done = train_run(dataset, end, resolved, out, quiet)
    print(f"{out}: {'trained' if done else 'unchanged'}")


@app.command()
def export(
    data: _DATA,
    run: Annotated[Path, typer.Option(help="run folder of `stars train`")],
    out: Annotated[Path, typer.Option(help="folder of the bundle")],
    until: Annotated[
        str | None, typer.Option(help="first local day not in the histories, or `end` for all")
    ] = None,
    lambda_serve: Annotated[
        float | None, typer.Option(help="weight of the popularity prior; default: the run's choice")
    ] = None,
    ranker: Annotated[
        Path | None, typer.Option(help="folder of `stars rank train`; default: retrieval alone")
    ] = None,
) -> None:
    """Export a run to a bundle that `stars serve` takes.

    Without `--until`, the last 28 days are left out, so that `stars evaluate` can ask for them.
    """
    from .data.dataset import Dataset
    from .pipeline import export_run

    dataset = Dataset.load(data)
    done = export_run(dataset, run, _until(dataset, until), out, lambda_serve, ranker)
    print(f"{out}: {'exported' if done else 'unchanged'}")


@rank_app.command("train")
def rank_train(
    data: _DATA,
    run: Annotated[Path, typer.Option(help="run folder of `stars train`")],
    out: Annotated[Path, typer.Option(help="folder of the ranker, for `stars export --ranker`")],
    config: Annotated[Path | None, typer.Option(help="TOML laid over the defaults")] = None,
    until: Annotated[
        str | None, typer.Option(help="the run's own first day not trained on, or `end`")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads")] = 1,
) -> None:
    """Train what ranks a run's candidates, and the fusion of its objectives.

    It learns from the 28 days that the run's λ_serve was chosen on.
    """
    import torch

    from .data.dataset import Dataset
    from .ranking.shop.config import load_ranker_config
    from .ranking.shop.run import rank_run
    from .ranking.shop.show import metrics_table

    torch.set_num_threads(threads)
    resolved = load_ranker_config(config)
    dataset = Dataset.load(data)
    done = rank_run(dataset, run, _until(dataset, until), resolved, out, threads)
    Console().print(metrics_table(out))
    print(f"{out}: {'trained' if done else 'unchanged'}")


@rank_app.command("report")
def rank_report(
    out: Annotated[Path, typer.Option(help="folder of report.json and report.html")] = Path(
        "artifacts/rank"
    ),
    kuairand: Annotated[
        Path | None, typer.Option(help="folder of the KuaiRand subset; default: without it")
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="bundle with a ranker, for latencies; give --data too")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="dataset that the bundle was made of")] = None,
    from_results: Annotated[
        Path | None, typer.Option(help="a stored report.json: only draw its page")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="processes")] = 2,
) -> None:
    """Study SARM, WeSing, HarmonRank and pages: what is missing is computed, part by part."""
    from .ranking.report import main_report

    if (bundle is None) != (data is None):
        raise typer.BadParameter("--bundle and --data: expected both or neither")
    measure = None
    if bundle is not None and data is not None:
        from .data.dataset import Dataset
        from .ranking.shop.latency import latency

        users = [name.decode() for name in Dataset.load(data).user_ids.tolist()]
        measure = partial(latency, bundle, users)
    main_report(out, kuairand, from_results, latency=measure, workers=workers)


@app.command("compile")
def compile_(
    out: Annotated[Path, typer.Option(help="folder for all that is made, compile.json too")],
    preset: Annotated[Preset, typer.Option(help="shape of a model with random weights")] = "small",
    config: Annotated[Path | None, typer.Option(help="TOML laid over the preset")] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="trained weights instead; give --data and --run too")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="prepared dataset; default: a generated one")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="run that the bundle was exported from")] = None,
    targets: Annotated[
        str, typer.Option(help="of onnx, cpu, tensorrt-rtx, tensorrt, bridge")
    ] = "onnx,cpu,tensorrt-rtx,bridge",
    sm: Annotated[str, typer.Option(help="cards of the engines")] = "80,86,89,120",
    kernel_sm: Annotated[str, typer.Option(help="cards of the kernels")] = "80,90,100,120",
    threads: Annotated[int, typer.Option(help="CPU threads of what is timed")] = 2,
    rounds: Annotated[int, typer.Option(help="times each contender runs; 0 times none")] = 60,
    serve: Annotated[
        bool, typer.Option("--serve", help="also write a bundle to OUT/bundle")
    ] = False,
) -> None:
    """Compile a model for every runtime; compare what they answer, and time them.

    With --bundle, OUT/bundle is that bundle with the engines in it.
    """
    from .compile.artifacts import TARGETS
    from .compile.report import REPORT_FILE, compile_model
    from .compile.show import tables
    from .compile.subject import load_subject
    from .config import load_config

    if bundle is None and run is not None:
        raise typer.BadParameter("--run: expected --bundle beside it, got none")
    cards = {str(number): number for number in range(50, 200)}
    asked = _listed("--targets", targets, {name: name for name in TARGETS})
    sms, kernel_sms = _listed("--sm", sm, cards), _listed("--kernel-sm", kernel_sm, cards)
    console = Console()
    with console.status("model and sequences") as status:
        subject = load_subject(load_config(preset, config), bundle, data, run, out)
        report = compile_model(
            subject,
            out,
            targets=asked,
            sms=sms,
            kernel_sms=kernel_sms,
            threads=threads,
            rounds=rounds,
            serve=serve or bundle is not None,
            command=shlex.join(["stars", *sys.argv[1:]]),
            progress=status.update,
        )
    for table in tables(report):
        console.print(table)
    print(out / REPORT_FILE)


@app.command()
def evaluate(
    data: Annotated[Path | None, typer.Option(help="folder of a prepared dataset")] = None,
    bundle: Annotated[Path | None, typer.Option(help="folder of a bundle")] = None,
    json_to: _JSON = None,
    dataset: Annotated[
        Literal["amazon"] | None, typer.Option(help="train and evaluate by a published protocol")
    ] = None,
    path: Annotated[
        Path | None, typer.Option(help="its folder: <Name>.txt and <Name>.items.jsonl")
    ] = None,
    protocol: Annotated[
        Literal["strict", "refit"],
        typer.Option(help="of the dataset: the validation item is never trained on, or is too"),
    ] = "strict",
    without: Annotated[str, typer.Option(help="content left out: of text, tags")] = "",
    config: Annotated[Path | None, typer.Option(help="TOML laid over the preset next-item")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="instead of the configuration's")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads")] = None,
    work: Annotated[Path, typer.Option(help="folder for what the dataset's run makes")] = Path(
        "artifacts/amazon"
    ),
) -> None:
    """Each user's first session in the 28 days after the bundle's cut, beside counting.

    With --dataset and --path, a model is trained and evaluated on a public dataset instead.
    """
    if dataset is not None:
        if path is None or data is not None or bundle is not None:
            raise typer.BadParameter("--dataset: expected --path, and no --data or --bundle")
        _evaluate_amazon(path, work, protocol, without, config, seed, threads, json_to)
        return
    if data is None or bundle is None or path is not None:
        raise typer.BadParameter("expected --data and --bundle, or --dataset and --path")
    from .bundle import Bundle
    from .data.dataset import Dataset
    from .evaluation.evaluate import evaluate as evaluate_bundle
    from .evaluation.protocol import window_after
    from .evaluation.show import comparison_table, metrics_table

    loaded, opened = Dataset.load(data), Bundle.open(bundle)
    result = evaluate_bundle(opened, loaded, window_after(loaded, opened.manifest.cut))
    console = Console()
    console.print(metrics_table(result.metrics))
    comparison = result.comparison()
    console.print(comparison_table(comparison))
    _write(json_to, {"metrics": result.metrics, "comparison": comparison})


def _evaluate_amazon(
    path: Path,
    work: Path,
    protocol: Literal["strict", "refit"],
    without: str,
    config: Path | None,
    seed: int | None,
    threads: int | None,
    json_to: Path | None,
) -> None:
    """Trains and evaluates on a folder of Amazon reviews."""
    import torch

    from .config import load_config
    from .data.text import MiniLmEmbedder
    from .evaluation.amazon import PARTS, run, table

    if threads:
        torch.set_num_threads(threads)
    parts = _listed("--without", without, {part: part for part in PARTS}) if without else []
    result = run(
        path,
        work,
        protocol,
        load_config("next-item", config),
        MiniLmEmbedder(),
        without=tuple(parts),
        seed=seed,
        quiet=not sys.stderr.isatty(),
    )
    Console().print(table(result))
    command = shlex.join(["stars", *sys.argv[1:]])
    _write(json_to, {"command": command, **result.as_json()})


@app.command()
def report(
    data: Annotated[Path | None, typer.Option(help="prepared dataset; default: without it")] = None,
    amazon: Annotated[
        Path | None, typer.Option(help="folder of Amazon reviews; default: without it")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder of report.json and report.html")] = Path(
        "artifacts/report"
    ),
    from_results: Annotated[
        Path | None, typer.Option(help="a stored report.json: only draw its page")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML laid over the defaults")] = None,
    only: Annotated[
        str, typer.Option(help="beginnings of names of parts: compute these, no report yet")
    ] = "",
    as_is: Annotated[
        bool, typer.Option("--as-is", help="compute nothing: a report of the parts that are there")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="processes")] = 2,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each")] = 1,
) -> None:
    """Train and compare on real data: what is missing is computed, part by part."""
    from .evaluation.report.config import load_report_config
    from .evaluation.report.run import main_report

    main_report(
        out,
        data,
        amazon,
        from_results,
        config=load_report_config(config),
        only=[name for name in only.split(",") if name],
        as_is=as_is,
        workers=workers,
        threads=threads,
    )


@app.command()
def serve(
    bundle: _BUNDLE,
    address: Annotated[str, typer.Option(help="what to listen on")] = "127.0.0.1",
    http_port: int = 8000,
    grpc_port: int = 8001,
    metrics_port: int = 8002,
    threads: Annotated[int, typer.Option(help="CPU threads of the engine")] = 1,
    runtime: Annotated[
        str, typer.Option(help="encoder: auto, or onnxruntime or openvino with -fp32 or -int8")
    ] = "auto",
    cache_mib: Annotated[
        int, typer.Option(min=0, help="for keys and values of users that ask again")
    ] = 256,
    index: Annotated[
        str, typer.Option(help="search: auto, exact, quantised or approximate")
    ] = "auto",
    recall_share: Annotated[
        float, typer.Option(min=0, max=1, help="of the queries, searched exactly too, to watch")
    ] = 0.001,
    users: Annotated[
        str, typer.Option(help="store that `stars refresh` wrote; default: the bundle's users")
    ] = "",
    store_down: Annotated[
        Literal["error", "popularity"],
        typer.Option(help="for users without events while their store does not answer"),
    ] = "error",
    signals: Annotated[
        str, typer.Option(help="feature source of external signals: a JSON file or redis://…")
    ] = "",
    log: Annotated[Path | None, typer.Option(help="file for the server's output")] = None,
) -> None:
    """Serve a bundle by Triton Server until interrupted."""
    from .serving.options import Options
    from .serving.server import MODEL_REPOSITORY, TritonServer
    from .store.address import absolute

    server = TritonServer(
        [MODEL_REPOSITORY],
        bundle,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        address=address,
        options=Options(
            threads,
            runtime,
            cache_mib,
            index,
            recall_share,
            absolute(users),
            store_down,
            absolute(signals),
        ),
        log=log,
    )
    with server:
        print(
            f"ready: http {server.http_url}  grpc {server.grpc_url}  {server.metrics_url}/metrics"
        )
        server.wait()


@app.command()
def refresh(
    bundle: _BUNDLE,
    data: _DATA,
    store: _STORE,
    until: Annotated[
        str, typer.Option(help="first local day not in the histories (YYYY-MM-DD), or `end`")
    ] = "end",
    address: Annotated[
        str,
        typer.Option(help="`local` for Ray here, auto or ray://… for a cluster, `here` without"),
    ] = "local",
    keep: Annotated[int, typer.Option(min=2, help="versions that stay, the new one too")] = 3,
    ttl_days: Annotated[
        float | None, typer.Option(min=0, help="after which its users are unknown; default: never")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each worker")] = 1,
) -> None:
    """Recompute every user with a bundle's encoder and publish them to a store.

    Started again after it was killed, it does what is left. Servers take the new version up with
    their next batch.
    """
    from rich.progress import Progress

    from .data.dataset import Dataset
    from .refresh.run import refresh as run_refresh

    end = None if until == "end" else _day(Dataset.read_meta(data).timezone, until)
    with Progress(transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("users", total=None)
        made = run_refresh(
            bundle,
            data,
            store,
            until=end,
            address=address,
            keep=keep,
            ttl_s=None if ttl_days is None else round(ttl_days * 86_400),
            threads=threads,
            progress=lambda done, parts: bar.update(task, completed=done, total=parts),
        )
    if made.unchanged:
        print(f"{made.version.id}: unchanged")
        return
    print(f"{made.version.id}: {made.version.users} users, {made.computed} computed in this run")
    if made.unknown_items:
        print(f"left out: events of {made.unknown_items} items that the bundle does not know")


@app.command()
def rollback(store: _STORE) -> None:
    """Serve the users' version before the last refresh again."""
    from .store.address import open_publisher
    from .store.versions import rollback as go_back

    print(f"{go_back(open_publisher(store)).id}: served")


@app.command()
def recommend(
    user: Annotated[str | None, typer.Option(help="user id")] = None,
    item: Annotated[list[int] | None, typer.Option(help="an event's item, oldest first")] = None,
    event_time: Annotated[list[int] | None, typer.Option(help="its unix seconds")] = None,
    event_type: Annotated[list[int] | None, typer.Option(help="its type code")] = None,
    context: Annotated[list[float] | None, typer.Option(help="a signal, in order")] = None,
    k: int = 10,
    strategy: Literal["next", "general", "round_robin"] = "round_robin",
    repeats: Literal["allow", "exclude"] = "allow",
    filter_: Annotated[str | None, typer.Option("--filter", help="JSON predicate")] = None,
    time: Annotated[int | None, typer.Option(help="unix seconds of the request")] = None,
    explain: bool = False,
    place: Annotated[str, typer.Option(help="where, for the feature source")] = "",
    stage: Annotated[
        Literal["retrieve", "rank", "page"], typer.Option(help="how far down the funnel")
    ] = "retrieve",
    diversity: Annotated[
        float | None, typer.Option(help="of a page: 0 the order of the scores, to 1")
    ] = None,
    candidate: Annotated[
        list[int] | None, typer.Option(help="an item that may be answered; default: all")
    ] = None,
    objective_scores: Annotated[
        bool, typer.Option(help="also the probability of each objective")
    ] = False,
    url: str = "127.0.0.1:8001",
    protocol: Literal["grpc", "http"] = "grpc",
    bundle: Annotated[
        Path | None, typer.Option(help="bundle to read the items' names from")
    ] = None,
) -> None:
    """Ask a running server for recommendations."""
    from .serving.client import StarsClient
    from .serving.request import SOURCES

    with StarsClient(url, protocol) as client:
        answer = client.recommend(
            user,
            item or [],
            event_type or [],
            event_time or [],
            context or [],
            candidate or [],
            k=k,
            strategy=strategy,
            repeats=repeats,
            filter=filter_,
            time=time,
            explain=explain or None,
            place=place or None,
            stage=None if stage == "retrieve" else stage,
            diversity=diversity,
            objective_scores=objective_scores or None,
        )
    names = _names(bundle, answer.item_ids.tolist())
    named = ["name"] if bundle else []
    objectives = _objectives(bundle, answer.objective_scores)
    # In a narrow terminal a name folds; a number never does.
    whole = (Column(head, no_wrap=True) for head in ("score", "source", *objectives))
    table = Table("", Column("item", no_wrap=True), *named, *whole)
    rows = zip(answer.item_ids, answer.scores, answer.source, strict=True)
    for rank, (item_id, score, source) in enumerate(rows, start=1):
        name = [names[int(item_id)]] if bundle else []
        shares = []
        if answer.objective_scores is not None:
            shares = [f"{share:.4f}" for share in answer.objective_scores[rank - 1]]
        table.add_row(str(rank), str(item_id), *name, f"{score:.3f}", SOURCES[source], *shares)
    console = Console()
    console.print(table)
    if answer.explanation is not None:
        console.print_json(data=answer.explanation)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="folder for everything the demo makes")] = Path(
        "artifacts/demo"
    ),
) -> None:
    """The whole way on real purchases: data, training, evaluation, server, answers."""
    from .demo import run_demo

    run_demo(out)


@app.command()
def runtimes(json_to: _JSON = None) -> None:
    """Which runtimes this machine can run, and why not the rest."""
    from .runtime.registry import statuses

    found = statuses()
    table = Table("runtime", "runs here", "")
    for status in found:
        table.add_row(status.name, "yes" if status.available else "no", escape(status.detail))
    Console().print(table)
    _write(json_to, [status._asdict() for status in found])


@app.command("kernels", context_settings=_PASS_ON, add_help_option=False)
def kernels_(context: typer.Context) -> None:
    """Compile the Triton kernels without a GPU, count their bytes, hold them to their bounds."""
    # A process of its own: Triton's compiler and its interpreter exclude each other.
    raise typer.Exit(subprocess.call([sys.executable, "-m", "kernels", *context.args]))


@app.command("bench", context_settings=_PASS_ON, add_help_option=False)
def bench(
    context: typer.Context,
    what: Annotated[
        str,
        typer.Argument(help="retrieval; refresh: users and their store; report: one HTML page"),
    ],
) -> None:
    """Measure here, beside what a user would pick instead; needs the source tree.

    What follows the name goes to the benchmark: `stars bench retrieval --help` lists it.
    """
    if what not in _BENCHMARKS:
        raise typer.BadParameter(f"expected one of {', '.join(_BENCHMARKS)}, got {what!r}")
    _benchmark(_BENCHMARKS[what], context.args)


@app.command("profile", context_settings=_PASS_ON, add_help_option=False)
def profile(context: typer.Context) -> None:
    """Load a server with perf_analyzer: sweeps, stages, the highest rate that holds a p99."""
    _benchmark("benchmarks.profile", context.args)


@app.command("gate", context_settings=_PASS_ON, add_help_option=False)
def gate(context: typer.Context) -> None:
    """Hold a build to benchmarks/gates.toml: exits 1 on a breach, 2 where it stays undecided."""
    _benchmark("benchmarks.gate", context.args)


def _benchmark(module: str, arguments: list[str]) -> None:
    """Runs a module of the source tree and exits as it does."""
    root = Path(__file__).resolve().parents[1]
    if not (root / "benchmarks").is_dir():
        raise BackendUnavailable(f"{module}: expected the project's source tree, got {root}")
    paths = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": paths}
    command = [sys.executable, "-m", module, *arguments]
    raise typer.Exit(subprocess.call(command, env=environment))


def _until(dataset: Any, text: str | None) -> int:
    """Unix seconds at which the past ends: a local day's start, `end`, or 28 days before it."""
    from .evaluation.protocol import last_cuts

    if text is None:
        return last_cuts(dataset).test
    return last_cuts(dataset).end if text == "end" else _day(dataset.meta.timezone, text)


def _day(timezone: str, text: str) -> int:
    """Unix seconds at which a local day begins."""
    from .data.clock import Clock

    try:
        day = (date.fromisoformat(text) - date(1970, 1, 1)).days
    except ValueError:
        raise typer.BadParameter(f"expected YYYY-MM-DD or end, got {text!r}") from None
    return Clock(timezone).start_of_day(day)


def _names(bundle: Path | None, item_ids: list[int]) -> dict[int, str]:
    """Item names from a bundle's columns."""
    if bundle is None:
        return {}
    from .bundle import Bundle

    opened = Bundle.open(bundle, verify=False)
    places = opened.items["item_ids"].searchsorted(item_ids)
    names = opened.columns["name"].take(places)
    return {item_id: str(name) for item_id, name in zip(item_ids, names, strict=True)}


def _objectives(bundle: Path | None, scores: Any) -> list[str]:
    """Heads of the objectives' columns: their names where the bundle is at hand."""
    if scores is None:
        return []
    if bundle is None:
        return [f"objective {place}" for place in range(scores.shape[1])]
    from .bundle import RANKER_FOLDER
    from .ranking.shop.sidecar import read_sidecar

    return list(read_sidecar(bundle / RANKER_FOLDER).objectives)


def _listed(option: str, text: str, known: dict[str, Any]) -> list[Any]:
    """The values of a comma-separated option, each once."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    if unknown := [name for name in names if name not in known]:
        expected = ", ".join(known) if len(known) < 10 else "numbers as 80 or 120"
        raise typer.BadParameter(f"{option}: expected {expected}, got {unknown[0]!r}")
    return [known[name] for name in names]


def _write(path: Path | None, value: Any) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, indent=2))


def main() -> None:
    """Entry point: an expected error is one line on stderr and exit status 1."""
    try:
        app()
    except StarsError as error:
        print(f"stars: {error}", file=sys.stderr)
        raise SystemExit(1) from None
