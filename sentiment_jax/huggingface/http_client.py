"""The HTTP client for the hub's library, which gives up on a hub that has fallen silent."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import huggingface_hub


class _Body(httpx2.SyncByteStream):
    """The body of a response, each of whose chunks proves that the hub is alive."""

    def __init__(self, client: "_Client", stream: Any):
        self._client, self._stream = client, stream

    def __iter__(self) -> Iterator[bytes]:
        with self._client.silence_is_final():
            for chunk in self._stream:
                self._client.heard = time.monotonic()
                yield chunk

    def close(self) -> None:
        self._stream.close()


class _Client(httpx2.Client):
    """A client whose time-out bounds the silence of the hub over all requests and retries."""

    def __init__(self, seconds: float, **options: Any):
        super().__init__(**options, timeout=seconds)
        self.seconds = seconds
        self.heard = time.monotonic()

    @contextlib.contextmanager
    def silence_is_final(self) -> Iterator[None]:
        """Raise `OSError`, which the hub's library never retries, once the silence is too long."""
        try:
            yield
        except httpx2.TransportError as error:
            if time.monotonic() - self.heard < self.seconds:
                raise
            reason = f"no byte for {self.seconds:g} s, {type(error).__name__}: {error}"
            raise TimeoutError(reason) from error

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send a request under the client's time-out, whatever the request's own is.

        Raises:
          OSError: the silence is too long, or the hub asks to come again later.
        """
        request.extensions = {**request.extensions, "timeout": self.timeout.as_dict()}
        with self.silence_is_final():
            response = super().send(request, **options)
        if response.status_code == 429 or response.status_code >= 500:
            raise OSError(f"the hub answers with status {response.status_code}")
        self.heard = time.monotonic()
        response.stream = _Body(self, response.stream)
        return response


def give_up_after(seconds: float) -> None:
    """Make the hub's library give up after `seconds` without a byte.

    By itself it retries for a minute. It may go on retrying, and resuming what broke off, while
    bytes arrive, however slowly.
    """
    hooks = huggingface_hub.get_session().event_hooks  # they implement HF_HUB_OFFLINE
    huggingface_hub.set_client_factory(
        lambda: _Client(seconds, event_hooks=hooks, follow_redirects=True)
    )
