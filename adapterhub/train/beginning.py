"""What comes before the first step of every training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, is_tensorboard_available, is_wandb_available

import adapterhub.layouts as layouts
from adapterhub.adapter import Kind
from adapterhub.documents import TrainingSettings
from adapterhub.errors import OutputExists, UsageError
from adapterhub.files import PNG
from adapterhub.train import state
from adapterhub.train.base import Base
from adapterhub.train.concept import Concept, ensure_short, sampling_of
from adapterhub.train.pictures import load
from adapterhub.train.settings import CONFIG, as_toml

PATIENCE = timedelta(hours=12)
"""How long processes wait for the first, which draws samples and pictures of the class."""
CLASS = "class"
"""The folder of pictures of the class, which alone keeps no training from beginning."""
_KINDS = {"lora": Kind.LORA, "textual-inversion": Kind.EMBEDDING, "hypernetwork": Kind.HYPERNETWORK, "dreambooth": Kind.CHECKPOINT}  # fmt: skip
_TRACKERS = {"tensorboard": is_tensorboard_available, "wandb": is_wandb_available}
_PLAIN = frozenset({DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU})
"""Every process has the whole model: nothing here shards one."""


class Run(Accelerator):  # type: ignore[misc] # it ships no types
    """Accelerate, and whether the run goes on from a state."""

    def __init__(self, *, resumes: bool, **options: Any) -> None:
        super().__init__(**options)
        self.resumes = resumes
        self.gradient_accumulation_steps = 1  # a launcher's accumulation would divide losses again

    def allow_unused(self, allowed: bool) -> None:
        """Whether something trained may get no gradient, which processes then have to look for at every step."""
        self.ddp_handler.find_unused_parameters = allowed

    def finish_trackers(self) -> None:
        """Ends the trackers, and leaves the processes together (Accelerate's end_training parts them)."""
        for tracker in self.trackers:
            tracker.finish()


@contextmanager
def begun(settings: TrainingSettings, *, resume: bool = False, force: bool = False) -> Iterator[Run]:
    """Accelerate for a training. Its output's folder is looked at, and written into by `settled`.

    A folder that holds something is refused unless the training is to `resume` there, or begins anew by `force`.
    """
    folder = Path(settings.output)
    for name in ("base", "images"):
        if (path := Path(getattr(settings, name))).exists() and path.resolve().is_relative_to(folder.resolve()):
            raise UsageError(f"{name} lies in {folder}, where results take the place of what is there",
                             mend="Give another output folder.")  # fmt: skip
    _ensure_free(folder, resume=resume, force=force)
    _ensure_known(settings)
    AcceleratorState._reset_state()  # of an earlier training in this process, whose precision may have been another
    yield _accelerated(settings, resumes=resume)


def _accelerated(settings: TrainingSettings, *, resumes: bool) -> Run:
    """UsageError for what the machine cannot do, and for processes that share one model."""
    try:
        accelerator = Run(
            resumes=resumes,
            mixed_precision=settings.precision,
            log_with=list(settings.trackers) or None,
            project_dir=settings.output,
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False), InitProcessGroupKwargs(timeout=PATIENCE)],
        )  # fmt: skip
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"this machine cannot train so: {error}", mend="Give another --precision, or start fewer processes.") from error  # fmt: skip
    if settings.precision == "fp16" and accelerator.device.type == "cpu":
        raise UsageError("fp16 takes a GPU, and there is none here", mend="Give --precision bf16, or leave it out.")
    if accelerator.distributed_type not in _PLAIN:
        raise UsageError(f"{accelerator.distributed_type.value} is not supported: every process has the whole model here",
                         mend="Start with torchrun.")  # fmt: skip
    accelerator.wait_for_everyone()  # every process has looked at the folder before one writes into it
    return accelerator


def _ensure_free(folder: Path, *, resume: bool, force: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise OutputExists(folder)
    holds = folder.is_dir() and any(path.name != CLASS for path in folder.iterdir())
    if force or not holds:
        return
    stopped = bool(state.found(folder))
    if not resume:
        raise OutputExists(folder) if not stopped else UsageError(
            f"{folder} holds a training that was stopped", mend="Give --resume to go on with it, or --force to begin anew.")  # fmt: skip
    if not stopped and not _is_unfinished(folder):
        raise UsageError(f"{folder} holds no training that was stopped", mend="Give another folder, or --force to begin anew.")  # fmt: skip


def _is_unfinished(folder: Path) -> bool:
    """Whether a run was killed there before its first state: it begins again."""
    return (folder / CONFIG).is_file() and not (folder / "loss.png").exists()


def _ensure_known(settings: TrainingSettings) -> None:
    """The layouts and trackers that are named are there, and the layouts are written: that is no news for the end of a training."""
    for name in getattr(settings, "layouts", None) or ():
        layout = layouts.get(name, _KINDS[settings.technique])
        if not layout.writes or PNG in layout.containers.values():
            raise UsageError(f"the result cannot be written in the layout {name}",
                             mend="adapterhub layouts shows what is written; pictures are made by convert.")  # fmt: skip
    for name in settings.trackers:
        if not _TRACKERS[name]():
            raise UsageError(f"the tracker {name} is not installed", mend=f"pip install {name}, or leave it out.")


def settled(settings: TrainingSettings, accelerator: Run) -> None:
    """The folder, with the settings in it; states of another training are removed. Everything was checked before."""
    folder = Path(settings.output)
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        if not accelerator.resumes:
            state.remove(folder)
        state.remove_unfinished(folder)
        (folder / CONFIG).write_text(as_toml(settings), "utf-8")
    accelerator.wait_for_everyone()


def subject(settings: TrainingSettings, base: Base, texts: Sequence[str]) -> Concept:
    """The pictures to be learned, each with its own caption, or with any of `texts`. UsageError for one that has neither;
    RefusedInput for a caption that is too long.
    """
    pictures = load(Path(settings.images), captions=settings.captions, side=sampling_of(settings, base).side)
    bare = [picture.name for picture in pictures if not picture.caption and not texts]
    if bare:
        raise UsageError(f"{bare[0]} has no caption{f', nor have {len(bare) - 1} others' if len(bare) > 1 else ''}",
                         mend="Give --prompt, or put captions beside the pictures: NAME.txt, or metadata.jsonl.")  # fmt: skip
    concept = Concept(
        "subject", pictures, [[picture.caption] if picture.caption else list(texts) for picture in pictures]
    )
    ensure_short(concept, base)
    return concept
