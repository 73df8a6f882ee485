"""The model that is trained on: opened without executing anything of it, every weight float32 and frozen."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import diffusers
import torch
import transformers
from torch import nn

import adapterhub.layouts as layouts
from adapterhub import files
from adapterhub.adapter import Kind
from adapterhub.documents import Ingredient
from adapterhub.errors import AdapterhubError, NotAnAdapter, NotFound, RefusedInput, UsageError
from adapterhub.fingerprint import fingerprint
from adapterhub.layouts.checkpoint.diffusers import FILES
from adapterhub.operations.convert import convert
from adapterhub.operations.digests import digest_of
from adapterhub.operations.recipe import named

transformers.utils.logging.set_verbosity_error()  # it says of every model what it falls back to
transformers.utils.logging.disable_progress_bar()
diffusers.utils.logging.set_verbosity_error()

ENCODERS = ("text_encoder", "text_encoder_2")
_CLASSES: Mapping[str, Any] = {
    "UNet2DConditionModel": diffusers.UNet2DConditionModel,
    "AutoencoderKL": diffusers.AutoencoderKL,
    "CLIPTextModel": transformers.CLIPTextModel,
    "CLIPTextModelWithProjection": transformers.CLIPTextModelWithProjection,
    "CLIPTokenizer": transformers.CLIPTokenizer,
    "CLIPTokenizerFast": transformers.CLIPTokenizer,
}
"""What a component may be: nothing else is imported, whatever a model_index.json says."""


@dataclass
class Base:
    """The parts of a model; `folder` is where it lies as diffusers has it, `ingredient` what the recipe calls it."""

    folder: Path
    architecture: str
    unet: Any
    vae: Any
    encoders: dict[str, Any]
    tokenizers: dict[str, Any]
    scheduler: Any
    ingredient: Ingredient
    new_words: dict[str, str] = field(default_factory=dict)
    """What new words of the tokenizers stand for: `<fox> <fox>_1` for `<fox>`."""

    def modules(self) -> dict[str, nn.Module]:
        """Every component that has weights."""
        return {"unet": self.unet, "vae": self.vae, **self.encoders}

    def expanded(self, caption: str) -> str:
        """A caption with new words of several vectors written out, as diffusers does with prompts."""
        for word, tokens in self.new_words.items():
            caption = caption.replace(word, tokens)
        return caption

    @property
    def scale(self) -> int:
        """Pixels a latent."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))


@contextmanager
def opened(source: str, architectures: tuple[str, ...]) -> Iterator[Base]:
    """The model at a path or of a Hub id, of one of `architectures`. Its folder stays until the end.

    A single file, and a folder that holds pickles, are converted first, which reads them without executing them.
    """
    path = here(source)
    with TemporaryDirectory(prefix="adapterhub-base-") as temporary:
        with files.read(path) as package:
            identity = layouts.identify(package)
            reading = identity.decode(package)
            if identity.kind is not Kind.CHECKPOINT or reading is None:
                raise NotAnAdapter(f"{source}: no whole model, which training begins with")
            architecture = reading.architecture
            if architecture not in architectures:
                raise RefusedInput(f"{source}: the base is of the architecture {architecture}, and this trainer knows "
                                   f"{', '.join(architectures)}")  # fmt: skip
            ingredient = Ingredient(
                name=named(path) if Path(source).exists() else source,
                sha256=digest_of(package),
                fingerprint=fingerprint(reading.adapter),
            )
        folder = path
        if not _is_plain(path):
            folder = Path(temporary) / "base"
            convert(path, folder, to="diffusers", digests=False)
        yield _loaded(folder, architecture, ingredient, source)


def here(source: str) -> Path:
    """The path, or where the Hub's files were put."""
    if (path := Path(source)).exists():
        return path
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise UsageError(
            f"{source}: no such file or folder", mend="Give a model's path, or its id on the Hub: USER/NAME."
        )
    try:
        return Path(diffusers.DiffusionPipeline.download(source, use_safetensors=True))
    except (OSError, ValueError) as error:
        raise NotFound(f"{source}: neither a path nor a model that can be had from the Hub: {error}",
                       mend="adapterhub pull gets models, and says what keeps it from that.") from error  # fmt: skip


def _is_plain(path: Path) -> bool:
    """Whether it is a folder of safetensors as diffusers saves it, and not of a variant alone."""
    if not path.is_dir():
        return False
    parts = [path / file for name, file in FILES.items() if (path / name).is_dir()]
    return all(part.is_file() or part.with_name(f"{part.name}.index.json").is_file() for part in parts)


def _loaded(folder: Path, architecture: str, ingredient: Ingredient, source: str) -> Base:
    index = json.loads((folder / "model_index.json").read_text("utf-8"))

    def part(name: str) -> Any:
        kind = index[name][1]
        if kind not in _CLASSES:
            raise RefusedInput(f"{source}: its {name} is a {kind}, which no trainer here knows")
        told: dict[str, Any] = {"subfolder": name, "local_files_only": True}
        if not name.startswith("tokenizer"):
            told |= {"torch_dtype": torch.float32, "use_safetensors": True}
        return _CLASSES[kind].from_pretrained(str(folder), **told)

    names = [name for name in ENCODERS if (index.get(name) or [None])[0]]
    try:
        base = Base(
            folder, architecture, part("unet"), part("vae"), {name: part(name) for name in names},
            {name: part(name.replace("text_encoder", "tokenizer")) for name in names},
            diffusers.DDPMScheduler.from_pretrained(str(folder), subfolder="scheduler", local_files_only=True), ingredient,
        )  # fmt: skip
    except AdapterhubError:
        raise
    except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise RefusedInput(
            f"{source}: the model cannot be loaded: {error}",
            mend="adapterhub validate says what is wrong with it. Of a single file, widths are taken for its family's own: of another "
            "width, give the folder of diffusers.",
        ) from error
    if base.unet.config.in_channels != base.vae.config.latent_channels:
        raise RefusedInput(f"{source}: its UNet takes {base.unet.config.in_channels} channels, and a latent has "
                           f"{base.vae.config.latent_channels}: inpainting and the like are not trained here")  # fmt: skip
    for module in base.modules().values():
        module.requires_grad_(False).eval()
    return base


def canonical(base: Base, component: str, path: str) -> str:
    """A module's path as our layouts name it; CLIPTextModel has dropped `text_model.` from its names (transformers ≥ 5.6)."""
    bare = component in ENCODERS and not hasattr(base.encoders[component], "text_model")
    return f"text_model.{path}" if bare else path
