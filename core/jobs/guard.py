"""What the database itself refuses, whoever asks: a change of state that the table of transitions does not
have, a change without its event, a fence that falls, a history that is rewritten or shortened.

The migrations say the same in words of their own; a test compares the two.
"""

from sqlalchemy import DDL, event

from core.jobs.models import Job, JobEvent
from core.jobs.states import TRANSITIONS

_ARROWS = ", ".join(f"'{now} {after}'" for now, afters in TRANSITIONS.items() for after in sorted(afters))

FUNCTIONS = (
    f"""
CREATE FUNCTION jobs_follow_arrows() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.status <> 'queued' THEN
            RAISE EXCEPTION 'a job begins as queued, not as %', NEW.status USING ERRCODE = 'check_violation';
        END IF;
    ELSIF NEW.status <> OLD.status AND OLD.status || ' ' || NEW.status <> ALL (ARRAY[{_ARROWS}]) THEN
        RAISE EXCEPTION 'a job cannot go from % to %', OLD.status, NEW.status
            USING ERRCODE = 'check_violation';
    ELSIF NEW.fence < OLD.fence THEN
        RAISE EXCEPTION 'the fence of a job cannot fall' USING ERRCODE = 'check_violation';
    END IF;
    -- What no longer applies goes, also where the release before this one writes, which knows nothing of it.
    IF NEW.status <> 'queued' THEN
        NEW.not_before := NULL;
    END IF;
    IF NEW.status <> 'running' THEN
        NEW.pause_requested_at := NULL;
    END IF;
    IF NEW.status IN ('succeeded', 'failed', 'cancelled') THEN
        NEW.finish_requested_at := NULL;
    END IF;
    RETURN NEW;
END $$""",
    """
CREATE FUNCTION jobs_write_events() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM job_events WHERE job_id = NEW.id AND seq > OLD.event_seq) THEN
        RAISE EXCEPTION 'a job went from % to % without an event', OLD.status, NEW.status
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$""",
    """
CREATE FUNCTION job_events_stay() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'events are only ever added' USING ERRCODE = 'check_violation';
END $$""",
)
JOB_TRIGGERS = (
    """
CREATE TRIGGER jobs_arrows BEFORE INSERT OR UPDATE OF status, fence ON jobs
    FOR EACH ROW EXECUTE FUNCTION jobs_follow_arrows()""",
    """
CREATE CONSTRAINT TRIGGER jobs_events AFTER UPDATE OF status ON jobs DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.status <> OLD.status) EXECUTE FUNCTION jobs_write_events()""",
)
EVENT_TRIGGERS = (
    """
CREATE TRIGGER job_events_stay BEFORE UPDATE OR DELETE ON job_events
    FOR EACH ROW EXECUTE FUNCTION job_events_stay()""",
)

for _table, _statements in (
    (Job.__table__, (*FUNCTIONS, *JOB_TRIGGERS)),
    (JobEvent.__table__, EVENT_TRIGGERS),
):
    for _statement in _statements:
        _make = DDL(_statement.replace("%", "%%"))  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it so
        event.listen(_table, "after_create", _make)
