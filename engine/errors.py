"""The errors that callers can catch. Each message says what, where, expected and got."""


class StarsError(Exception):
    """Base of every error that the engine raises on purpose."""


class ConfigError(StarsError):
    """A configuration that cannot be used; names the file and the key."""


class DataError(StarsError):
    """A dataset that breaks the schema; names the file, the row and the column."""


class BundleError(StarsError):
    """A bundle that is incomplete, altered or of another version; names the file and the reason."""


class RequestError(StarsError):
    """A request that breaks the contract; names the field, what was expected and what came."""


class BackendUnavailable(StarsError):  # noqa: N818 - reads as what it says
    """A backend was asked for that this machine cannot run; says why and what to install."""


class EndpointError(StarsError):
    """A text endpoint failed or answered outside its protocol; names the address and the answer."""


class StoreError(StarsError):
    """A store of users that cannot answer, or refuses a version; names its address."""


class StoreDown(StoreError):  # noqa: N818 - reads as what it says
    """A store that does not answer in time; it may do so a moment later."""


class SignalError(StarsError):
    """A feature source that does not answer, or not with signals; names it and what came."""


class ServerError(StarsError):
    """The inference server did not start, stopped or is silent; carries the end of its log."""


class CompileError(StarsError):
    """A graph that a compiler refuses, or that would not run as asked; names layer and reason."""
