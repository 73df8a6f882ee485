"""A file of a repository in the Hub's cache: counted while the client downloads it, verified before anybody opens it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from adapterhub import files
from adapterhub.errors import MachineFailure, RefusedInput, Unreachable
from adapterhub.hub.errors import WITHOUT_XET, explained
from adapterhub.hub.placing import require_digest
from adapterhub.hub.repository import RemoteFile, Repository, api


def cached(there: Repository, name: str, sha256: str | None) -> Path:
    """The file in the Hub's cache, downloaded if it is not there, with the size and digest that the Hub told, and `sha256`."""
    told, what = there.files[name], f"hf://{there.repo}/{name}"
    path = _downloaded(there, name, what)
    try:
        _verify(path, told, what, sha256)
    except RefusedInput:
        with suppress(OSError):  # a damaged file must not stay in the cache
            path.resolve().unlink()
            path.unlink()
        raise
    return path


def _downloaded(there: Repository, name: str, what: str) -> Path:
    try:
        with explained(what):
            counted = counting(what, there.files[name].size)
            return Path(api().hf_hub_download(there.repo, name, revision=there.commit, tqdm_class=counted))
    except RuntimeError as error:  # Xet's, of its own threads
        raise Unreachable(f"{what} could not be downloaded: {str(error)[:200]!a}", mend=WITHOUT_XET) from error
    except OSError as error:
        if error.errno is None:  # what the client says of fewer bytes than were announced
            raise Unreachable(f"{what} broke off", mend="Run the command again.") from error
        raise MachineFailure(f"cannot keep {what} in the Hub's cache: {error.strerror}") from error


def counting(what: str, size: int) -> type[Any]:
    """The client's progress bar, which it tells of every piece before it is written, as one that refuses more than `size` bytes.

    Source: huggingface_hub `file_download.py` (`http_get`; what an interrupted download begins again with is subtracted) and
    `utils/_xet_progress_reporting.py`, where the bar is told from another thread: a refusal ends the download there too, or the
    file is looked at afterwards.
    """
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    class Counted(tqdm):
        """Of one file."""

        seen = 0

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)  # type: ignore[no-untyped-call]
            if options.get("total") not in (None, size):
                self.close()
                raise _other_size(what, options["total"], size)

        def update(self, n: float | None = 1) -> Any:
            self.seen += int(n or 0)
            if self.seen > size:
                raise _other_size(what, self.seen, size)
            return super().update(n)

    return Counted


def _verify(path: Path, told: RemoteFile, what: str, sha256: str | None) -> None:
    if path.stat().st_size != told.size:
        raise _other_size(what, path.stat().st_size, told.size)
    if told.sha256 or sha256:
        digest = files.sha256(path)
        require_digest(what, digest, told.sha256)
        require_digest(what, digest, sha256)


def _other_size(what: str, size: int, told: int) -> RefusedInput:
    return RefusedInput(f"{what} has {size} bytes, and the Hub told {told}", mend="Run the command again.")
