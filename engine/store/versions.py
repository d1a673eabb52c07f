"""Versions of all users: what a store publishes, and the rules of publishing and going back.

A version never changes once it is published. What a store serves is the first of a short list,
which is replaced as a whole by one atomic step; readers look at the list once a batch.
"""

from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.errors import StoreError


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Version(_Frozen):
    """All users at one cut, by one model.

    Attributes:
        id: names the version in its store.
        key: sha256 of everything that decides the content.
        model: `Bundle.model_id` of the bundle that made the vectors.
        cut: unix seconds (or order) up to which events were seen.
        published: unix seconds.
        expires: unix seconds from which no user of it is answered any more; None never.
        users: how many. parts: into how many pieces the work was cut.
    """

    id: str = Field(pattern="^[0-9A-Za-z-]{1,64}$")
    key: str
    model: str
    cut: int
    published: int
    expires: int | None
    users: int = Field(ge=0)
    parts: int = Field(ge=0)


class Published(_Frozen):
    """What a store holds: the version that is served first, then those before it.

    Attributes:
        retired: what no version follows any more, to be freed by the next refresh.
    """

    format: Literal[1] = 1
    versions: tuple[Version, ...] = ()
    retired: tuple[Version, ...] = ()

    @property
    def served(self) -> Version | None:
        """The version that is answered from."""
        return self.versions[0] if self.versions else None

    def publish(self, version: Version, keep: int) -> "Published":
        """`version` served and the last `keep` versions with it; the others retired."""
        versions = (version, *(v for v in self.versions if v.id != version.id))
        return Published(versions=versions[:keep], retired=(*self.retired, *versions[keep:]))

    def rollback(self) -> "Published":
        """The version before served, the one that was retired. Needs two versions."""
        return Published(versions=self.versions[1:], retired=(*self.retired, self.versions[0]))

    def to_json(self) -> bytes:
        """As stores have it."""
        return self.model_dump_json().encode()

    @classmethod
    def parse(cls, raw: bytes | None, store: str) -> "Published":
        """What `to_json` wrote, nothing for None; StoreError where it is something else."""
        try:
            return cls() if raw is None else cls.model_validate_json(raw)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "versions"
            raise StoreError(f"users {store}: {place}: {first['msg']}") from error


class UserPublisher(Protocol):
    """A store that is written: a refresh in parts, then one switch.

    Attributes:
        url: of the store, from anywhere on the machine.
        name: the same without a password, for what is said.
    """

    url: str
    name: str

    def published(self) -> Published:
        """What the store holds now."""
        ...

    def begin(self, version: Version) -> Version:
        """Takes up an unfinished version of the same key, or begins this one; drops any other."""
        ...

    def parts(self, version: Version) -> set[int]:
        """Parts of the unfinished version that are complete."""
        ...

    def write(self, version: Version, part: int, records: list[tuple[bytes, bytes]]) -> None:
        """Stores one part, (key, encoded record) by ascending key; all of it or nothing counts."""
        ...

    def finish(self, version: Version) -> None:
        """Makes the version ready to be served: all parts are there."""
        ...

    def swap(self, before: Published, after: Published) -> None:
        """Replaces what is published by one atomic step; StoreError where it is not `before`."""
        ...

    def clean(self, published: Published) -> None:
        """Frees what the retired versions take up, and the remains of a published refresh."""
        ...


def publish(store: UserPublisher, version: Version, keep: int) -> None:
    """Serves a finished version; the last `keep` are kept, older ones freed."""
    before = store.published()
    check_model(before, version.model, store.name)
    after = before.publish(version, keep)
    store.swap(before, after)
    store.clean(after)
    store.swap(after, Published(versions=after.versions))


def rollback(store: UserPublisher) -> Version:
    """Serves the version before again, and returns it.

    Raises:
        StoreError: there is no version before.
    """
    before = store.published()
    if len(before.versions) < 2:
        raise StoreError(
            f"users {store.name}: expected a version to go back to, "
            f"got {len(before.versions)} in all"
        )
    after = before.rollback()
    store.swap(before, after)
    return after.versions[0]


def served_version(raw: bytes | None, model: str, store: str) -> Version:
    """What readers of `model` serve of a store.

    Raises:
        StoreError: nothing is published, or users of another model, or it cannot be read.
    """
    published = Published.parse(raw, store)
    if published.served is None:
        raise StoreError(f"users {store}: expected a published version, got none; `stars refresh`")
    check_model(published, model, store)
    return published.served


def check_model(published: Published, model: str, store: str) -> None:
    """Raises StoreError where the store serves another model: vectors of two models never mix."""
    served = published.served
    if served is not None and served.model != model:
        raise StoreError(
            f"users {store}: expected users of the model {served.model[:12]}, which it serves, "
            f"got {model[:12]}: give each model a store of its own"
        )
