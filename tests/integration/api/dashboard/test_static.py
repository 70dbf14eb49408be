"""The dashboard's own files, and the API's documentation out of them."""

import re

import httpx
import pytest

from api.dashboard import render
from tests.support.pages import is_local, read

FILES = sorted(path.relative_to(render.STATIC).as_posix() for path in render.STATIC.rglob("*.*"))
TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


@pytest.fixture
def client(base_url):
    """Whoever asks for a file need not have signed in, for the form to sign in needs them."""
    with httpx.Client(base_url=base_url) as client:
        yield client


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_kept_for_ever_under_the_address_that_names_its_content(client, name):
    answer = client.get(render.static(name))
    assert (answer.status_code, answer.content) == (200, (render.STATIC / name).read_bytes())
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert answer.headers["Content-Type"].startswith(TYPES[name.rpartition(".")[2]])
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert client.get(f"/static/{name}").headers["Cache-Control"] == "no-cache"


def test_it_is_sent_compressed_to_whoever_reads_that(client):
    name = render.static("vendor/htmx.js")
    packed = client.get(name, headers={"Accept-Encoding": "gzip"})
    plain = client.get(name, headers={"Accept-Encoding": "identity"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in plain.headers
    assert "Accept-Encoding" in packed.headers["Vary"]
    assert int(packed.headers["Content-Length"]) < len(plain.content) / 2
    assert packed.content == plain.content


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_what_one_has_is_not_sent_again(client, encoding):
    headers = {"Accept-Encoding": encoding}
    etag = client.get("/static/dashboard.css", headers=headers).headers["ETag"]
    again = client.get("/static/dashboard.css", headers={**headers, "If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b"")
    other = client.get("/static/dashboard.css", headers={**headers, "If-None-Match": '"other"'})
    assert other.status_code == 200


def test_a_part_of_a_file_is_never_kept_as_the_whole(client):
    headers = {"Range": "bytes=0-9", "Accept-Encoding": "identity"}
    answer = client.get(render.static("dashboard.css"), headers=headers)
    assert (answer.status_code, len(answer.content)) == (206, 10)
    assert "immutable" not in answer.headers["Cache-Control"]


@pytest.mark.parametrize(
    "path",
    [
        "../render.py",
        "%2e%2e/render.py",
        "..%2frender.py",
        "vendor/../../render.py",
        "vendor/%2e%2e/%2e%2e/render.py",
        "%2e%2e%5crender.py",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "vendor",
        "vendor/",
        "",
        "nothing.js",
        "icon.svg%00",
        "a" * 5000,
    ],
)
def test_no_other_file_is_served(base_url, client, path):
    """Sent as written: a client that is polite makes `/static/../x` into `/x` by itself."""
    url = httpx.URL(base_url).copy_with(raw_path=f"/static/{path}".encode())
    answer = client.request("GET", url)
    assert answer.status_code == 404
    assert (b"jinja" in answer.content, b"root:" in answer.content) == (False, False)


def test_nobody_writes_a_file(client, base_url):
    for method in ("PUT", "POST", "DELETE", "PATCH"):
        answer = client.request(method, "/static/icon.svg", headers={"Origin": base_url})
        assert answer.status_code == 405


def test_no_file_of_ours_asks_another_host():
    """What comes with them is a comment, a licence or a name, but never an address that is loaded."""
    loads = re.compile(r"""(?:@import|url\()\s*["']?([^"')\s]+)""")
    for name in FILES:
        text = (render.STATIC / name).read_text(encoding="utf-8")
        for address in loads.findall(text) if name.endswith("css") else []:
            assert address.startswith("data:") or is_local(address), (name, address)
        assert "sourceMappingURL=http" not in text
    assert set(TYPES) >= {name.rpartition(".")[2] for name in FILES}


def test_the_apis_documentation_loads_nothing_from_another_host(client):
    answer = client.get("/docs")
    assert answer.status_code == 200
    page = read(answer.text)
    loaded = [one["src"] or one["href"] for one in page.find("script") + page.find("link")]
    loaded = [address for address in loaded if address]
    assert len(loaded) == 3
    for address in loaded:
        assert is_local(address)
        assert client.get(address).status_code == 200
    assert re.search(r"""url\(|src=["']?http|//cdn|fastapi\.tiangolo""", answer.text) is None
    assert "url: '/openapi.json'" in answer.text
