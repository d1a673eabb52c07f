"""Asking a chat model for many things: its answers are JSON lines, and a run that was broken off
goes on from them."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from engine.errors import DataError

from .endpoint import Endpoint


class ChatMessage(BaseModel):
    content: str | None = None  # null where the model refuses to answer


class ChatChoice(BaseModel):
    message: ChatMessage


class ChatReply(BaseModel):
    """The part of a chat completion that is read."""

    choices: list[ChatChoice] = Field(min_length=1)


class AnswerLine(BaseModel):
    """One line: the key of what was asked, and what came of it."""

    key: str


_Line = TypeVar("_Line", bound=AnswerLine)
_Asked = TypeVar("_Asked")
_Parsed = TypeVar("_Parsed")


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


def ask_all(
    asked: Sequence[_Asked], ask: Callable[[_Asked], _Line], path: Path, workers: int
) -> Iterator[_Line]:
    """Yields each line after it was appended to the file; the first error ends the run.

    What still waits then is dropped instead of worked off.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    pool = ThreadPoolExecutor(workers)
    try:
        with path.open("a", encoding="utf-8") as file:
            for future in as_completed([pool.submit(ask, one) for one in asked]):
                line = future.result()
                file.write(line.model_dump_json(exclude_none=True) + "\n")
                file.flush()
                yield line
    finally:
        pool.shutdown(cancel_futures=True)


def ask_twice(
    endpoint: Endpoint,
    model: str,
    task: str,
    content: str | list[dict[str, Any]],
    parse: Callable[[str], tuple[_Parsed | None, str]],
) -> tuple[_Parsed | None, str]:
    """Asks once, and once more with the reason when the answer is refused.

    Args:
        task: what the model is told to do.
        content: what it is asked about, as a message of the chat API has it.
        parse: what an answer says, or None and why it is refused.
    Returns:
        As `parse`, of the answer that was taken or of the second one.
    Raises:
        EndpointError: the endpoint failed or is not one.
    """
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": task},
        {"role": "user", "content": content},
    ]
    found, reason = None, ""
    for _ in range(2):
        body: dict[str, Any] = {
            "model": model,
            "messages": messages,
            "temperature": 0,
            "response_format": {"type": "json_object"},
        }
        reply = endpoint.post("/chat/completions", body, ChatReply)
        answer = reply.choices[0].message.content or ""
        found, reason = parse(answer)
        if found is not None:
            break
        messages = [
            *messages,
            {"role": "assistant", "content": answer},
            {"role": "user", "content": f"Refused: {reason}. Answer again, with JSON only."},
        ]
    return found, reason
