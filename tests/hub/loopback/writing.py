"""What is done to the loopback Hub: repositories made, files uploaded, commits, branches and pull requests."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.hub.loopback.access import Refusal, readable, revision, who, writable
from tests.hub.loopback.store import LFS, REGULAR, Blob, Commit, Repo, edited, front_matter, lines_of, mode

if TYPE_CHECKING:
    from tests.hub.loopback.server import LoopbackHub


async def create(hub: LoopbackHub, request: Request) -> Response:
    told, user = await request.json(), who(request, hub.tokens)
    if user is None:
        raise Refusal(401, "Invalid username or password.")
    id_ = f"{told.get('organization') or user}/{told['name']}"
    if id_.partition("/")[0] != user:
        raise Refusal(403, f"You don't have the rights to create a model under the namespace {id_.partition('/')[0]}")
    if id_ in hub.repos:
        raise Refusal(409, "You already created this model repo", body={"url": f"{hub.endpoint}/{id_}"})
    hub.add(id_, {}, private=told.get("visibility") == "private" or bool(told.get("private")))
    return JSONResponse({"url": f"{hub.endpoint}/{id_}", "name": id_, "id": id_})


async def delete(hub: LoopbackHub, request: Request) -> Response:
    told, user = await request.json(), who(request, hub.tokens)
    id_ = f"{told.get('organization') or user}/{told['name']}"
    del hub.repos[writable(hub.repos.get(id_), user).id]
    return JSONResponse({})


async def validate_yaml(hub: LoopbackHub, request: Request) -> Response:
    """The rules that cards break most."""
    text = (await request.json())["content"]
    try:
        errors = _faults(front_matter(text))
    except ValueError as error:
        errors = [str(error)]
    return JSONResponse({"errors": [{"message": text} for text in errors], "warnings": []}, 400 if errors else 200)


def _faults(card: dict[str, Any]) -> list[str]:
    bases = card.get("base_model", [])
    rules = {
        '"license" must be a string': isinstance(card.get("license", ""), str),
        '"tags" must be an array of strings': all(isinstance(tag, str) for tag in card.get("tags", [])),
        '"base_model" is not valid. Use a model id from https://hf.co/models.': all(
            isinstance(base, str) and base.count("/") <= 1 and " " not in base and not base.startswith(("/", "."))
            for base in ([bases] if isinstance(bases, str) else bases)
        ),
        '"base_model_relation" must be one of [adapter, merge, quantized, finetune]':
            card.get("base_model_relation", "adapter") in ("adapter", "merge", "quantized", "finetune"),
        '"license_name" goes with "license: other"': "license_name" not in card or card.get("license") == "other",
        '"widget" must be an array': isinstance(card.get("widget", []), list),
    }  # fmt: skip
    return [rule for rule, kept in rules.items() if not kept]


async def preupload(hub: LoopbackHub, request: Request, repo: str, rev: str) -> Response:
    """How each file is to be sent, and what is there under its name."""
    proposing = "create_pr" in request.query_params
    found = writable(hub.repos.get(repo), who(request, hub.tokens), proposing=proposing)
    there = revision(found, rev).files
    rows = []
    for file in (await request.json())["files"]:
        name, old = file["path"], there.get(file["path"])
        rows.append({"path": name, "uploadMode": mode(name, file["size"]), "shouldIgnore": False,
                     **({"oid": old.oid} if old else {})})  # fmt: skip
    return JSONResponse({"files": rows, "commitOid": revision(found, rev).oid})


async def batch(hub: LoopbackHub, request: Request, repo: str) -> Response:
    """Of each object where it is to be put; nothing of those that are known."""
    writable(hub.repos.get(repo), who(request, hub.tokens), proposing=True)
    told = await request.json()
    objects = [_object(hub, repo, one["oid"], one["size"], "multipart" in told["transfers"]) for one in told["objects"]]
    return JSONResponse({"transfer": "basic", "objects": objects})


def _object(hub: LoopbackHub, repo: str, oid: str, size: int, several: bool) -> dict[str, Any]:
    if oid in hub.objects:
        return {"oid": oid, "size": size}
    verify = {"href": f"{hub.endpoint}/{repo}.git/info/lfs/verify"}
    if not several or hub.part_size is None or size <= hub.part_size:
        return {"oid": oid, "size": size, "actions": {"upload": {"href": f"{hub.cdn}/lfs/{oid}"}, "verify": verify}}
    count = -(-size // hub.part_size)
    parts = {str(number): f"{hub.cdn}/lfs/{oid}/{number}" for number in range(1, count + 1)}
    header = {"chunk_size": str(hub.part_size), **parts}
    upload = {"href": f"{hub.endpoint}/lfs/{oid}/complete", "header": header}
    return {"oid": oid, "size": size, "actions": {"upload": upload, "verify": verify}}


async def put(hub: LoopbackHub, request: Request, oid: str) -> Response:
    return _kept(hub, oid, await request.body())


async def put_part(hub: LoopbackHub, request: Request, oid: str, number: str) -> Response:
    data = await request.body()
    hub.parts[oid, int(number)] = data
    return Response(status_code=200, headers={"ETag": f'"{hashlib.md5(data).hexdigest()}"'})


async def complete(hub: LoopbackHub, request: Request, oid: str) -> Response:
    told = await request.json()
    data = b""
    for part in told["parts"]:
        piece = hub.parts[oid, part["partNumber"]]
        if part["etag"] != f'"{hashlib.md5(piece).hexdigest()}"':
            raise Refusal(400, "a part is not what came")
        data += piece
    return _kept(hub, oid, data)


def _kept(hub: LoopbackHub, oid: str, data: bytes) -> Response:
    if hashlib.sha256(data).hexdigest() != oid:
        raise Refusal(400, "the bytes are not those of the digest")
    hub.objects[oid] = data
    return Response(status_code=200)


async def verify(hub: LoopbackHub, request: Request, repo: str) -> Response:
    told = await request.json()
    if len(hub.objects.get(told["oid"], b"")) != told["size"]:
        raise Refusal(404, "no such object of that size")
    return JSONResponse({})


async def commit(hub: LoopbackHub, request: Request, repo: str, rev: str) -> Response:
    """All of it, or nothing."""
    ref, proposing = unquote(rev), "create_pr" in request.query_params
    found = writable(hub.repos.get(repo), who(request, hub.tokens), proposing=proposing)
    lines = lines_of(await request.body())
    header: Any = next(line["value"] for line in lines if line["key"] == "header")
    base = revision(found, rev)
    if not proposing and ref not in found.refs:
        raise Refusal(404, f"Invalid rev id: {rev}", "RevisionNotFound")
    if header.get("parentCommit") not in (None, base.oid):
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    files = _after(hub, base, lines)
    target = found.pull_request(ref) if proposing else ref
    made = found.commit(target, header["summary"], files)
    told = {
        "success": True,
        "commitOid": made.oid,
        "commitUrl": f"{hub.endpoint}/{repo}/commit/{made.oid}",
        "hookOutput": "",
    }
    number = target.rpartition("/")[2]
    return JSONResponse(told | ({"pullRequestUrl": f"{hub.endpoint}/{repo}/discussions/{number}"} if proposing else {}))


def _after(hub: LoopbackHub, base: Commit, lines: list[dict[str, Any]]) -> dict[str, Blob]:
    changes = [_change(hub, line["key"], line["value"]) for line in lines if line["key"] != "header"]
    try:
        return edited(base.files, changes)
    except KeyError:
        raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound") from None


def _change(hub: LoopbackHub, key: str, value: dict[str, Any]) -> tuple[str, str, Blob | None]:
    if key == "file":
        return "add", value["path"], Blob(base64.b64decode(value["content"]), REGULAR)
    if key == "lfsFile":
        if value["oid"] not in hub.objects:
            raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {value['path']}")
        return "add", value["path"], Blob(hub.objects[value["oid"]], LFS)
    return {"deletedFile": "delete", "deletedFolder": "delete-folder"}[key], value["path"], None


async def branch(hub: LoopbackHub, request: Request, repo: str, rev: str) -> Response:
    return JSONResponse(await _named(hub, request, repo, rev, tag=False))


async def tag(hub: LoopbackHub, request: Request, repo: str, rev: str) -> Response:
    """Of a revision, which stands in the address."""
    return JSONResponse(await _named(hub, request, repo, rev, tag=True))


async def _named(hub: LoopbackHub, request: Request, repo: str, rev: str, *, tag: bool) -> dict[str, Any]:
    found = writable(hub.repos.get(repo), who(request, hub.tokens))
    told = await request.json() if await request.body() else {}
    name, start = (told["tag"], rev) if tag else (unquote(rev), told.get("startingPoint", "main"))
    if name in found.refs:
        raise Refusal(409, f"Reference already exists: {name}")
    found.refs[name] = revision(found, start).oid
    found.tags |= {name} if tag else set()
    return {}


async def discuss(hub: LoopbackHub, request: Request, repo: str) -> Response:
    found = writable(hub.repos.get(repo), who(request, hub.tokens), proposing=True)
    number = int(found.pull_request("main").rpartition("/")[2])
    return JSONResponse({"num": number, "url": f"{hub.endpoint}/{repo}/discussions/{number}"})


async def merge(hub: LoopbackHub, request: Request, repo: str, number: str) -> Response:
    found = writable(hub.repos.get(repo), who(request, hub.tokens))
    found.commit("main", f"Merge refs/pr/{number}", revision(found, f"refs/pr/{number}").files)
    return JSONResponse({})


async def settings(hub: LoopbackHub, request: Request, repo: str) -> Response:
    found, told = writable(hub.repos.get(repo), who(request, hub.tokens)), await request.json()
    found.private = told.get("visibility", "private" if found.private else "public") == "private"
    found.gated = bool(told.get("gated", found.gated))
    return JSONResponse({"visibility": "private" if found.private else "public"})


async def auth_check(hub: LoopbackHub, request: Request, repo: str) -> Response:
    readable(hub.repos.get(repo), who(request, hub.tokens))
    return JSONResponse({})


def initial(repo: Repo) -> None:
    """What a new repository begins with."""
    attributes = b"".join(
        b"*%s filter=lfs diff=lfs merge=lfs -text\n" % end for end in (b".bin", b".pt", b".safetensors")
    )
    repo.commit("main", "initial commit", {".gitattributes": Blob(attributes, REGULAR)})
