"""Many requests at the same moment: more than there are threads, and far more than connections."""

from concurrent.futures import ThreadPoolExecutor

import httpx

MANY = 150


def test_a_burst_of_requests_waits_its_turn_and_every_one_is_answered(api, base_url):
    """Who holds a connection needs a thread to go on; who has a thread must not keep it to wait for one."""
    limits = httpx.Limits(max_connections=MANY)
    with httpx.Client(base_url=base_url, headers=api.headers, limits=limits, timeout=20) as client:

        def ask(number: int) -> int:
            return client.get(("/v1/jobs", "/v1/workers", "/v1/models")[number % 3]).status_code

        with ThreadPoolExecutor(MANY) as pool:
            answers = list(pool.map(ask, range(MANY)))
    assert answers == [200] * MANY


def test_open_streams_leave_room_for_everything_else(api, base_url, request_body):
    """Each was asked for as a request is, with a session; while it is silent it must hold none of it."""
    job_id = api.post("/v1/jobs", json=request_body).json()["id"]
    limits = httpx.Limits(max_connections=80)
    with httpx.Client(base_url=base_url, headers=api.headers, limits=limits, timeout=20) as client:
        streams = [client.stream("GET", f"/v1/jobs/{job_id}/events/stream") for _ in range(60)]
        with ThreadPoolExecutor(60) as pool:
            opened = list(pool.map(lambda stream: stream.__enter__(), streams))
        assert [each.status_code for each in opened] == [200] * 60
        assert client.get("/v1/jobs").status_code == 200
        for stream in streams:
            stream.__exit__(None, None, None)
