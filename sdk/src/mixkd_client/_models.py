"""Models: the teachers that jobs learn from."""

from collections.abc import Iterator
from contextlib import ExitStack
from os import PathLike
from pathlib import Path

from mixkd_client._imports import wait
from mixkd_client._transport import Transport
from mixkd_client._types import Model, Page


class Models:
    """`client.models`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def register(self, name: str, source: str, *, idempotency_key: str | None = None) -> Model:
        """Register a teacher by reference. One from a hub is still `importing` when this returns: see `wait`.

        Args:
            source: `hf://org/name@revision`, or `path:/folder` under one of the service's roots.

        Raises:
            InvalidInput: the folder cannot be used, and why.
        """
        body = {"name": name, "source": source}
        answer = self._transport.create("/v1/models", json=body, idempotency_key=idempotency_key)
        return Model.model_validate_json(answer)

    def upload(self, name: str, folder: str | PathLike[str], *, idempotency_key: str | None = None) -> Model:
        """Register a teacher by uploading the files that lie in a folder (sub-folders are left out).

        Raises:
            InvalidInput: the folder cannot be used, and why.
        """
        paths = sorted(path for path in Path(folder).iterdir() if path.is_file())
        with ExitStack() as stack:
            files = [("files", (path.name, stack.enter_context(path.open("rb")))) for path in paths]
            answer = self._transport.create(
                "/v1/models/upload", data={"name": name}, files=files, idempotency_key=idempotency_key
            )
        return Model.model_validate_json(answer)

    def get(self, model_id: str) -> Model:
        """Read one."""
        return self._transport.get(f"/v1/models/{model_id}", Model.model_validate_json)

    def list(self) -> Iterator[Model]:
        """All of them, newest first; pages are fetched as they are needed."""
        return self._transport.pages("/v1/models", Page[Model])

    def wait(self, model_id: str, *, timeout: float | None = None) -> Model:
        """Wait until it is `ready`.

        Raises:
            ImportRefused: it turned out to be unusable.
            TimedOut: `timeout` seconds have passed.
        """
        return wait(lambda: self.get(model_id), timeout)
