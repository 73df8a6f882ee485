"""Who asks, what they may, and how the Hub says no: the client tells errors by X-Error-Code before the status."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import JSONResponse

from tests.hub.loopback.store import Commit, Repo


class Refusal(Exception):
    """An answer of that status."""

    def __init__(
        self, status: int, message: str, code: str | None = None, body: Mapping[str, object] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.body = status, message, code, dict(body or {})

    def response(self) -> JSONResponse:
        headers = {"X-Error-Message": self.message} | ({"X-Error-Code": self.code} if self.code else {})
        return JSONResponse({"error": self.message, **self.body}, self.status, headers)


def who(request: Request, tokens: Mapping[str, str]) -> str | None:
    """The user whose token came; None where none did. Refusal for one that nobody has."""
    given = request.headers.get("authorization")
    if given is None:
        return None
    user = tokens.get(given.removeprefix("Bearer "))
    if user is None:
        raise Refusal(401, "Invalid credentials in Authorization header")
    return user


def readable(repo: Repo | None, user: str | None, *, content: bool = True) -> Repo:
    """The repository, if `user` may see it and, with `content`, its files."""
    if repo is None or (repo.private and user != repo.owner):
        raise Refusal(401 if user is None else 404, "Repository not found", "RepoNotFound")
    if content and repo.gated and user != repo.owner and user not in repo.allowed:
        raise Refusal(401 if user is None else 403, f"Access to model {repo.id} is restricted.", "GatedRepo")
    return repo


def writable(repo: Repo | None, user: str | None, *, proposing: bool = False) -> Repo:
    """The repository, if `user` may write to it, or, `proposing`, open a pull request."""
    if user is None:
        raise Refusal(401, "Invalid username or password.", "RepoNotFound")
    found = readable(repo, user)
    if user != found.owner and not proposing:
        raise Refusal(403, "You don't have the rights to commit to this repository")
    return found


def revision(repo: Repo, name: str) -> Commit:
    found = repo.at(name)
    if found is None:
        raise Refusal(404, f"Invalid rev id: {name}", "RevisionNotFound")
    return found
