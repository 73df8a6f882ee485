"""YAML that is nothing but data: every scalar is text, and nothing stands for anything else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from adapterhub.errors import MalformedFile


class _Loader(yaml.BaseLoader):  # type: ignore[misc] # PyYAML ships no types
    """PyYAML's reader that knows no types, without aliases: ten lines of them can mean more than memory holds."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "an alias, which adapterhub does not follow", None)
        return super().compose_node(parent, index)


def loads(document: str, path: Path) -> Any:
    """The value of a document that was read from `path`: texts, lists and mappings. MalformedFile where it is no YAML."""
    try:
        return yaml.load(document, Loader=_Loader)  # noqa: S506 - it makes nothing but text
    except RecursionError:
        what = "it is nested too deep"
    except (yaml.YAMLError, ValueError) as error:
        what = str(error).partition("\n")[0]
    raise MalformedFile(path, "yaml", f"this is no YAML that adapterhub reads: {what}", mend="Mend the file by hand.")
