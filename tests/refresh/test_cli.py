"""`stars refresh` and `stars rollback`, as they are typed."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from engine.bundle import Bundle
from engine.cli import app
from engine.data.dataset import Dataset
from engine.errors import StoreError
from engine.store.address import open_users


def stars(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(part) for part in arguments])


def test_refresh_and_rollback(bundle: Path, dataset: Dataset, tmp_path: Path) -> None:
    store = tmp_path / "store"
    of = ("--bundle", bundle, "--data", dataset.folder, "--store", store, "--address", "here")
    done = stars("refresh", *of, "--until", "2024-04-20")
    assert done.exit_code == 0, done.output
    assert done.output.endswith(f": {len(dataset.user_ids)} users, 60 computed in this run\n")
    assert stars("refresh", *of, "--until", "2024-04-20").output.endswith(": unchanged\n")
    assert stars("refresh", *of, "--ttl-days", "1.5").exit_code == 0
    users = open_users(str(store), Bundle.open(bundle))
    assert users.version is not None
    assert users.version.expires is not None
    assert abs(users.version.expires - users.version.published - 129_600) < 60
    before = done.output.partition(":")[0]
    assert stars("rollback", "--store", store).output == f"{before}: served\n"
    users.get_many(["user-000"])
    assert users.version.id == before
    again = stars("rollback", "--store", store)
    assert isinstance(again.exception, StoreError)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--until", "soon"], "expected YYYY-MM-DD or end, got"),
        (["--keep", "1"], "greater than or equal to 2"),
    ],
)
def test_options_that_are_refused(
    bundle: Path, dataset: Dataset, tmp_path: Path, options: list[str], message: str
) -> None:
    of = ("--bundle", bundle, "--data", dataset.folder, "--store", tmp_path, "--address", "here")
    done = stars("refresh", *of, *options)
    assert done.exit_code == 2
    assert message in " ".join(done.output.replace("│", "").split())
