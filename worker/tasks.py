"""The Celery tasks: thin. A message is a hint; what there is to do stands in the database."""

from celery import Celery

from core import queue
from core.config import Settings
from core.datasets import service as datasets
from core.db import SessionFactory
from core.models import service as models
from core.storage import Storage
from worker.supervisor import Supervisor


def register_jobs(app: Celery, supervisor: Supervisor) -> None:
    """What a training worker does with its messages."""

    @app.task(name=queue.WAKE)
    def wake() -> None:
        supervisor.work()


def register_control(app: Celery, sessions: SessionFactory, storage: Storage, settings: Settings) -> None:
    """What the control worker does with its messages."""

    @app.task(name=queue.IMPORT_DATASET)
    def import_dataset(dataset_id: str) -> None:
        datasets.run_import(sessions, storage, settings, dataset_id)

    @app.task(name=queue.IMPORT_MODEL)
    def import_model(model_id: str) -> None:
        models.run_import(sessions, storage, settings, model_id)
