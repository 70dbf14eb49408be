"""A model hub of one's own: a small HTTP server in a thread that speaks what huggingface_hub asks for."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass
class Hub:
    """Repositories by name, each a folder; what was asked for is kept in `requests`."""

    folders: dict[str, Path] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    broken: bool = False
    promised_sha256: str | None = None  # instead of the true one
    url: str = ""

    @staticmethod
    def commit(repository: str) -> str:
        """The commit that `main` of a repository stands for."""
        return hashlib.sha1(repository.encode()).hexdigest()


@contextmanager
def running() -> Iterator[Hub]:
    """A hub on a free port."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

        def answer(self, with_body: bool) -> None:
            path = unquote(urlsplit(self.path).path).strip("/")
            hub.requests.append(path)
            hub.tokens.add(self.headers.get("Authorization"))
            if hub.broken:
                self.send(503, b"", {}, with_body)
                return
            parts = path.split("/")
            if parts[0] == "api":  # api/models/ORG/NAME/(revision|tree)/REVISION
                repository, what, revision = "/".join(parts[2:4]), parts[4], "/".join(parts[5:])
            else:  # ORG/NAME/resolve/REVISION/FILE
                repository, what, revision = "/".join(parts[:2]), parts[2], parts[3]
            problem = self.problem(repository, revision)
            if problem:
                self.send(problem[0], b"{}", {"X-Error-Code": problem[1]}, with_body)
                return
            folder = hub.folders[repository]
            files = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
            commit = hub.commit(repository)
            if what == "resolve":
                self.send_file(files.get("/".join(parts[4:])), commit, with_body)
            elif what == "tree":
                tree = [
                    {"type": "file", "path": n, "size": p.stat().st_size, "oid": self.etag(p)}
                    for n, p in files.items()
                ]
                self.send(200, json.dumps(tree).encode(), {}, with_body)
            else:
                siblings = [
                    {"rfilename": n, "size": p.stat().st_size} | self.large(p) for n, p in files.items()
                ]
                info = {"id": repository, "sha": commit, "siblings": siblings}
                self.send(200, json.dumps(info).encode(), {}, with_body)

        def problem(self, repository: str, revision: str) -> tuple[int, str] | None:
            if repository in hub.gated and self.headers.get("Authorization") != "Bearer hf_accepted":
                return 403, "GatedRepo"
            if repository not in hub.folders:
                return 404, "RepoNotFound"
            return None if revision in {"main", hub.commit(repository)} else (404, "RevisionNotFound")

        def send_file(self, path: Path | None, commit: str, with_body: bool) -> None:
            if path is None:
                self.send(404, b"", {"X-Error-Code": "EntryNotFound"}, with_body)
            else:
                headers = {"ETag": f'"{self.etag(path)}"', "X-Repo-Commit": commit}
                self.send(200, path.read_bytes(), headers, with_body)

        @staticmethod
        def large(path: Path) -> dict[str, object]:
            if path.suffix != ".safetensors":
                return {}
            promised = hub.promised_sha256 or hashlib.sha256(path.read_bytes()).hexdigest()
            return {"lfs": {"sha256": promised, "size": path.stat().st_size, "pointerSize": 130}}

        @staticmethod
        def etag(path: Path) -> str:
            content = path.read_bytes()
            return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # git's own

        def send(self, status: int, body: bytes, headers: dict[str, str], with_body: bool) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
