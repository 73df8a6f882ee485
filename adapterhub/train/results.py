"""What a training leaves behind: the file in every layout asked for, what it was made of in its metadata, samples, and a report."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

import adapterhub.architectures as architectures
import adapterhub.layouts as layouts
from adapterhub import files
from adapterhub.adapter import Adapter, Kind
from adapterhub.documents import Problem, Recipe, Source, Target, Technique, Training
from adapterhub.errors import LossyConversion
from adapterhub.layouts.base import Form
from adapterhub.metadata import HASHED, renewed
from adapterhub.operations.convert import convert
from adapterhub.operations.problems import error
from adapterhub.operations.recipe import FIELD, TRAINED, as_text, named, respelled
from adapterhub.operations.validate import validate
from adapterhub.tensors import LazyTensor
from adapterhub.train import samples, state
from adapterhub.train.loop import Loop
from adapterhub.train.rehearsal import small
from adapterhub.train.settings import shown


@dataclass(frozen=True)
class Made:
    """What a `technique` made: an adapter, the `layouts` that it goes into, more fields of metadata, and what was odd before; `names`
    are those of files that are not called as the folder, by layout.
    """

    technique: Technique
    loop: Loop
    adapter: Adapter
    layouts: Sequence[str]
    facts: Mapping[str, str] = field(default_factory=dict)
    problems: Sequence[Problem] = ()
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return Path(self.loop.settings.output)

    def name(self, layout: str) -> str:
        """What the file in a layout is called: as the folder, with the layout behind it where that is not the first of its suffix."""
        if layout in self.names:
            return self.names[layout]
        stem = self.folder.resolve().name
        suffixes = {one: next(iter(layouts.get(one, self.adapter.kind).containers)) for one in self.layouts}
        first = next(one for one in self.layouts if suffixes[one] == suffixes[layout])
        return f"{stem}{suffixes[layout]}" if layout == first else f"{stem}-{layout}{suffixes[layout]}"

    @property
    def recipe(self) -> Recipe:
        """How it was made, without paths."""
        return Recipe(command=f"train {self.technique}", version=version("adapterhub"), parameters=shown(self.loop.settings),
                      inputs=[self.loop.base.ingredient])  # fmt: skip


def stored(tensor: Tensor) -> LazyTensor:
    """A tensor as files hold it, in float32; its bytes are taken when they are written."""
    plain = tensor.detach().to("cpu", torch.float32).contiguous()
    return LazyTensor("F32", tuple(plain.shape), lambda: (plain.numpy().tobytes(),))


def finish(made: Made) -> Training:
    """Writes the adapter in its first layout, and converts that into the others; samples, the curve and the report beside them.

    Every process gets the report; the first one writes. The states of the training go last of all.
    """
    done = list(written(made)) if made.loop.accelerator.is_main_process else []
    lost = [one for one in done if isinstance(one, Problem)]
    return report(replace(made, problems=[*made.problems, *lost]), [one for one in done if isinstance(one, Target)])


def written(made: Made) -> Iterator[Target | Problem]:
    """The files of an adapter, each told when it is there; or why one is not."""
    kind, first = made.adapter.kind, made.folder / made.name(made.layouts[0])
    layout = layouts.get(made.layouts[0], kind)
    form = Form(next(iter(layout.containers.values())), first.stem)
    adapter = made.adapter.with_metadata({**made.adapter.metadata, **metadata(made)})
    encoded = layout.encode(adapter) if kind is Kind.LORA else layout.encode(adapter, form)  # type: ignore[attr-defined] # by kind
    digests = files.write(encoded.package, first, force=True, hashed=HASHED)
    yield _target(first, layout.name, digests)
    for name in made.layouts[1:]:
        path = made.folder / made.name(name)
        try:
            with respelled():
                done = convert(first, path, to=name, architecture=made.adapter.architecture, force=True)
        except LossyConversion as loss:  # what was trained is there, and every other layout
            yield error("not-written", name, f"the result has no place in the layout {name}: {loss.message}",
                        f"adapterhub convert --to {name} --allow-loss writes what has.")  # fmt: skip
            continue
        yield done.target


def of_a1111(loop: Loop, name: str) -> dict[str, str]:
    """The fields that A1111 writes into what it trains; its short hash of a model is the beginning of the sha256."""
    base = loop.base.ingredient
    return {"name": name, "step": str(loop.settings.steps), "sd_checkpoint": str(base.sha256)[:10],
            "sd_checkpoint_name": str(base.name)}  # fmt: skip


def _target(path: Path, layout: str, digests: Mapping[str, str | None]) -> Target:
    return Target(path=str(path), sha256=next(iter(digests.values())) if path.is_file() else None, layout=layout)


def metadata(made: Made) -> dict[str, str]:
    """What readers filter by, what Kohya's files tell of a training, and all of it in our own field."""
    settings, loop = made.loop.settings, made.loop
    told = {"technique": made.technique, "settings": shown(settings), "data": loop.data, "loss": mean_loss(loop.losses)}
    fields = {
        **made.facts,
        "ss_output_name": named(made.folder),
        "ss_max_train_steps": str(settings.steps),
        "ss_steps": str(settings.steps),
        "ss_learning_rate": str(settings.learning_rate),
        "ss_optimizer": settings.optimizer.replace(":", "."),
        "ss_seed": str(settings.seed),
        "ss_resolution": f"({loop.sampling.side}, {loop.sampling.side})",
        "ss_num_train_images": str(len(loop.concepts[0].pictures)),
        "ss_sd_model_name": str(loop.base.ingredient.name),
        **({"modelspec.trigger_phrase": prompt} if (prompt := getattr(settings, "prompt", None)) else {}),
        TRAINED: json.dumps(told),
        FIELD: as_text(made.recipe),
    }
    return renewed(fields, architectures.get(made.adapter.architecture), named(made.folder), made.adapter.kind)


def mean_loss(losses: Sequence[float]) -> float | None:
    """The mean of the last tenth."""
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last) if last else None


def report(made: Made, targets: Sequence[Target]) -> Training:
    """Samples, the curve of losses, and what validate says of the files; the states are not needed any more."""
    loop, folder = made.loop, made.folder
    pictures: list[Path] = []
    if loop.accelerator.is_main_process:
        pictures = [
            path for path in (loop.sample(loop.settings.steps), samples.curve(loop.losses, folder / "loss.png")) if path
        ]
        state.remove(folder)
    loop.accelerator.wait_for_everyone()
    found = [*small(loop), *made.problems, *(one for target in targets for one in validate(target.path).problems)]
    return Training(
        technique=made.technique,
        base=Source(path=loop.settings.base, sha256=loop.base.ingredient.sha256),
        files=list(targets),
        steps=len(loop.losses),
        loss=mean_loss(loop.losses),
        trained=loop.trained,
        images=len(loop.concepts[0].pictures),
        processes=loop.processes,
        samples=[str(path) for path in pictures],
        problems=list(dict.fromkeys(found)),
        recipe=made.recipe,
        seconds=round(time.perf_counter() - loop.began, 3),
    )
