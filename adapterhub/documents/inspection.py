"""What a file is, and whether it is sound."""

from typing import Any

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
    parts: dict[str, Part] = Field(default_factory=dict, description="the components of a whole model")
    extras: dict[str, int] = Field(
        default_factory=dict,
        description="tensors of a whole model beside its weights, by class: ema, schedule, foreign …",
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
