"""Everything that adapterhub prints as JSON: the return values of the Python API and the source of `schemas/`.

`python -m adapterhub.documents` writes the JSON Schema of each document; `--check` says whether they are current.
A number that is not finite is null in JSON.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from adapterhub.adapter import Kind

Container = Literal["safetensors", "safetensors-sharded", "torch-zip", "torch-legacy", "png", "webp", "directory"]
Action = Literal["copy", "rename", "reshape", "fold", "split", "join", "cast", "compute", "metadata", "drop"]
Exactness = Literal["bit-exact", "exact", "approximate", "partial"]


def _text(path: object) -> str:
    return str(path).encode("utf-8", "backslashreplace").decode()


PathText = Annotated[str, BeforeValidator(_text)]
"""A path as text; bytes that are no UTF-8 are shown as escapes, because JSON has no place for them."""


class Document(BaseModel):
    """What all documents have in common: they do not change, and hold what their schema says and nothing else."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Problem(Document):
    """Something wrong or odd about a file."""

    severity: Literal["error", "warning"] = Field(description="error: the file does not do what it is for")
    code: str = Field(description="a short stable name of the problem, such as missing-alpha")
    where: str = Field(description="the tensor, module, metadata field or member concerned; empty for the whole file")
    message: str = Field(description="what is wrong, in a sentence")
    mend: str | None = Field(default=None, description="what to do about it, where that is known")


class Token(Document):
    """One token of an embedding."""

    token: str = Field(description="the text that calls it")
    vectors: int = Field(description="how many vectors stand for it")
    widths: dict[str, int] = Field(description="the length of a vector, by component")


class HypernetworkStructure(Document):
    """The shape of every net of a hypernetwork. A safetensors file holds it as JSON in the metadata field
    `adapterhub.hypernetwork`, beside tensors called `hypernet.WIDTH.NET.PART.NUMBER.weight` and `.bias`: NET is `k` or `v`,
    PART `linear`, `norm`, `activation` (PReLU's slope) or `upsample`, NUMBER counts from 0 in each part.

    A net changes a context x into x + strength · f(x). For each layer, f is a linear layer, the activation, a layer norm and
    a dropout, each if there is one; from layer to layer x grows to the multiples in `layer_structure` of its width.
    """

    widths: list[Annotated[int, Field(gt=0, lt=100_000)]] = Field(description="the widths of contexts that it changes")
    layer_structure: list[Annotated[int | float, Field(gt=0, lt=10_000)]] = Field(
        min_length=2, description="how many times the width the input and each layer are wide; the first and last are 1"
    )
    activation: str = Field(default="linear", description="A1111's name of the activation; linear for none")
    activate_output: bool = Field(default=False, description="whether it stands behind the last layer too")
    layer_norm: bool = Field(default=False, description="whether a layer norm stands behind every layer, the last included")
    dropout: list[Annotated[float, Field(ge=0, lt=1)]] | None = Field(
        default=None, description="the probability at the input and behind each layer, in training; null for none"
    )
    weight_initialization: str | None = Field(default=None, description="how it was initialized")
    skip_connection: bool = Field(
        default=False,
        description="whether each layer is added to its input, and strength interpolates: x + strength · (f(x) - x)",
    )
    upsample_linear: bool = Field(
        default=False,
        description="with skip_connection: whether a matrix brings the input to the layer's width, or its nearest values do",
    )


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
    listing: list[ListedTensor] | None = Field(default=None, description="every tensor, where they were asked for")


class Validation(Document):
    """Whether a file is sound: `adapterhub validate`."""

    path: PathText = Field(description="the file or folder, as it was given")
    valid: bool = Field(description="whether no problem is an error")
    kind: Kind = Field(description="what the file is for")
    layout: str | None = Field(default=None, description="whose names it carries; null if none explains every key")
    architecture: str | None = Field(default=None, description="the model family that it fits")
    problems: list[Problem] = Field(default_factory=list, description="what is wrong or odd, and how to mend it")


class Source(Document):
    """The file that was read."""

    path: PathText = Field(description="the file or folder, as it was given")
    sha256: str | None = Field(default=None, description="its digest; null for a folder, and without the check")


class Target(Document):
    """The file that was written."""

    path: PathText = Field(description="the file or folder, as it was given")
    sha256: str | None = Field(
        default=None,
        description="its digest; null for a folder, where nothing was written, and without the check",
    )
    layout: str = Field(description="the layout that it was written in")


class LedgerEntry(Document):
    """What became of some source tensors; every source tensor stands in exactly one entry."""

    source: list[str] = Field(description="keys in the source")
    target: list[str] = Field(description="keys in the target; empty for a drop")
    action: Action = Field(description="what was done")
    reason: str | None = Field(default=None, description="why; always given for a drop")


class Conversion(Document):
    """What a conversion did, tensor by tensor, and its proof: `adapterhub convert`."""

    command: Literal["convert"] = Field(default="convert", description="the command that wrote the target")
    source: Source = Field(description="what was read")
    target: Target = Field(description="what was written")
    exactness: Exactness = Field(description="how far the target does what the source did")
    max_error: float | None = Field(default=None, description="max|ΔW_out - ΔW_in| / max|ΔW_in|, the worst module, measured on "
                                                      "the written file; null if not measured")  # fmt: skip
    modules: int = Field(description="how many modules were compared, or would be")
    entries: list[LedgerEntry] = Field(description="the ledger")
    summary: dict[Action, int] = Field(description="source tensors by action")
    problems: list[Problem] = Field(default_factory=list, description="what was odd about the source, or was mended")
    dry_run: bool = Field(default=False, description="whether nothing was written because that was asked for")
    seconds: float = Field(description="wall time")


class Combination(Document):
    """What became of one or several files together: `adapterhub hypernetwork scale` and `merge`."""

    command: str = Field(description="the command that wrote the target")
    sources: list[Source] = Field(description="what was read, in order")
    weights: list[float] = Field(description="how much of each source the target does")
    target: Target = Field(description="what was written")
    exactness: Exactness = Field(description="how far the target does what the sources together did")
    max_error: float | None = Field(
        default=None,
        description="the largest difference from what the sources do to random contexts, over the largest change, measured on "
                    "the written file; null if not measured",
    )  # fmt: skip
    modules: int = Field(description="how many nets were compared, or would be")
    entries: list[LedgerEntry] = Field(description="the ledger; each key stands behind the number of its source, from 0")
    summary: dict[Action, int] = Field(description="source tensors by action")
    problems: list[Problem] = Field(default_factory=list, description="what was odd about the sources")
    seconds: float = Field(description="wall time")


class ModuleDifference(Document):
    """How far two files differ in one module."""

    component: str = Field(description="the part of the model")
    module: str = Field(description="the canonical path inside the component")
    max_abs: float | None = Field(description="max|ΔW_b - ΔW_a|")
    relative: float | None = Field(description="the same over max|ΔW_a|")


class Difference(Document):
    """How far two files do the same: `adapterhub diff`."""

    a: PathText = Field(description="the first file or folder, as it was given")
    b: PathText = Field(description="the second file or folder, as it was given")
    equal: bool = Field(description="whether both change the same modules, and none by more than the tolerance")
    max_abs: float | None = Field(description="max|ΔW_b - ΔW_a|, the worst module")
    max_error: float | None = Field(description="max|ΔW_b - ΔW_a| / max|ΔW_a|, the worst module")
    modules: int = Field(description="how many modules both change")
    only_in_a: list[str] = Field(default_factory=list, description="component.module that only the first changes")
    only_in_b: list[str] = Field(default_factory=list, description="component.module that only the second changes")
    differences: list[ModuleDifference] = Field(
        default_factory=list, description="the modules that differ, worst first"
    )


class LayoutInfo(Document):
    """One layout: `adapterhub layouts`."""

    name: str = Field(description="what --to takes")
    kind: Kind = Field(description="what its files are for")
    summary: str = Field(description="what it is, in a line")
    container: Container | None = Field(default=None, description="how its bytes are stored when it is written")
    suffix: str = Field(
        description="how its files end when they are written; empty for a folder, or if it is only read"
    )
    reads: bool = Field(default=True, description="whether adapterhub reads it")
    writes: bool = Field(default=True, description="whether adapterhub writes it")
    tools: list[str] = Field(default_factory=list, description="what --for takes to choose it")
    holds: list[str] = Field(default_factory=list, description="the algorithms that it has names for")
    alpha: Literal["tensor", "metadata", "folded"] | None = Field(default=None, description="where it keeps alpha")


class ArchitectureInfo(Document):
    """One architecture: `adapterhub architectures`."""

    name: str = Field(description="what --architecture takes")
    title: str = Field(description="what people call it")
    modelspec: str | None = Field(default=None, description="its modelspec.architecture string")
    components: dict[str, int] = Field(description="modules by component")
    parameters: int = Field(description="how many numbers all components hold together")


class Fault(Document):
    """Why a command could not be carried out."""

    code: str = Field(description="a short stable name of the rule that was broken")
    message: str = Field(description="what is wrong and how to mend it")


class Failure(Document):
    """What stands in the array of results for a path that failed."""

    path: PathText = Field(description="the file or folder, as it was given")
    error: Fault = Field(description="why it failed")


DOCUMENTS: dict[str, type[Document]] = {
    "inspection": Inspection,
    "validation": Validation,
    "conversion": Conversion,
    "combination": Combination,
    "hypernetwork": HypernetworkStructure,
    "difference": Difference,
    "layout": LayoutInfo,
    "architecture": ArchitectureInfo,
    "failure": Failure,
}
"""Every public document by the name of its schema."""


def schema(name: str) -> str:
    """The JSON Schema of one document, as the text of its file."""
    body = {"$schema": "https://json-schema.org/draft/2020-12/schema", **DOCUMENTS[name].model_json_schema()}
    return json.dumps(body, indent=2, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write every schema, or with `--check` only name those that are not current, status 1."""
    folder = Path(__file__).resolve().parents[1] / "schemas"
    files = {folder / f"{name}.json": schema(name) for name in DOCUMENTS}
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
