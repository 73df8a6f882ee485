"""OFT: W turned block by block, on its output side (LyCORIS, Kohya) or on its input side (PEFT, OneTrainer)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from adapterhub.adapter import Role
from adapterhub.operations.lora.deltas.base import Relative
from adapterhub.tensors import item

R = Role
PEFT_TERMS = 5
"""How far PEFT follows Neumann's series where nothing else is said (OFTConfig.num_cayley_neumann_terms)."""


class OFT(Relative):
    """W′[block j] = Rⱼᵀ · W[block j], then RESCALE times each row (Qiu et al., 2023; LyCORIS, modules/diag_oft.py).

    OFT_BLOCKS hold Rⱼ's Cayley parameters, OFT_DIAG (LyCORIS of 2023; A1111, network_oft.py) holds Rⱼ itself.
    """

    name: ClassVar[str] = "oft"

    def _changed(self, weight: Tensor) -> Tensor:
        turns = self.value(R.OFT_DIAG) if R.OFT_DIAG in self else rotations(self, len(weight))
        number, size, _ = turns.shape
        turned = turns.mT @ weight.reshape(number, size, -1)
        return rescaled(self, turned.reshape(len(weight), -1)).reshape(weight.shape)


class InputOFT(Relative):
    """W′ = W · blockdiag(R)ᵀ, W as (O, I·k·k) (PEFT, tuners/oft/layer.py: merge).

    OFT_R holds the strict upper triangles of Q, row by row; a single row serves all blocks. OFT_TERMS = 0 means
    R = (I−Q)(I+Q)⁻¹; n means n terms of Neumann's series for (I+Q)(I−Q)⁻¹, which turns the other way; absent, n = 5.
    OFT_SCALED: the entries are stored 2·√(b−1) times too large (OneTrainer).
    """

    name: ClassVar[str] = "oft"

    def _changed(self, weight: Tensor) -> Tensor:
        turns = self._rotations()
        blocks = weight.reshape(len(weight), -1, turns.shape[-1])
        if len(turns) == 1:
            turns = turns.expand(blocks.shape[1], -1, -1)
        return torch.einsum("okj,kij->oki", blocks, turns).reshape(weight.shape)

    def _rotations(self) -> Tensor:
        entries = self.value(R.OFT_R)
        size = (1 + math.isqrt(1 + 8 * entries.shape[1])) // 2
        if R.OFT_SCALED in self and item(self.tensors[R.OFT_SCALED]):
            entries = entries / (2 * math.sqrt(size - 1))
        upper = torch.zeros(len(entries), size, size, dtype=entries.dtype)
        rows, columns = torch.triu_indices(size, size, 1)
        upper[:, rows, columns] = entries
        skew = upper - upper.mT
        terms = int(item(self.tensors[R.OFT_TERMS])) if R.OFT_TERMS in self else PEFT_TERMS
        return neumann(skew, terms) if terms else cayley(-skew)


def rotations(module: Relative, outputs: int) -> Tensor:
    """R = (I+Q)(I−Q)⁻¹ of every block in OFT_BLOCKS, Q = X − Xᵀ.

    alpha is no scale here: alpha · O bounds the Frobenius norm of all Q together, and 0 bounds nothing.
    """
    blocks = module.value(R.OFT_BLOCKS)
    skew = blocks - blocks.mT
    bound = item(module.tensors[R.ALPHA]) * outputs if R.ALPHA in module else 0.0
    norm = float(skew.norm()) + 1e-8
    return cayley(skew * (bound / norm) if 0 < bound < norm else skew)


def rescaled(module: Relative, weight: Tensor) -> Tensor:
    """`weight` (O, C) with every row times its RESCALE, where there is one."""
    return weight * module.value(R.RESCALE).reshape(-1, 1) if R.RESCALE in module else weight


def cayley(skew: Tensor) -> Tensor:
    """(I+Q)(I−Q)⁻¹ of every skew-symmetric Q: a rotation."""
    one = torch.eye(skew.shape[-1], dtype=skew.dtype)
    turns: Tensor = torch.linalg.solve(one - skew, one + skew)  # they commute: either side
    return turns


def neumann(skew: Tensor, terms: int) -> Tensor:
    """PEFT's series for the same: I + 2Q + … + 2Qᵐ⁻¹ + Qᵐ, m = terms − 1, but 3 for 3 terms and without half for 2."""
    power = series = torch.eye(skew.shape[-1], dtype=skew.dtype).expand_as(skew)
    last = max(terms - 1, 3) if terms > 2 else 0
    for exponent in range(1, (last or terms - 1) + 1):
        power = power @ skew
        series = series + (1 if exponent == last else 2) * power
    return series
