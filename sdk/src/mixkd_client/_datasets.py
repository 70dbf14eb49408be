"""Data sets."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from os import PathLike
from pathlib import Path

from mixkd_client._imports import wait
from mixkd_client._transport import Transport
from mixkd_client._types import Dataset, Page


class Datasets:
    """`client.datasets`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def upload(
        self,
        name: str,
        *,
        train: str | PathLike[str],
        validation: str | PathLike[str] | None = None,
        test: str | PathLike[str] | None = None,
        format: str | None = None,  # noqa: A002 - the API's own word
        columns: Mapping[str, str] | None = None,
        task: str | None = None,
        reading: Mapping[str, object] | None = None,
        idempotency_key: str | None = None,
    ) -> Dataset:
        """Upload labelled texts. A large set is still `importing` when this returns: see `wait`.

        Args:
            format: `jsonl`, `csv`, `tsv` or `parquet`; by default the training file's suffix.
            columns: which column holds what: `{"text": …, "label": …}`, and `"text_pair"` where there is one.
            task: `single_label` (the default), `multi_label` or `regression`.
            reading: what else the service takes of how to read the files: `{"score_range": [0, 5]}`,
                `{"label_names": {"0": "negative", "1": "positive"}}`, `{"header": False}` …

        Raises:
            InvalidInput: `errors` says what is wrong with the data, bad rows by line number.
        """
        named = {"train": train, "validation": validation, "test": test}
        paths = {split: Path(path) for split, path in named.items() if path is not None}
        fields = {"name": name, "format": format or paths["train"].suffix.lstrip(".")}
        if columns is not None:
            fields["columns"] = json.dumps(dict(columns))
        if task is not None:
            fields["task"] = task
        for field, value in (reading or {}).items():
            fields[field] = value if isinstance(value, str) else json.dumps(value)
        with ExitStack() as stack:
            files = {
                split: (path.name, stack.enter_context(path.open("rb"))) for split, path in paths.items()
            }
            answer = self._transport.create(
                "/v1/datasets", data=fields, files=files, idempotency_key=idempotency_key
            )
        return Dataset.model_validate_json(answer)

    def get(self, dataset_id: str) -> Dataset:
        """Read one."""
        return self._transport.get(f"/v1/datasets/{dataset_id}", Dataset.model_validate_json)

    def list(self) -> Iterator[Dataset]:
        """All of them, newest first; pages are fetched as they are needed."""
        return self._transport.pages("/v1/datasets", Page[Dataset])

    def wait(self, dataset_id: str, *, timeout: float | None = None) -> Dataset:
        """Wait until it is `ready`.

        Raises:
            ImportRefused: it turned out to be unusable.
            TimedOut: `timeout` seconds have passed.
        """
        return wait(lambda: self.get(dataset_id), timeout)
