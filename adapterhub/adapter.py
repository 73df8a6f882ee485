"""What a file means, whatever its layout: an Adapter is a mapping from Key (component, module, role) to LazyTensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

from adapterhub.tensors import LazyTensor


class Kind(StrEnum):
    """What a file is for (contract.md, "Words")."""

    LORA = "lora"
    EMBEDDING = "embedding"
    HYPERNETWORK = "hypernetwork"
    CHECKPOINT = "checkpoint"
    UNKNOWN = "unknown"


class Role(StrEnum):
    """What a tensor does for its module. Shapes: W is (O, I) or (O, I, k, k); r is the rank.

    Values are the names that LyCORIS and Kohya store, without their `.weight`.
    """

    DOWN = "lora_down"  # A: (r, I[, k, k]); with MID (r, I, 1, 1)
    UP = "lora_up"  # B: (O, r[, 1, 1])
    MID = "lora_mid"  # tucker core: (r, r, k, k), first axis meets UP
    ALPHA = "alpha"  # ()
    SCALAR = "scalar"  # (): a further factor of the product (old LyCORIS; PEFT's LoKr with full factors)
    SCALE = "scale"  # (): replaces alpha / r (A1111)
    UP_BIAS = "lora_up_bias"  # (O,): PEFT's lora_B.bias, scaled by alpha / r
    ADALORA_E = "lora_E"  # (r, 1): singular values between A and B
    DORA_SCALE = "dora_scale"  # magnitude: (O, 1[, 1, 1]) on the output axis, (1, I[, 1, 1]) on the input axis

    HADA_W1_A = "hada_w1_a"  # (O, r); tucker (r, O)
    HADA_W1_B = "hada_w1_b"  # (r, I·k·k); tucker (r, I)
    HADA_W2_A = "hada_w2_a"
    HADA_W2_B = "hada_w2_b"
    HADA_T1 = "hada_t1"  # (r, r, k, k)
    HADA_T2 = "hada_t2"

    LOKR_W1 = "lokr_w1"  # (o1, i1), or the two factors (o1, r), (r, i1)
    LOKR_W1_A = "lokr_w1_a"
    LOKR_W1_B = "lokr_w1_b"
    LOKR_W2 = "lokr_w2"  # (o2, i2[, k, k]), or (o2, r), (r, i2·k·k); tucker (r, o2), (r, i2), (r, r, k, k)
    LOKR_W2_A = "lokr_w2_a"
    LOKR_W2_B = "lokr_w2_b"
    LOKR_T2 = "lokr_t2"

    IA3_WEIGHT = "weight"  # (O,) or (I,): added, 0 is the identity
    ON_INPUT = "on_input"  # (): whether IA3_WEIGHT runs along the input
    IA3_L = "ia3_l"  # (O, 1) or (1, I): PEFT's multiplier, 1 is the identity

    OFT_BLOCKS = "oft_blocks"  # (n, b, b) on the output side; (m, n, b, b) is BOFT
    OFT_DIAG = "oft_diag"  # (n, b, b): the rotation itself (LyCORIS of 2023)
    RESCALE = "rescale"  # (O, 1[, 1, 1])
    OFT_R = "oft_R"  # (n, b(b-1)/2), n = I·k·k / b: PEFT's, on the input side
    OFT_SCALED = "oft_scaled"  # (): OneTrainer divides OFT_R by 2·sqrt(b-1)
    OFT_TERMS = "oft_terms"  # (): Neumann terms of PEFT's Cayley transform, 0 for the exact one
    BOFT_R = "boft_R"  # (m, n, b, b): PEFT's, on the input side
    BOFT_S = "boft_s"  # (O, 1)

    GLORA_A1 = "a1"  # (I, r); the shapes of old files are those of LyCORIS before 2.2: see deltas
    GLORA_A2 = "a2"  # (r, I)
    GLORA_B1 = "b1"  # (O, r)
    GLORA_B2 = "b2"  # (r, I[, k, k])

    DIFF = "diff"  # the shape of W
    DIFF_B = "diff_b"  # (O,)
    SET_WEIGHT = "set_weight"  # ComfyUI: replaces W
    W_NORM = "w_norm"  # (C,)
    B_NORM = "b_norm"  # (C,)
    RESIDUAL_INDICES = "bias_indices"  # (2, n): sparse remainder of ΔW as (O, I·k·k), LyCORIS' extraction
    RESIDUAL_VALUES = "bias_values"  # (n,)
    RESIDUAL_SIZE = "bias_size"  # (2,)
    RESIDUAL = "residual"  # A1111's `.bias`: dense, the shape of W, before alpha / r

    VECTORS = "vectors"  # an embedding: (n, width) or (width,), module its token; in a LoRA under component "embedding"
    OUTPUT_VECTORS = "output_vectors"  # (n, width): added behind the text encoder (OneTrainer)

    LAYER_WEIGHT = (
        "layer_weight"  # the weight itself: a checkpoint's, or of a hypernetwork's layer (PReLU's slope (1,))
    )
    LAYER_BIAS = "layer_bias"  # (O,)
    ASIDE = "aside"  # what stands in a checkpoint beside its weights


class Key(NamedTuple):
    """Where a tensor belongs: `component` "unet", `module` the dotted diffusers path, `role`."""

    component: str
    module: str
    role: Role


class Module(NamedTuple):
    """A weighted place of a model."""

    component: str
    module: str


Roles = Mapping[Role, LazyTensor]


@dataclass(frozen=True)
class Adapter:
    """Lazy tensors under canonical keys, the architecture that they fit, and the metadata that came with them.

    `metadata` is flat text, as safetensors stores it. A layout that keeps alpha there takes it out when it decodes.
    """

    kind: Kind
    architecture: str
    tensors: Mapping[Key, LazyTensor]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def _modules(self) -> dict[Module, dict[Role, LazyTensor]]:
        modules: dict[Module, dict[Role, LazyTensor]] = {}
        for (component, module, role), tensor in self.tensors.items():
            modules.setdefault(Module(component, module), {})[role] = tensor
        return modules

    def modules(self) -> Mapping[Module, Roles]:
        """The tensors of each module by role, in order of first appearance."""
        return self._modules

    def with_tensors(self, tensors: Mapping[Key, LazyTensor]) -> Adapter:
        """The same adapter with other tensors."""
        return replace(self, tensors=tensors)

    def with_metadata(self, metadata: Mapping[str, str]) -> Adapter:
        """The same adapter with other metadata."""
        return replace(self, metadata=metadata)

    def components(self) -> Iterator[str]:
        """The components that it touches, each once."""
        return iter(dict.fromkeys(key.component for key in self.tensors))
