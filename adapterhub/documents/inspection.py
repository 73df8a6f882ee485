"""What a file is, and whether it is sound."""

from typing import Any, Literal

from pydantic import Field

from adapterhub.adapter import Kind
from adapterhub.documents.base import Container, Document, PathText, Problem
from adapterhub.documents.comparison import Descent


class Token(Document):
    """One token of an embedding."""

    token: str = Field(description="the text that calls it")
    vectors: int = Field(description="how many vectors stand for it")
    widths: dict[str, int] = Field(description="the length of a vector, by component")


class Hashes(Document):
    """Digests of one file, in hexadecimal, as other tools compute them; null where one does not apply."""

    sha256: str | None = Field(default=None, description="of the whole file")
    autov1: str | None = Field(default=None, description="A1111's first: 8 digits, of 64 KiB at 1 MiB")
    autov2: str | None = Field(default=None, description="the first 10 digits of sha256")
    autov3: str | None = Field(default=None, description="the first 12 digits of sshs_model_hash, as Civitai shows it")
    sshs_model_hash: str | None = Field(
        default=None, description="Kohya's: sha256 of the safetensors data without its header"
    )
    sshs_legacy_hash: str | None = Field(default=None, description="Kohya's older one: 8 digits")
    blake3: str | None = Field(default=None, description="BLAKE3 of the whole file")
    crc32: str | None = Field(default=None, description="CRC-32 of the whole file")


class Part(Document):
    """One component of a whole model."""

    tensors: int = Field(description="how many tensors it has, in our names")
    parameters: int = Field(description="how many numbers they hold together")
    dtypes: dict[str, int] = Field(description="tensors by element type")


class ListedTensor(Document):
    """One tensor of a file and what it was taken for."""

    name: str = Field(description="the key in the file")
    dtype: str = Field(description="safetensors' name of the element type")
    shape: list[int] = Field(description="the length of each axis")
    component: str | None = Field(
        default=None, description="the part of the model that it changes; null if not recognised"
    )
    module: str | None = Field(
        default=None, description="the canonical path inside the component; null if not recognised"
    )
    role: str | None = Field(default=None, description="what it does for its module; null if not recognised")


class ModuleSpectrum(Document):
    """How strong the change of one module is at strength 1, and over how many directions it spreads."""

    component: str = Field(description="the part of the model")
    module: str = Field(description="the canonical path inside the component")
    algorithm: str = Field(description="how the change is stored")
    rank: int | None = Field(description="the rank that is stored; null where there is none")
    effective_rank: float = Field(description="exp of the entropy of the singular values' shares of their sum")
    rank_99: int = Field(description="how many singular values hold 99 % of ‖ΔW‖²")
    norm: float = Field(description="‖ΔW‖ (Frobenius)")
    largest: float = Field(description="the largest singular value of ΔW")
    relative: float | None = Field(description="‖ΔW‖ / ‖W‖; null without a base")
    excess: float | None = Field(
        default=None, description="how many times the median that its strength is compared with; null where that is 0"
    )
    dead: bool = Field(default=False, description="whether it changes nothing at all")


class EnergyShare(Document):
    """How much of an adapter's change lies in one part of the model."""

    name: str = Field(description="a component, or a block of one")
    modules: int = Field(description="how many modules it has")
    norm: float = Field(description="‖ΔW‖ (Frobenius) of all of them together")
    share: float = Field(description="its share of the ‖ΔW‖² of the whole adapter")


class Unmeasured(Document):
    """A module whose change could not be measured."""

    component: str = Field(description="the part of the model")
    module: str = Field(description="the canonical path inside the component")
    reason: str = Field(description="why")


class Audit(Document):
    """What a LoRA does to each weight: `adapterhub inspect --spectrum`."""

    rule: str = Field(description="which modules count as over-scaled")
    modules: list[ModuleSpectrum] = Field(description="every module that was measured")
    components: list[EnergyShare] = Field(description="where the change lies, by component")
    blocks: list[EnergyShare] = Field(description="where the change lies, by block")
    over_scaled: list[str] = Field(description="component.module of those that are far stronger than others")
    dead: list[str] = Field(description="component.module of those that change nothing at all")
    unmeasured: list[Unmeasured] = Field(description="what could not be measured, and why")


class HeatMap(Document):
    """What a heat map shows: `adapterhub plot`."""

    path: PathText = Field(description="the file or folder, as it was given")
    target: PathText = Field(description="the picture that was written")
    measure: Literal["relative", "rms"] = Field(
        description="relative: ‖ΔW‖ / ‖W‖; rms: ‖ΔW‖ / √elements, where no base was given"
    )
    rows: list[str] = Field(description="the blocks of the model, in its order")
    columns: list[str] = Field(description="the kinds of modules")
    values: list[list[float | None]] = Field(
        description="a row of numbers for each block; null where it has no such module"
    )
    unmeasured: list[Unmeasured] = Field(default_factory=list, description="what could not be measured, and why")


class Inspection(Document):
    """What a file is: `adapterhub inspect`."""

    path: PathText = Field(description="the file or folder, as it was given")
    size: int = Field(description="bytes; of all files for a folder")
    kind: Kind = Field(description="what the file is for")
    container: Container = Field(description="how its bytes are stored")
    layout: str | None = Field(default=None, description="whose names it carries; null if none explains every key")
    architecture: str | None = Field(default=None, description="the model family that it fits")
    variant: str | None = Field(
        default=None, description="a flavour of the architecture, such as inpainting or v-prediction"
    )
    evidence: list[str] = Field(default_factory=list, description="what the verdict rests on")
    algorithms: dict[str, int] = Field(default_factory=dict, description="modules by algorithm")
    components: dict[str, int] = Field(default_factory=dict, description="modules by component")
    ranks: dict[str, int] = Field(default_factory=dict, description="modules by rank")
    alphas: dict[str, int] = Field(default_factory=dict, description="modules by alpha")
    dtypes: dict[str, int] = Field(default_factory=dict, description="tensors by element type")
    tensors: int = Field(description="how many tensors it stores")
    parameters: int = Field(description="how many numbers they hold together")
    tokens: list[Token] = Field(default_factory=list, description="the tokens of an embedding")
    vectors: int | None = Field(default=None, description="the vectors of an embedding, all tokens together")
    structure: dict[str, Any] | None = Field(
        default=None, description="the shape of a hypernetwork: widths, layers, activation"
    )
    fingerprint: str | None = Field(default=None, description="a digest of what the file does, whatever its layout")
    hashes: Hashes | None = Field(default=None, description="digests of the file, where they were asked for")
    metadata: dict[str, str] = Field(default_factory=dict, description="the text fields that it carries, unchanged")
    problems: list[Problem] = Field(default_factory=list, description="what is wrong or odd about it")
    also: list[str] = Field(default_factory=list, description="other model families that it fits as well")
    parts: dict[str, Part] = Field(default_factory=dict, description="the components of a whole model")
    extras: dict[str, int] = Field(
        default_factory=dict,
        description="tensors of a whole model beside its weights, by class: ema, schedule, foreign …",
    )
    extra_bytes: dict[str, int] = Field(default_factory=dict, description="the bytes of these tensors, by class")
    file_hashes: dict[str, Hashes] = Field(
        default_factory=dict, description="digests of each weight file by name, where there are several"
    )
    spectrum: Audit | None = Field(
        default=None, description="what a LoRA does to each weight, where that was asked for"
    )
    listing: list[ListedTensor] | None = Field(default=None, description="every tensor, where they were asked for")


class Validation(Document):
    """Whether a file is sound: `adapterhub validate`."""

    path: PathText = Field(description="the file or folder, as it was given")
    valid: bool = Field(description="whether no problem is an error")
    kind: Kind = Field(description="what the file is for")
    layout: str | None = Field(default=None, description="whose names it carries; null if none explains every key")
    architecture: str | None = Field(default=None, description="the model family that it fits")
    problems: list[Problem] = Field(default_factory=list, description="what is wrong or odd, and how to mend it")
    descent: Descent | None = Field(
        default=None, description="of a whole model, with a base: whether it descends from that"
    )
