"""How a bundle is served: the options that a server, its model and the command line share."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from engine.errors import ConfigError

PREFIX = "STARS_"  # of the environment variables that name them


@dataclass(frozen=True)
class Options:
    """Options of a Recommender.

    Attributes:
        threads: of search and encoder.
        runtime: of the encoder, a name of `engine.runtime.registry.choose`.
        cache_mib: for keys and values of users that ask again, 0 for none.
        index: what searches, a name of `engine.retrieval.choose.choose`.
        recall_share: of the queries, which exact search answers too, to watch the index.
        users: address of the stored users, see `engine.store.address`; "" for the bundle's own.
        store_down: "error" or "popularity", what a request without events gets while the store of
            the users does not answer.
        signals: address of a feature source, see `engine.serving.signals`; "" for none.
    """

    threads: int = 1
    runtime: str = "auto"
    cache_mib: int = 256
    index: str = "auto"
    recall_share: float = 0.0
    users: str = ""
    store_down: str = "error"
    signals: str = ""

    @classmethod
    def read(cls, given: Mapping[str, str], environment: Mapping[str, str]) -> "Options":
        """From a model's parameters; a variable STARS_<NAME> wins, what neither names is default.

        Raises:
            ConfigError: a value is of another type.
        """
        found: dict[str, Any] = {}
        for field in fields(cls):
            text = environment.get(f"{PREFIX}{field.name.upper()}") or given.get(field.name)
            if text is None:
                continue
            kind: Any = type(field.default)
            try:
                found[field.name] = kind(text)
            except ValueError:
                raise ConfigError(f"{field.name}: expected {kind.__name__}, got {text!r}") from None
        return cls(**found)

    def environment(self) -> dict[str, str]:
        """The variables that say the same."""
        return {f"{PREFIX}{f.name.upper()}": str(getattr(self, f.name)) for f in fields(self)}


DEFAULTS = Options()
