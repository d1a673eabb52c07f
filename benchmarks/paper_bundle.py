"""A bundle of the `paper` preset with random weights, as `stars compile --preset paper --serve`
makes it, without engines."""

from pathlib import Path

from engine.compile.export import export
from engine.compile.subject import random_subject
from engine.config import load_config
from engine.data.generated import generated_shop
from engine.pipeline import begin, is_made, mark_made, stage_key

FOLDER = Path(__file__).resolve().parents[1] / "artifacts" / "gate" / "paper"
EVENTS = 300  # of the users with most: as that command's shop


def paper_bundle(folder: Path = FOLDER) -> Path:
    """The bundle's folder; made anew where the code that makes it has changed."""
    config = load_config("paper")
    key = stage_key(config.model_dump_json(), EVENTS)
    bundle = folder / "bundle"
    if not is_made(folder / "stage", key) or not bundle.exists():
        begin(folder / "stage", key)
        shop = generated_shop(folder / "shop", events=EVENTS, text_dim=config.model.text_dim)
        subject = random_subject(shop, config)
        export(subject.model, shop, config, subject.cut, bundle, lambda_serve=0.0)
        mark_made(folder / "stage", key)
    return bundle
