"""`python -m adapterhub.documents` writes the JSON Schema of each document; `--check` says whether they are current."""

import sys
from collections.abc import Sequence
from pathlib import Path

from adapterhub.documents import DOCUMENTS, schema


def main(arguments: Sequence[str]) -> int:
    """Write every schema, or with `--check` only name those that are not current, status 1."""
    folder = Path(__file__).resolve().parents[2] / "schemas"
    files = {folder / f"{name}.schema.json": schema(name) for name in DOCUMENTS}
    stale = [path for path, text in files.items() if not path.is_file() or path.read_text("utf-8") != text]
    stale += sorted(set(folder.glob("*.json")) - files.keys())
    if "--check" in arguments:
        print(*(f"{path.name} is not current: run make schemas" for path in stale), sep="\n", file=sys.stderr)
        return bool(stale)
    for path in stale:
        path.write_text(files[path], "utf-8") if path in files else path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
