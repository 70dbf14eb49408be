"""A job's scores on its row: while it trains, and through another attempt."""

from uuid import UUID, uuid4

from core.jobs import claims, ends
from core.jobs.claims import StoredCheckpoint
from mixkd.contract.messages import Metric
from tests.support.jobs import Bench


def claim(bench: Bench) -> UUID:
    token = uuid4()
    with bench.sessions.begin() as session:
        assert claims.claim(session, bench.worker(), token, 60) is not None
    return token


def evaluate(bench: Bench, token: UUID, step: int, accuracy: float) -> None:
    metric = Metric(phase="distil", step=step, values={"loss": 1.0, "validation_accuracy": accuracy})
    with bench.sessions.begin() as session:
        claims.metrics(session, token, [metric])


def test_an_attempt_that_goes_on_from_a_checkpoint_keeps_the_best_score(bench: Bench) -> None:
    job_id = bench.submit()
    token = claim(bench)
    evaluate(bench, token, 10, 0.8)
    evaluate(bench, token, 20, 0.7)
    with bench.sessions.begin() as session:
        stored = StoredCheckpoint(attempt=1, phase="distil", step=20, files={})
        claims.keep_checkpoint(session, token, stored)
        ends.hand_back(session, token, "worker_shutdown")
    evaluate(bench, claim(bench), 30, 0.75)
    scores = bench.job(job_id).scores
    assert scores is not None
    assert (scores["metric"], scores["student"], scores["teacher"]) == ("accuracy", 0.8, None)


def test_an_attempt_that_begins_anew_forgets_the_scores_of_weights_that_are_gone(bench: Bench) -> None:
    job_id = bench.submit()
    token = claim(bench)
    evaluate(bench, token, 10, 0.8)
    with bench.sessions.begin() as session:
        ends.hand_back(session, token, "worker_shutdown")
    claim(bench)
    assert bench.job(job_id).scores is None
