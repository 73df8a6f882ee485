"""The first form of hypernetworks: `linear1` and `linear2` by width, linear, mostly without any field. Read only.

Source: NovelAI's files of 2022; A1111 `modules/hypernetworks/hypernetwork.py` (`fix_old_state_dict`); kohya-ss/sd-scripts
`finetune/hypernetwork_nai.py`, whose pairs are lists.
"""

from __future__ import annotations

from adapterhub.files import Package
from adapterhub.layouts.hypernetwork.a1111 import is_old
from adapterhub.layouts.hypernetwork.dictionary import content, dictionary
from adapterhub.layouts.hypernetwork.layout import Content, HypernetworkLayout


def _find(package: Package) -> Content | None:
    tree = dictionary(package)
    return None if tree is None or not is_old(tree) else content(tree)._replace(missing=())


LAYOUT = HypernetworkLayout(
    name="nai", summary="`.pt` keyed by width, with `linear1` and `linear2`: two linear layers", find=_find
)
