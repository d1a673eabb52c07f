"""JSON lines of a model's answers: a run that was broken off goes on from them."""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from engine.errors import DataError


class AnswerLine(BaseModel):
    """One line: the key of what was asked, and what came of it."""

    key: str


_Line = TypeVar("_Line", bound=AnswerLine)


def read_answers(path: Path, kind: type[_Line]) -> dict[str, _Line]:
    """The lines of a former run by key; a last line that was cut off is removed from the file.

    Raises:
        DataError: a line that is none of `kind`.
    """
    if not path.exists():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        path.write_bytes(whole)
    lines: dict[str, _Line] = {}
    for number, raw in enumerate(whole.splitlines()):
        try:
            line = kind.model_validate_json(raw)
        except ValidationError as error:
            raise DataError(
                f"{path} row {number}: expected an answer line, got {raw[:100]!r}"
            ) from error
        lines[line.key] = line
    return lines
