"""What comes before the first step of every training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState

from adapterhub.documents import TrainingSettings
from adapterhub.errors import OutputExists, UsageError
from adapterhub.train import state
from adapterhub.train.base import Base
from adapterhub.train.concept import Concept, ensure_short
from adapterhub.train.pictures import load
from adapterhub.train.settings import CONFIG, as_toml


@contextmanager
def begun(settings: TrainingSettings, *, resume: bool = False, force: bool = False) -> Iterator[Accelerator]:
    """Accelerate for a training, and its output's folder with its settings in it.

    A folder that holds something is refused unless the training is to `resume` there, or begins anew by `force`.
    """
    folder = Path(settings.output)
    for name in ("base", "images"):
        if (path := Path(getattr(settings, name))).exists() and path.resolve().is_relative_to(folder.resolve()):
            raise UsageError(f"{name} lies in {folder}, where results take the place of what is there",
                             mend="Give another output folder.")  # fmt: skip
    if folder.exists() and not folder.is_dir():
        raise OutputExists(folder)
    if not resume and not force and folder.is_dir() and any(folder.iterdir()):
        raise OutputExists(folder) if not state.found(folder) else UsageError(
            f"{folder} holds a training that was stopped", mend="Give --resume to go on with it, or --force to begin anew.")  # fmt: skip
    AcceleratorState._reset_state()  # of an earlier training in this process, whose precision may have been another
    accelerator = Accelerator(
        mixed_precision=settings.precision,
        log_with=list(settings.trackers) or None,
        project_dir=settings.output,
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    accelerator.wait_for_everyone()  # every process has looked at the folder before one writes into it
    if accelerator.is_main_process:
        if not resume:
            state.remove(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(as_toml(settings), "utf-8")
    yield accelerator


def subject(settings: TrainingSettings, base: Base, texts: Sequence[str]) -> Concept:
    """The pictures to be learned, each with its own caption, or with any of `texts`. UsageError for one that has neither;
    RefusedInput for a caption that is too long.
    """
    pictures = load(Path(settings.images), captions=settings.captions)
    bare = [picture.name for picture in pictures if not picture.caption and not texts]
    if bare:
        raise UsageError(f"{bare[0]} has no caption{f', nor have {len(bare) - 1} others' if len(bare) > 1 else ''}",
                         mend="Give --prompt, or put captions beside the pictures: NAME.txt, or metadata.jsonl.")  # fmt: skip
    concept = Concept(
        "subject", pictures, [[picture.caption] if picture.caption else list(texts) for picture in pictures]
    )
    ensure_short(concept, base)
    return concept
