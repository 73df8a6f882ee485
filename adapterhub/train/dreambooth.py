"""DreamBooth (Ruiz et al. 2023): the whole UNet, and on request the text encoders, learn from a handful of pictures that
"a [identifier] [class noun]" is their subject, while the class goes on as it was (equation 2, which stands in `prior`).

adapterhub train dreambooth --base model.safetensors --images fox/ --prompt "a sks fox" --class-prompt "a fox" -o fox/
"""

from __future__ import annotations

from adapterhub import files
from adapterhub.adapter import Adapter, Key, Kind
from adapterhub.documents import DreamBoothSettings, Training
from adapterhub.files import Package
from adapterhub.layouts.checkpoint import diffusers
from adapterhub.layouts.checkpoint.places import key
from adapterhub.tensors import LazyTensor
from adapterhub.train.base import Base, canonical, opened
from adapterhub.train.beginning import begun, subject
from adapterhub.train.identifiers import warned
from adapterhub.train.loop import Loop, Watch
from adapterhub.train.prior import prior
from adapterhub.train.results import Made, report, stored
from adapterhub.train.whole import ensure_free, ensure_own, written

ARCHITECTURES = ("sd1", "sd2", "sdxl")


def train(
    settings: DreamBoothSettings, *, resume: bool = False, force: bool = False, watch: Watch | None = None
) -> Training:
    """Trains a whole model as `settings` say and writes it; what goes wrong does so before the first step, wherever it can."""
    ensure_free(settings)
    with (
        begun(settings, resume=resume, force=force) as accelerator,
        opened(settings.base, ARCHITECTURES) as base,
        files.read(base.folder) as package,
    ):
        concepts = [subject(settings, base, [settings.prompt]), *prior(settings, base, accelerator)]
        odd = warned(settings.prompt, base, settings.class_prompt)
        ensure_own(base.folder)
        attach(base, settings)
        loop = Loop(settings, base, concepts, accelerator, watch=watch)
        loop.run()
        made = Made("dreambooth", loop, adapter(base, package), settings.layouts, problems=odd)
        return report(*written(made, package)) if accelerator.is_main_process else report(made, [])


def attach(base: Base, settings: DreamBoothSettings) -> None:
    """All layers of the UNet are trained (3.2), and those of the text encoders on request; the VAE never is."""
    base.unet.requires_grad_(True)
    for encoder in base.encoders.values():
        encoder.requires_grad_(settings.text_encoder)


def adapter(base: Base, package: Package) -> Adapter:
    """The model in `package`, the base's folder, with what was trained in the place of its own weights, in float32."""
    tensors: dict[Key, LazyTensor] = dict(diffusers.LAYOUT.decode(package).adapter.tensors)
    for component, module in base.modules().items():
        for name, weight in module.named_parameters():
            if weight.requires_grad:
                tensors[key(f"{component}.{canonical(base, component, name)}")] = stored(weight)
    return Adapter(Kind.CHECKPOINT, base.architecture, tensors)
