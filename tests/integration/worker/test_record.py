"""What a trainer says, through outages of the database: every word once."""

from uuid import uuid4

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from core.jobs import claims
from mixkd.contract.messages import Note, PhaseStarted
from tests.support.jobs import Bench
from worker.record import Recorder


@pytest.mark.parametrize("lost", ["before_commit", "after_commit"])
def test_a_commit_whose_answer_is_lost_repeats_nothing(bench: Bench, lost: str) -> None:
    """Not even together with what the trainer said meanwhile."""
    job_id = bench.submit()
    with bench.sessions.begin() as session:
        claim = claims.claim(session, bench.worker(), uuid4(), 60)
    assert claim is not None
    deaf = sessionmaker(bench.sessions.kw["bind"], expire_on_commit=False)
    answers = iter([False, False])

    @event.listens_for(deaf, lost)
    def lose(_: Session) -> None:
        if not next(answers, True):
            raise OperationalError("COMMIT", {}, Exception("server closed the connection"))

    recorder = Recorder(deaf, claim.token)
    for message in (PhaseStarted(phase="prepare"), Note(detail="one"), PhaseStarted(phase="teach")):
        recorder.take(message)
    assert not recorder.all_written
    recorder.take(Note(detail="two"))
    recorder.flush()
    recorder.take(Note(detail="three"))
    recorder.flush()
    assert recorder.all_written
    assert bench.phases(job_id) == ["prepare", "teach"]
    notes = [one.data["detail"] for one in bench.events(job_id) if one.type == "note"]
    assert notes == ["one", "two", "three"]
