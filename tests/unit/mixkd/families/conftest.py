"""One saved classifier and one saved encoder of every family we know."""

from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from tests.support.encoders import KINDS, save_folder, tiny_classifier, tiny_encoder


@pytest.fixture(scope="session", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """A key of `KINDS`."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def classifier_folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of this kind, as `save_pretrained` writes it."""
    return save_folder(tiny_classifier(kind), kind, tmp_path_factory.mktemp(kind))


@pytest.fixture(scope="session")
def encoder_folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder of this kind without a head."""
    return save_folder(tiny_encoder(kind), kind, tmp_path_factory.mktemp(kind))


@pytest.fixture
def classifier(classifier_folder: Path) -> PreTrainedModel:
    """The saved classifier, loaded by plain transformers."""
    return AutoModelForSequenceClassification.from_pretrained(classifier_folder).eval()
