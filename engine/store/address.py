"""Which store a URL names: a folder on this machine, or a Redis."""

from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from engine.bundle import Bundle, user_shape
from engine.errors import BackendUnavailable, ConfigError

from .folder import FolderPublisher, FolderUserStore
from .users import UserStore
from .versions import UserPublisher, Version


def open_users(url: str | None, bundle: Bundle) -> UserStore:
    """The users that a bundle is served with; None or "" takes those inside the bundle.

    Raises:
        ConfigError: no such address.
        BackendUnavailable: the package redis is not there.
        StoreError: nothing is published there, or users of another model.
    """
    if not url:
        if bundle.users.version is None:
            bundle.users.version = _exported(bundle)
        return bundle.users
    model, shape = bundle.model_id, user_shape(bundle.items, bundle.manifest)
    folder = _folder(url)
    if folder is not None:
        return FolderUserStore(folder, model, shape)
    from .redis import RedisUserStore

    return RedisUserStore(url, model, shape)


def open_publisher(url: str) -> UserPublisher:
    """The store that a refresh writes. Raises ConfigError and BackendUnavailable as above."""
    folder = _folder(url)
    if folder is not None:
        return FolderPublisher(folder)
    from .redis import RedisPublisher

    return RedisPublisher(url)


def absolute(url: str) -> str:
    """The same store, named so that a process with another working directory finds it."""
    folder = _folder(url) if url else None
    return url if folder is None else str(folder.resolve())


def _exported(bundle: Bundle) -> Version:
    """The version that the users inside a bundle are."""
    manifest = bundle.manifest
    return Version(
        id="bundle",
        key=bundle.model_id,
        model=bundle.model_id,
        cut=manifest.cut,
        published=int(datetime.fromisoformat(manifest.created).timestamp()),
        expires=None,
        users=len(bundle.users),
        parts=1,
    )


def _folder(url: str) -> Path | None:
    """The folder that an address names, None for a Redis."""
    parts = urlsplit(url)
    if parts.scheme in ("", "file"):
        return Path(parts.path)
    if parts.scheme not in ("redis", "rediss"):
        raise ConfigError(
            f"users: expected a folder, file://, redis:// or rediss://, got {parts.scheme}://"
        )
    if find_spec("redis") is None:
        raise BackendUnavailable(
            "users: expected the package redis, got none; `pip install 'stars-engine[redis]'`"
        )
    return None
