"""`stars items`: changes of a bundle's items, taken up by running servers."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from .content import ItemEditor

app = typer.Typer(no_args_is_help=True, help="Add, update and remove items of a served bundle.")

_BUNDLE = Annotated[Path, typer.Option("--bundle", help="folder of the bundle")]
_TABLE = Annotated[Path, typer.Argument(help="Parquet table with item_id and columns")]
_URL = Annotated[
    str | None, typer.Option(help="OpenAI-compatible endpoint that embedded the bundle's texts")
]
_MODEL = Annotated[str, typer.Option(help="model of that endpoint")]
_API_KEY = Annotated[str, typer.Option(envvar="OPENAI_API_KEY", help="of the endpoint")]


@app.command()
def add(
    table: _TABLE,
    bundle: _BUNDLE,
    embeddings_url: _URL = None,
    embeddings_model: _MODEL = "",
    api_key: _API_KEY = "none",
) -> None:
    """Add items that training has not seen: item_id, text, and any columns of the catalogue."""
    from .content import read_items

    editor = _editor(bundle, embeddings_url, embeddings_model, api_key)
    print(f"{bundle}: {editor.add(read_items(table))} items added")


@app.command()
def update(
    bundle: _BUNDLE,
    table: Annotated[
        Path | None, typer.Argument(help="Parquet table with item_id and what changes")
    ] = None,
    item: Annotated[list[int] | None, typer.Option(help="an item, instead of a table")] = None,
    set_: Annotated[str, typer.Option("--set", help="JSON of what changes of these items")] = "{}",
    embeddings_url: _URL = None,
    embeddings_model: _MODEL = "",
    api_key: _API_KEY = "none",
) -> None:
    """Change columns, texts or tags of items: price and stock, for instance."""
    import polars as pl

    from .content import read_items

    if (table is None) == (not item):
        raise typer.BadParameter("expected a table or items, got both or neither")
    if table is None:
        values = _object(set_)
        rows = pl.DataFrame([{"item_id": item_id} | values for item_id in item or ()])
    else:
        rows = read_items(table)
    editor = _editor(bundle, embeddings_url, embeddings_model, api_key)
    print(f"{bundle}: {editor.update(rows)} items updated")


@app.command()
def remove(
    items: Annotated[list[int], typer.Argument(help="item ids")],
    bundle: _BUNDLE,
) -> None:
    """Take items out of all answers; they stay valid history."""
    print(f"{bundle}: {_editor(bundle).remove(items)} items removed")


def _editor(path: Path, url: str | None = None, model: str = "", api_key: str = "") -> "ItemEditor":
    from engine.bundle import Bundle
    from engine.data.text import open_embedder

    from .changes import ChangeLog
    from .content import ItemEditor

    bundle = Bundle.open(path, verify=False)
    return ItemEditor(bundle, ChangeLog.of(bundle), open_embedder(url, model, api_key))


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"--set: expected a JSON object, got {error}") from error
    if not isinstance(value, dict):
        raise typer.BadParameter(f"--set: expected a JSON object, got {text!r}")
    return value
