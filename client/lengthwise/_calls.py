"""What `Client` and `AsyncClient` share: endpoints, time-outs, and the start of each call."""

import random

from lengthwise._retries import Inquiry, Retries, Rotation
from lengthwise._session import Session
from lengthwise._wire import requests
from lengthwise.settings import Retry, Timeout
from lengthwise.types import Options, Prompt
from lengthwise_wire.errors import InvalidRequest


class Calls:
    """Makes the state machine of each call, at a time given. Errors: InvalidRequest, TypeError."""

    def __init__(
        self, num_endpoints: int, timeout: Timeout, retry: Retry, model: str | None
    ) -> None:
        """`model`: of the calls that name none."""
        if num_endpoints < 1:
            raise InvalidRequest("transports: got none, expected at least one")
        self._rotation = Rotation(num_endpoints)
        self._timeout = timeout
        self._retry = retry
        self._model = model

    def session(self, prompt: Prompt, options: Options, now: float) -> Session:
        request = requests.generate_request(
            prompt, {**options, "model": self.model(options.get("model"))}
        )
        return Session(request, self.retries(options.get("timeout"), now))

    def model(self, named: str | None) -> str | None:
        return self._model if named is None else named

    def retries(self, timeout: Timeout | float | None, now: float) -> Retries:
        return Retries(
            retry=self._retry,
            timeout=self._timeout_of(timeout),
            rotation=self._rotation,
            now=now,
            draw=random.random,
        )

    def inquiry(self, timeout: Timeout | float | None, now: float) -> Inquiry:
        return Inquiry(timeout=self._timeout_of(timeout), rotation=self._rotation, now=now)

    def _timeout_of(self, timeout: Timeout | float | None) -> Timeout:
        if timeout is None:
            return self._timeout
        return Timeout.of(timeout)
