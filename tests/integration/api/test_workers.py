"""What an owner sees of the workers."""

import pytest
from sqlalchemy import text

from core.ids import new_id
from core.jobs import claims, ends
from core.workers import service as workers
from mixkd_client import Client
from mixkd_client._cli import main


@pytest.fixture
def add(sessions):
    """`add(device=…, seen="2 hours")`: a worker that last reported so long ago; its id."""

    def add(seen: str = "0 s", gpu_use=None, **given) -> str:
        worker_id = new_id("wrk")
        values = {"hostname": "box", "pid": 1, "device": "cpu", "gpus": 0} | given
        with sessions.begin() as session:
            workers.register(session, worker_id, **values)
            workers.heartbeat(session, worker_id, gpu_use=gpu_use)
            session.execute(
                text(
                    "UPDATE workers SET seen_at = clock_timestamp() - CAST(:ago AS interval) WHERE id = :id"
                ),
                {"ago": seen, "id": worker_id},
            )
        return worker_id

    return add


@pytest.fixture
def listed(client_of):
    """`listed("ada")`: the workers as that owner sees them, by id."""

    def ask(owner: str) -> dict[str, dict]:
        answer = client_of(owner).get("/v1/workers")
        assert answer.status_code == 200
        return {worker["id"]: worker for worker in answer.json()["items"]}

    return ask


def test_a_worker_is_shown_with_what_it_has(listed, add):
    gpus = [{"busy": 0.5, "used": 10, "total": 80}, {"busy": 0.0, "used": 0, "total": 80}]
    worker_id = add(hostname="gpu-3", device="NVIDIA H100", gpus=1, gpu_use=gpus)
    shown = listed("ada")[worker_id]
    assert shown.pop("started_at") <= shown.pop("seen_at")
    assert shown == {
        "id": worker_id,
        "hostname": "gpu-3",
        "device": "NVIDIA H100",
        "gpus": 1,
        "gpu_use": [
            {"busy": 0.5, "memory_used": 10, "memory_total": 80},
            {"busy": 0.0, "memory_used": 0, "memory_total": 80},
        ],
        "alive": True,
        "busy": False,
        "job_id": None,
    }
    without = add()
    assert listed("ada")[without]["gpu_use"] is None


def test_only_who_reported_within_a_lease_is_alive_and_who_did_long_ago_is_hidden(listed, add, settings):
    now, late = add(), add(seen=f"{settings.lease_seconds + 1} s")
    recent, old = add(seen="23 hours"), add(seen="25 hours")
    shown = listed("ada")
    assert {worker_id: worker["alive"] for worker_id, worker in shown.items()} == {
        now: True, late: False, recent: False,
    }  # fmt: skip
    assert old not in shown


def test_liveness_is_that_of_the_metrics(listed, add, client_of, settings):
    for seconds in (0, settings.lease_seconds - 5, settings.lease_seconds + 1, 3600):
        add(seen=f"{seconds} s")
    alive = sum(worker["alive"] for worker in listed("ada").values())
    assert alive == 2
    assert f'mixkd_workers{{kind="cpu",state="idle"}} {alive}.0' in client_of(None).get("/metrics").text


def test_a_job_is_named_to_its_owner_and_only_tells_others_that_the_worker_is_busy(
    api, listed, request_body, run_by_worker, sessions
):
    job_id = api.post("/v1/jobs", json=request_body).json()["id"]
    token = run_by_worker()
    [mine] = listed("ada").values()
    [others] = listed("bob").values()
    assert (mine["busy"], mine["job_id"]) == (True, job_id)
    assert (others["busy"], others["job_id"]) == (True, None)
    assert others | {"job_id": job_id} == mine
    with sessions.begin() as session:
        ends.cancelled(session, token)
    [mine] = listed("ada").values()
    assert (mine["busy"], mine["job_id"]) == (False, None)


def test_a_job_that_waits_again_is_nobodys(api, listed, request_body, run_by_worker, sessions):
    api.post("/v1/jobs", json=request_body)
    token = run_by_worker()
    with sessions.begin() as session:
        claims.enter_phase(session, token, "prepare")
        ends.hand_back(session, token, "stopping")
    [worker] = listed("ada").values()
    assert (worker["busy"], worker["job_id"]) == (False, None)


def test_of_two_jobs_at_one_worker_the_newer_is_named(api, listed, request_body, run_by_worker, sessions):
    """The lease of the older has run out, and the reconciler has not come yet."""
    _, newer = (api.post("/v1/jobs", json=request_body).json()["id"] for _ in range(2))
    run_by_worker()
    run_by_worker()
    with sessions.begin() as session:
        session.execute(text("UPDATE jobs SET worker_id = (SELECT max(id) FROM workers)"))
    assert sorted(str(worker["job_id"]) for worker in listed("ada").values()) == ["None", newer]


def test_pages_are_newest_first_and_neither_repeat_nor_skip(api, add):
    made = sorted((add() for _ in range(7)), reverse=True)
    seen, cursor = [], None
    while True:
        page = api.get("/v1/workers", params={"limit": 3} | ({"cursor": cursor} if cursor else {})).json()
        seen += [worker["id"] for worker in page["items"]]
        add()  # newer than where we are: it must not push any out of place
        cursor = page["next_cursor"]
        if cursor is None:
            break
        assert len(page["items"]) == 3
    assert seen == made


def test_the_client_and_the_command_list_them(*, api, add, base_url, monkeypatch, capsys):
    made = [add(hostname=f"box-{number}") for number in range(52)]  # the service's pages hold 50
    key = api.headers["Authorization"].removeprefix("Bearer ")
    with Client(base_url, key) as client:
        assert [worker.id for worker in client.workers.list()] == sorted(made, reverse=True)
    monkeypatch.setenv("MIXKD_URL", base_url)
    monkeypatch.setenv("MIXKD_API_KEY", key)
    monkeypatch.setenv("COLUMNS", "200")
    main(["workers"])
    shown = capsys.readouterr().out
    assert all(f"box-{number}" in shown for number in range(52))
    assert "idle" in shown


def test_a_wrong_query_is_refused_and_nobody_reads_without_a_key(api, client_of):
    for query in ("limit=0", "limit=201", "cursor=%00", "status=alive"):
        assert api.get(f"/v1/workers?{query}").status_code == 422, query
    assert client_of(None).get("/v1/workers").status_code == 401
