"""The broker: hints that there is work. The database says what the work is.

A message that is lost, doubled or late does no harm: a worker asked to wake claims in SQL, and the
reconciler sends again what went missing. Sending therefore never fails a request: it is logged.
"""

import logging
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any

from core.errors import Unavailable

if TYPE_CHECKING:
    from celery import Celery  # slow to import; the API pays for it with its first message only

CPU_JOBS = "jobs.cpu"
GPU_JOBS = "jobs.gpu"
CONTROL = "control"

WAKE = "mixkd.wake"
IMPORT_DATASET = "mixkd.import_dataset"
IMPORT_MODEL = "mixkd.import_model"

SEND_SECONDS = 2
"""How long one attempt to reach the broker may take; a request waits for two of them at worst."""

log = logging.getLogger(__name__)


def celery_app(broker_url: str) -> "Celery":
    """The Celery application, with the settings that survived real faults (docs/adr).

    Messages are acknowledged as they arrive: leases, not redelivery, bring back the job of a dead worker.

    Args:
        broker_url: `redis://host:port/db`, or `redis+socket:///path` for a Unix socket.
    """
    from celery import Celery

    app = Celery("mixkd", broker=broker_url, set_as_current=False)
    app.conf.update(
        task_acks_late=False,
        worker_disable_prefetch=True,  # a worker that trains holds no message back from an idle one
        worker_prefetch_multiplier=1,
        task_ignore_result=True,
        result_backend=None,
        task_default_queue=CONTROL,
        task_create_missing_queues=True,
        task_serializer="json",
        accept_content=["json"],
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # for ever: a worker outlives any outage of the broker
        broker_connection_timeout=SEND_SECONDS,
        broker_transport_options={
            "socket_timeout": SEND_SECONDS,
            "socket_connect_timeout": SEND_SECONDS,
            "socket_keepalive": True,
        },
        # One quick repetition: the first may only find that a pooled connection died with the broker.
        task_publish_retry_policy={
            "max_retries": 1,
            "interval_start": 0,
            "interval_step": 0,
            "interval_max": 0,
        },
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )
    return app


class Queue:
    """Sends hints; each says whether it was sent.

    Args:
        broker_url: see `celery_app`.
    """

    def __init__(self, broker_url: str) -> None:
        self._broker_url = broker_url
        self._making = Lock()

    def wake(self, device: str) -> bool:
        """Tell one idle worker of a kind that a job may be waiting; `any`: one of each.

        Args:
            device: what the job asks for, as `Job.device`.
        """
        kinds = ((CPU_JOBS, ("any", "cpu")), (GPU_JOBS, ("any", "gpu")))
        return all(self._send(WAKE, queue) for queue, serves in kinds if device in serves)

    def import_dataset(self, dataset_id: str) -> bool:
        """Ask the control worker to check an uploaded data set."""
        return self._send(IMPORT_DATASET, CONTROL, dataset_id)

    def import_model(self, model_id: str) -> bool:
        """Ask the control worker to fetch and check a model."""
        return self._send(IMPORT_MODEL, CONTROL, model_id)

    def ping(self) -> None:
        """See whether the broker answers.

        Raises:
            Unavailable: it does not.
        """
        try:
            with self._app.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1, interval_start=0, timeout=SEND_SECONDS)
        except Exception as error:
            log.warning("the broker does not answer: %s", error)
            raise Unavailable("the broker does not answer") from error

    def _send(self, task: str, queue: str, *args: Any) -> bool:
        try:
            # Without `expires`: a worker whose clock is ahead would drop every hint. An old one does no harm.
            self._app.send_task(task, args=args, queue=queue, ignore_result=True)
        except Exception as error:  # whatever it is, the row is there and the reconciler will see it
            log.warning("could not send %s%s: %s", task, args, error)
            return False
        return True

    @cached_property
    def _shared(self) -> "Celery":
        return celery_app(self._broker_url)

    @property
    def _app(self) -> "Celery":
        with self._making:
            return self._shared
