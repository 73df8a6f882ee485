"""A loopback server that answers what pulling asks: model info, files with ranges and ETags, redirects, gates and faults."""

import hashlib
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """`repos` {id: {file: bytes}}; `answers` {path: (status, headers, body)} go before; `moved` {old id: new id}."""

    repos: dict = field(default_factory=dict)
    answers: dict = field(default_factory=dict)
    moved: dict = field(default_factory=dict)
    seen: list = field(default_factory=list)
    ranges: bool = True
    cut: int | None = None
    cuts: list = field(default_factory=list)
    """After how many bytes the next answers break off."""
    etag: str | None = '"{}"'
    url: str = ""

    def paths(self):
        return [path for path, _ in self.seen]


def info(hub, repo):
    siblings = [
        {"rfilename": name, "size": len(data), "blobId": hashlib.sha1(data).hexdigest()}
        | ({"lfs": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}}
           if name.endswith((".safetensors", ".bin", ".pt")) else {})
        for name, data in hub.repos[repo].items()
    ]  # fmt: skip
    return {
        "id": repo,
        "modelId": repo,
        "sha": COMMIT,
        "private": False,
        "siblings": siblings,
        "tags": [],
        "downloads": 0,
    }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        """Quiet."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        hub = self.server.hub
        path = unquote(urlsplit(self.path).path)
        hub.seen.append((self.path, dict(self.headers)))
        if path in hub.answers:
            answer = hub.answers[path]
            status, headers, body = answer.pop(0) if isinstance(answer, list) else answer
            return self._send(status, headers, body)
        for old, new in hub.moved.items():
            if f"/{old}" in path:
                return self._send(307, {"Location": self.path.replace(old, new)}, b"")
        if path.startswith("/api/models/"):
            repo = "/".join(path.split("/")[3:5])
            if repo in hub.repos:
                if "/revision/" in path and path.rsplit("/", 1)[1] not in ("main", COMMIT):
                    return self._send(404, {"X-Error-Code": "RevisionNotFound"}, b"")
                return self._send(200, {"Content-Type": "application/json"}, json.dumps(info(hub, repo)).encode())
        if "/resolve/" in path:
            repo, _, rest = path[1:].partition("/resolve/")
            name = rest.partition("/")[2]
            data = hub.repos.get(repo, {}).get(name)
            if data is not None:
                return self._file(data, {"X-Repo-Commit": COMMIT})
            return self._send(404, {"X-Error-Code": "EntryNotFound"}, b"")
        if path in hub.repos.get("plain", {}):
            return self._file(hub.repos["plain"][path], {})
        return self._send(404, {"X-Error-Code": "RepoNotFound"}, b"")

    def _file(self, data, headers):
        hub = self.server.hub
        told = {"ETag": hub.etag.format(hashlib.sha256(data).hexdigest())} if hub.etag else {}
        headers = told | {"Accept-Ranges": "bytes"} | headers
        stale = self.headers.get("If-Range", headers.get("ETag")) != headers.get("ETag")
        asked = None if stale else self.headers.get("Range")
        if asked and not data:
            return self._send(416, {"Content-Range": "bytes */0"}, b"")
        if asked and self.server.hub.ranges:
            first, last = asked.removeprefix("bytes=").split("-")
            last = min(int(last or len(data) - 1), len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            return self._send(206, headers, data[int(first) : last + 1])
        return self._send(200, headers, data)

    def _send(self, status, headers, body):
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name, text)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        hub = self.server.hub
        cut = hub.cuts.pop(0) if hub.cuts else hub.cut
        self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.close_connection = True


@contextmanager
def serving(hub):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.hub = hub
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
