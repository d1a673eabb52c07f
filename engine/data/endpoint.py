"""One request to an OpenAI-compatible endpoint, its answer checked."""

from __future__ import annotations

from typing import Any, TypeVar

import openai
from pydantic import BaseModel, ValidationError

from engine.errors import EndpointError

Reply = TypeVar("Reply", bound=BaseModel)
_SHOWN = 300  # characters of an answer that an error quotes


class Endpoint:
    """The openai client's connection handling and retries, with answers that are validated here.

    The client itself returns whatever came as the type that was hoped for.
    """

    def __init__(
        self, base_url: str, api_key: str, *, timeout_s: float = 60.0, retries: int = 4
    ) -> None:
        """Failed connections, timeouts, 408, 409, 429 and 5xx are tried `retries` times more."""
        self.base_url = base_url
        self._client = openai.OpenAI(
            base_url=base_url, api_key=api_key, timeout=timeout_s, max_retries=retries
        )

    def post(self, path: str, body: dict[str, Any], reply: type[Reply]) -> Reply:
        """Sends `body` to `path` and returns the answer as `reply`.

        Raises:
            EndpointError: no answer, an error, or an answer that is no `reply`; names the address.
        """
        address = f"{self.base_url.rstrip('/')}{path}"
        try:
            answer = self._client.post(path, cast_to=str, body=body)
        except openai.APIStatusError as error:
            raise EndpointError(
                f"{address}: expected 200, got {error.status_code}: {error.response.text[:_SHOWN]}"
            ) from error
        except openai.OpenAIError as error:
            raise EndpointError(f"{address}: no answer: {error}") from error
        try:
            return reply.model_validate_json(answer)
        except ValidationError as error:
            raise EndpointError(
                f"{address}: expected {reply.__name__} as JSON, got {answer[:_SHOWN]!r}: "
                f"{error.errors()[0]['msg']}"
            ) from error
