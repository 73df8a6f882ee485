"""What every algorithm offers, and the two ways to change a weight: by adding to it, and as a function of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from adapterhub.adapter import Role, Roles
from adapterhub.algorithms import total_scale
from adapterhub.errors import BrokenAdapter, NeedsBase
from adapterhub.operations.lora.deltas import truncation
from adapterhub.operations.lora.deltas.truncation import Pair, Svd, Truncated
from adapterhub.operations.lora.deltas.values import tensor
from adapterhub.operations.lora.shapes import require_fitting


class Delta(Protocol):
    """What an adapter does to one module. All arithmetic is in float64; W is (O, I) or (O, I, k, k)."""

    name: ClassVar[str]
    needs_base: ClassVar[bool]

    def matrix(self) -> Tensor:
        """ΔW at strength 1, (O, I), or (O, I, k, k) where the factors show the kernel. Raises NeedsBase, BrokenAdapter."""

    def apply(self, weight: Tensor, strength: float = 1.0) -> Tensor:
        """W + strength · (W′ − W), whatever the algorithm, in the shape of `weight`. Raises BrokenAdapter."""

    def bias(self, base: Tensor | None = None) -> Tensor | None:
        """What is added to the module's bias at strength 1, (O,); None where it stays. Only PEFT's IA3 asks for `base`."""


class Stored:
    """The tensors of one module, and what they say about its bias."""

    def __init__(self, tensors: Roles) -> None:
        self.tensors = tensors

    def __contains__(self, role: Role) -> bool:
        return role in self.tensors

    def value(self, role: Role) -> Tensor:
        return tensor(self.tensors[role])

    def flat(self, role: Role) -> Tensor:
        """A factor as a matrix: kernel positions become columns."""
        return self.value(role).flatten(1)

    def bias(self, base: Tensor | None = None) -> Tensor | None:
        return self.value(Role.DIFF_B).flatten() if Role.DIFF_B in self else None

    @contextmanager
    def fitting(self) -> Iterator[None]:
        """Turns what torch says about shapes into a BrokenAdapter that lists them."""
        try:
            yield
        except (RuntimeError, ValueError, IndexError) as error:
            shapes = ", ".join(f"{role} {list(held.shape)}" for role, held in self.tensors.items())
            raise BrokenAdapter(f"the shapes of a module do not fit together ({shapes}): {error}") from error


class Additive(Stored, ABC):
    """ΔW is the adapter's alone."""

    needs_base: ClassVar[bool] = False

    def __init__(self, tensors: Roles) -> None:
        super().__init__(tensors)
        self.scale = float(total_scale(tensors))

    def matrix(self) -> Tensor:
        with self.fitting():
            return self._matrix()

    def apply(self, weight: Tensor, strength: float = 1.0) -> Tensor:
        require_fitting(self.tensors, tuple(weight.shape))
        change = self.matrix()
        with self.fitting():
            return weight.detach().to(torch.float64) + strength * change.reshape(weight.shape)

    def pair(self) -> Pair | None:
        """Two matrices whose product is ΔW / scale exactly; None where there are none but ΔW itself."""
        return None

    def truncated(self, rank: int) -> Truncated:
        """The best approximation of ΔW by `rank`."""
        return self.svd(rank).cut(rank)

    def svd(self, rank: int | None = None) -> Svd:
        """The singular values and vectors of ΔW, from its factors where it has some; at least the `rank` largest."""
        with self.fitting():
            return self._svd(rank)

    @abstractmethod
    def _matrix(self) -> Tensor: ...

    def _svd(self, rank: int | None) -> Svd:
        pair = self.pair()
        if pair is None:
            return truncation.of_matrix(self._matrix().flatten(1))
        return truncation.of_product(self.scale * pair.up, pair.down)


class Relative(Stored, ABC):
    """W′ is a function of W, so that nothing can be said without it."""

    name: ClassVar[str]
    needs_base: ClassVar[bool] = True

    def matrix(self) -> Tensor:
        raise NeedsBase(f"the change that {self.name} makes depends on the base weights", mend="Give them with --base.")

    def apply(self, weight: Tensor, strength: float = 1.0) -> Tensor:
        require_fitting(self.tensors, tuple(weight.shape))
        weight = weight.detach().to(torch.float64)
        with self.fitting():
            changed = self._changed(weight)
        return changed if strength == 1 else weight + strength * (changed - weight)

    @abstractmethod
    def _changed(self, weight: Tensor) -> Tensor:
        """W′ at strength 1 in the shape of W."""


def channels(weight: Tensor) -> Tensor:
    """W as (O, I, k·k), whatever its kernel."""
    rows, columns, *kernel = weight.shape
    return weight.reshape(rows, columns, -1 if kernel else 1)
