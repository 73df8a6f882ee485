"""What is asked of the loopback Hub: who, what there is, and the bytes of it."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response

from tests.hub.loopback.access import Refusal, readable, revision, who
from tests.hub.loopback.store import LFS, Blob, Commit, Repo, derived_tags

if TYPE_CHECKING:
    from tests.hub.loopback.server import LoopbackHub

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


async def harnesses(hub: LoopbackHub, request: Request) -> Response:
    return JSONResponse({})


async def whoami(hub: LoopbackHub, request: Request) -> Response:
    user = who(request, hub.tokens)
    if user is None:
        raise Refusal(401, "Invalid username or password.")
    return JSONResponse({"type": "user", "id": user, "name": user, "fullname": user, "orgs": [], "isPro": False,
                         "auth": {"type": "access_token", "accessToken": {"role": "write", "displayName": "tests"}}})  # fmt: skip


async def search(hub: LoopbackHub, request: Request) -> Response:
    """By words in the id, the author and tags; in pages of `limit`."""
    asked, user = parse_qs(request.url.query), who(request, hub.tokens)
    rows = [repo for repo in hub.repos.values() if (not repo.private or repo.owner == user) and _found(repo, asked)]
    rows.sort(key=lambda repo: (-repo.downloads, repo.id))
    size, start = int(asked.get("limit", ["1000"])[0]), int(asked.get("cursor", ["0"])[0])
    answer = JSONResponse(
        [_described(repo, revision(repo, "main"), blobs=False) for repo in rows[start : start + size]]
    )
    if start + size < len(rows):
        query = "&".join(f"{key}={value}" for key, values in asked.items() for value in values if key != "cursor")
        answer.headers["Link"] = f'<{hub.endpoint}/api/models?{query}&cursor={start + size}>; rel="next"'
    return answer


def _found(repo: Repo, asked: dict[str, list[str]]) -> bool:
    wanted = [tag for value in asked.get("filter", []) for tag in value.split(",")]
    return (
        all(word.lower() in repo.id.lower() for word in asked.get("search", []))
        and all(repo.owner == author for author in asked.get("author", []))
        and set(wanted) <= {*derived_tags(repo.card)}
    )


async def info(hub: LoopbackHub, request: Request, repo: str, rev: str = "main") -> Response:
    found = readable(hub.repos.get(repo), who(request, hub.tokens), content=False)
    blobs = request.query_params.get("blobs", "").lower() in ("true", "1")
    return JSONResponse(_described(found, revision(found, rev), blobs=blobs))


def _described(repo: Repo, commit: Commit, *, blobs: bool) -> dict[str, Any]:
    card = repo.card
    told = {key: card[key] for key in ("pipeline_tag", "library_name") if key in card}
    return {"_id": repo.id, "id": repo.id, "modelId": repo.id, "author": repo.owner, "sha": commit.oid, "private": repo.private,
            "gated": "manual" if repo.gated else False, "disabled": False, "downloads": repo.downloads, "likes": repo.likes,
            "lastModified": "2026-01-02T03:04:05.000Z", "createdAt": "2026-01-01T00:00:00.000Z", "tags": derived_tags(card),
            **told, "cardData": card, "siblings": [_sibling(name, blob, blobs) for name, blob in commit.files.items()]}  # fmt: skip


def _sibling(name: str, blob: Blob, blobs: bool) -> dict[str, Any]:
    sized = {"size": len(blob.data), "blobId": blob.git, **({"lfs": blob.lfs} if blob.lfs else {})}
    return {"rfilename": name, **(sized if blobs else {})}


async def tree(hub: LoopbackHub, request: Request, repo: str, rev: str, path: str = "") -> Response:
    """In pages of `hub.page_size`."""
    found = readable(hub.repos.get(repo), who(request, hub.tokens))
    folder, recursive = unquote(path).strip("/"), request.query_params.get("recursive", "").lower() in ("true", "1")
    rows = _rows(revision(found, rev), folder, recursive)
    if folder and not rows:
        raise Refusal(404, f"{folder} does not exist on {rev}", "EntryNotFound")
    start = int(request.query_params.get("cursor", "0"))
    answer = JSONResponse(rows[start : start + hub.page_size])
    if start + hub.page_size < len(rows):
        address = f"{hub.endpoint}/api/models/{repo}/tree/{rev}{'/' + path if path else ''}"
        answer.headers["Link"] = f'<{address}?recursive={recursive}&cursor={start + hub.page_size}>; rel="next"'
    return answer


def _rows(commit: Commit, folder: str, recursive: bool) -> list[dict[str, Any]]:
    start = f"{folder}/" if folder else ""
    files = {name: blob for name, blob in commit.files.items() if name.startswith(start)}
    parents = {"/".join(name.split("/")[:depth]) for name in files for depth in range(1, name.count("/") + 1)}
    shown = {parent for parent in parents if parent.startswith(start)}
    if not recursive:
        files = {name: blob for name, blob in files.items() if "/" not in name[len(start) :]}
        shown = {parent for parent in shown if "/" not in parent[len(start) :]}
    folders = [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(shown)]
    return folders + [_row(name, blob) for name, blob in files.items()]


def _row(name: str, blob: Blob) -> dict[str, Any]:
    lfs = {"lfs": blob.lfs} if blob.lfs else {}
    return {"type": "file", "path": name, "oid": blob.git, "size": len(blob.data), **lfs}


async def paths_info(hub: LoopbackHub, request: Request, repo: str, rev: str) -> Response:
    commit = revision(readable(hub.repos.get(repo), who(request, hub.tokens)), rev)
    names = parse_qs((await request.body()).decode()).get("paths", [])
    return JSONResponse([_row(name, commit.files[name]) for name in names if name in commit.files])


async def refs(hub: LoopbackHub, request: Request, repo: str) -> Response:
    found = readable(hub.repos.get(repo), who(request, hub.tokens))
    pulls = [name for name in found.refs if name.startswith("refs/pr/")]
    heads = [name for name in found.refs if name not in pulls and name not in found.tags]

    def told(names: list[str], start: str = "") -> list[dict[str, str]]:
        return [{"name": name, "ref": f"{start}{name}", "targetCommit": found.refs[name]} for name in names]

    answer = {"branches": told(heads, "refs/heads/"), "converts": [], "tags": told(sorted(found.tags), "refs/tags/")}
    return JSONResponse(answer | ({"pullRequests": told(pulls)} if "include_prs" in request.query_params else {}))


async def commits(hub: LoopbackHub, request: Request, repo: str, rev: str) -> Response:
    found = readable(hub.repos.get(repo), who(request, hub.tokens))
    rows, at = [], revision(found, rev)
    while True:
        rows.append({"id": at.oid, "title": at.title, "message": "", "authors": [{"user": found.owner}],
                     "date": "2026-01-02T03:04:05.000Z"})  # fmt: skip
        if at.parent is None:
            return JSONResponse(rows)
        at = found.commits[at.parent]


async def resolve(hub: LoopbackHub, request: Request, repo: str, rev: str, path: str) -> Response:
    """A file: LFS files are sent for to another origin if `hub.elsewhere`, as the Hub sends for them to its CDN."""
    found = readable(hub.repos.get(repo), who(request, hub.tokens))
    commit, name = revision(found, rev), unquote(path)
    if name not in commit.files:
        raise Refusal(404, "Entry not found", "EntryNotFound")
    blob = commit.files[name]
    told = {"X-Repo-Commit": commit.oid, "ETag": f'"{blob.oid}"', "Accept-Ranges": "bytes"}
    if blob.sha256 in hub.xet:
        route = f"{hub.endpoint}/api/models/{repo}/xet-read-token/{rev}"
        told |= {"X-Xet-Hash": hub.xet[blob.sha256], "X-Xet-Refresh-Route": route}
    if blob.mode == LFS and hub.elsewhere:
        linked = {"X-Linked-Etag": f'"{blob.oid}"', "X-Linked-Size": str(len(blob.data))}
        return RedirectResponse(f"{hub.cdn}/cdn/{blob.sha256}?Signature=secret", 302, {**told, **linked})
    return _bytes(request, blob.data, told)


async def xet_token(hub: LoopbackHub, request: Request, repo: str, rev: str) -> Response:
    """Where the chunks of Xet are, in both ways that clients read it."""
    readable(hub.repos.get(repo), who(request, hub.tokens))
    if hub.cas is None:
        raise Refusal(404, "no Xet here")
    ends = int(time.time()) + 3600
    headers = {"X-Xet-Cas-Url": hub.cas, "X-Xet-Access-Token": "xet", "X-Xet-Token-Expiration": str(ends)}
    return JSONResponse({"casUrl": hub.cas, "accessToken": "xet", "exp": ends}, 200, headers)


async def cdn(hub: LoopbackHub, request: Request, oid: str) -> Response:
    """Nobody is asked who they are, and nobody should say it."""
    return _bytes(request, hub.objects[oid], {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"})


def _bytes(request: Request, data: bytes, headers: dict[str, str]) -> Response:
    found = _RANGE.fullmatch(request.headers.get("range", ""))
    if not found or not any(found.groups()):
        return Response(data, 200, headers, "application/octet-stream")
    first, last = found.groups()
    start = int(first) if first else max(len(data) - int(last), 0)
    end = min(int(last), len(data) - 1) if first and last else len(data) - 1
    if start >= len(data):
        return PlainTextResponse("", 416, headers | {"Content-Range": f"bytes */{len(data)}"})
    told = {"Content-Range": f"bytes {start}-{end}/{len(data)}"}
    return Response(data[start : end + 1], 206, headers | told, "application/octet-stream")
