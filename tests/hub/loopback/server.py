"""The loopback Hub as a server in a thread, and the fixture that gives one to a test."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from uvicorn.protocols.http.h11_impl import H11Protocol

from tests.hub.loopback import reading, writing
from tests.hub.loopback.access import Refusal
from tests.hub.loopback.faults import Fault, Seen
from tests.hub.loopback.store import Blob, Repo, mode

ROOT = Path(__file__).parents[3]
_REPO, _REV, _PATH = r"(?P<repo>[^/]+/[^/]+?)", r"(?P<rev>[^/]+)", r"(?P<path>.+)"
_OID = r"(?P<oid>[0-9a-f]{64})"
_MODEL = f"/api/models/{_REPO}"
ROUTES: tuple[tuple[str, str, Callable[..., Any]], ...] = (
    ("GET", "/api/agent-harnesses", reading.harnesses),
    ("GET", "/api/whoami-v2", reading.whoami),
    ("POST", "/api/validate-yaml", writing.validate_yaml),
    ("POST", "/api/repos/create", writing.create),
    ("DELETE", "/api/repos/delete", writing.delete),
    ("GET", "/api/models", reading.search),
    ("GET", _MODEL, reading.info),
    ("GET", f"{_MODEL}/revision/{_REV}", reading.info),
    ("GET", f"{_MODEL}/tree/{_REV}(?:/{_PATH})?", reading.tree),
    ("POST", f"{_MODEL}/paths-info/{_REV}", reading.paths_info),
    ("GET", f"{_MODEL}/refs", reading.refs),
    ("GET", f"{_MODEL}/commits/{_REV}", reading.commits),
    ("GET", f"{_MODEL}/auth-check(?:/write)?", writing.auth_check),
    ("GET", f"{_MODEL}/xet-(?:read|write)-token/{_REV}", reading.xet_token),
    ("POST", f"{_MODEL}/preupload/{_REV}", writing.preupload),
    ("POST", f"{_MODEL}/commit/{_REV}", writing.commit),
    ("POST", f"{_MODEL}/branch/{_REV}", writing.branch),
    ("POST", f"{_MODEL}/tag/{_REV}", writing.tag),
    ("POST", f"{_MODEL}/discussions", writing.discuss),
    ("POST", rf"{_MODEL}/discussions/(?P<number>\d+)/merge", writing.merge),
    ("PUT", f"{_MODEL}/settings", writing.settings),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", writing.batch),
    ("POST", rf"/{_REPO}\.git/info/lfs/verify", writing.verify),
    ("PUT", f"/lfs/{_OID}", writing.put),
    ("PUT", rf"/lfs/{_OID}/(?P<number>\d+)", writing.put_part),
    ("POST", f"/lfs/{_OID}/complete", writing.complete),
    ("GET", f"/cdn/{_OID}", reading.cdn),
    ("GET", f"/{_REPO}/resolve/{_REV}/{_PATH}", reading.resolve),
)


class Cuttable(H11Protocol):
    """A connection that the application can break."""

    transports: dict[tuple[str, int], Any] = {}  # noqa: RUF012 - of all connections, by the other end

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.transports[tuple(transport.get_extra_info("peername")[:2])] = transport


class LoopbackHub:
    """See `tests/hub/loopback/__init__.py`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.renamed: dict[str, str] = {}
        self.tokens = {"hf_" + "alice" * 7: "alice", "hf_" + "bobby" * 7: "bob"}
        self.token = next(iter(self.tokens))
        self.requests: list[Seen] = []
        self.faults: list[Fault] = []
        self.errors: list[Exception] = []
        self.part_size: int | None = None
        self.page_size = 1000
        self.elsewhere = True
        self.cas: str | None = None
        self.xet: dict[str, str] = {}
        config = uvicorn.Config(
            self._answer, "127.0.0.1", 0, http=Cuttable, interface="asgi3", lifespan="off", log_level="critical"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> LoopbackHub:
        self._thread.start()
        until = time.monotonic() + 20
        while not self._server.started:
            assert time.monotonic() < until, "the loopback Hub does not start"
            time.sleep(0.005)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.endpoint, self.cdn = f"http://127.0.0.1:{port}", f"http://localhost:{port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(20)

    def add(self, id_: str, files: Mapping[str, bytes], *, private: bool = False, gated: bool = False) -> Repo:
        """A repository with these files on main, or these beside what it has."""
        if id_ not in self.repos:
            self.repos[id_] = repo = Repo(id_, private, gated)
            writing.initial(repo)
        repo = self.repos[id_]
        blobs = {name: Blob(data, mode(name, len(data))) for name, data in files.items()}
        self.objects |= {blob.sha256: blob.data for blob in blobs.values()}
        if blobs:
            repo.commit("main", "files", {**repo.commits[repo.refs["main"]].files, **blobs})
        return repo

    def repo(self, id_: str) -> Repo:
        return self.repos[id_]

    def head(self, id_: str, revision: str = "main") -> str:
        return self.repos[id_].refs[revision]

    def files(self, id_: str, revision: str = "main") -> dict[str, bytes]:
        """Without .gitattributes, which every repository has."""
        found = self.repos[id_].at(revision)
        assert found is not None
        return {name: blob.data for name, blob in found.files.items() if name != ".gitattributes"}

    def rename(self, old: str, new: str) -> None:
        self.repos[new] = self.repos.pop(old)
        self.repos[new].id = new
        self.renamed[old] = new

    def fail(self, *faults: Fault) -> None:
        self.faults += faults

    def mend(self) -> None:
        self.faults.clear()

    @property
    def environment(self) -> dict[str, str]:
        """Of a process that knows this Hub and no other, as alice."""
        kept = {name: value for name, value in os.environ.items()
                if not name.upper().startswith(("HF_", "HUGGING")) and not name.lower().endswith("_proxy")}  # fmt: skip
        return kept | {
            "HF_HOME": str(self.home), "HF_ENDPOINT": self.endpoint, "HF_TOKEN": self.token, "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        }  # fmt: skip

    def run(self, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """Python with these arguments, in the environment."""
        command = [sys.executable, *map(str, arguments)]
        told = self.environment | environment
        return subprocess.run(command, capture_output=True, text=True, env=told, cwd=ROOT, timeout=300)

    def api(self, token: str | None = "") -> Any:
        """The real client as alice, as who has the token, or (None) as nobody."""
        from huggingface_hub import HfApi

        return HfApi(endpoint=self.endpoint, token=(self.token if token == "" else token) or False)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        method, path = request.method, scope["raw_path"].decode()
        body = await request.body()
        fault = next((fault for fault in self.faults if fault.meets(method, path)), None) or Fault()
        await asyncio.sleep(fault.stall)
        response = None
        if fault.cut != "before":
            response = _refused(fault) if fault.status else await self._dispatched(request, method, path)
        status = response.status_code if response and fault.cut is None else None
        query = scope["query_string"].decode()
        self.requests.append(Seen(method, path, query, dict(request.headers), status, len(body)))
        if response is not None:
            await self._sent(response, fault, scope, receive, send)
        if fault.cut:
            Cuttable.transports[tuple(scope["client"])].abort()

    async def _sent(self, response: Response, fault: Fault, scope: Any, receive: Any, send: Any) -> None:
        if fault.cut is None:
            await response(scope, receive, send)
        elif fault.cut == "within":
            await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
            half = bytes(response.body)[: len(response.body) // 2]
            await send({"type": "http.response.body", "body": half, "more_body": True})
            await asyncio.sleep(0.005)

    async def _dispatched(self, request: Request, method: str, path: str) -> Response:
        for old, new in self.renamed.items():
            if f"/{old}" in path:
                query = f"?{request.url.query}" if request.url.query else ""
                return RedirectResponse(path.replace(f"/{old}", f"/{new}", 1) + query, 307)
        for verb, pattern, answer in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and method in (verb, "HEAD" if verb == "GET" else verb):
                given = {name: value for name, value in found.groupdict().items() if value is not None}
                try:
                    response: Response = await answer(self, request, **given)
                except Refusal as refusal:
                    return refusal.response()
                except Exception as error:
                    self.errors.append(error)
                    raise
                return response
        return JSONResponse({"error": f"the loopback Hub knows no {method} {path}"}, 404)


def _refused(fault: Fault) -> Response:
    told = {"X-Error-Code": fault.code, "X-Error-Message": fault.message}
    headers = {name: value for name, value in told.items() if value} | fault.headers
    return JSONResponse({"error": fault.message or "a fault"}, fault.status or 500, headers)


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """A Hub of this test's own, which huggingface_hub in this process knows as the only one."""
    home = tmp_path_factory.mktemp("hf")
    with LoopbackHub(home) as made:
        settle(monkeypatch, made)
        yield made
        assert made.errors == []


def settle(patch: pytest.MonkeyPatch, made: LoopbackHub) -> None:
    """Sets the environment, and what huggingface_hub made of it when it was imported. Retries do not wait."""
    from huggingface_hub import constants, file_download, hf_api
    from huggingface_hub.utils import _http, close_session

    for name in os.environ:
        if name not in made.environment:
            patch.delenv(name)
    for name, value in made.environment.items():
        patch.setenv(name, value)
    cache = str(made.home / "hub")
    for name, value in {
        "ENDPOINT": made.endpoint, "HF_HOME": str(made.home), "HF_HUB_CACHE": cache, "HUGGINGFACE_HUB_CACHE": cache,
        "HF_TOKEN_PATH": str(made.home / "token"), "HF_STORED_TOKENS_PATH": str(made.home / "stored_tokens"),
        "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True, "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_DISABLE_PROGRESS_BARS": True, "HF_XET_CACHE": str(made.home / "xet"),
        "HUGGINGFACE_CO_URL_TEMPLATE": made.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
    }.items():  # fmt: skip
        patch.setattr(constants, name, value, raising=False)
    patch.setattr(hf_api.api, "endpoint", made.endpoint)  # that of huggingface_hub's functions, as diffusers calls them
    for module in (_http, file_download):
        patch.setattr(module, "time", SimpleNamespace(**vars(time) | {"sleep": lambda seconds: None}))
    close_session()
