"""The one loop of all four trainers: draw, predict, weigh, step.

Accelerate brings device, mixed precision and processes. What a step draws is a function of seed and step (`randomness`), for the
whole batch; each process computes every n-th sample of it, in micro-batches. So one process, accumulation and several processes
agree up to the rounding of sums, and a resumed run ends with the bytes of one that was never stopped.
"""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from torch import nn

from adapterhub.documents import TrainingSettings
from adapterhub.errors import RefusedInput, UsageError
from adapterhub.train import samples, state
from adapterhub.train.base import Base
from adapterhub.train.concept import Concept, Draw, Encoder, sampling_of
from adapterhub.train.conditioning import Condition, Conditioner
from adapterhub.train.denoiser import Batch, Denoiser
from adapterhub.train.objective import Objective, with_zero_terminal_snr
from adapterhub.train.randomness import number

LOG = "log.jsonl"
_HALVES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Progress(NamedTuple):
    """A step that was made: its number from 1, its loss, the norm of its gradient, and seconds since training began."""

    step: int
    steps: int
    loss: float
    norm: float
    seconds: float


Watch = Callable[[Progress], None]


@dataclass
class Loop:
    """What a training is made of: `beside` holds what is trained outside of the base's modules; `after` is called behind every
    optimizer step, `watch` told of it.
    """

    settings: TrainingSettings
    base: Base
    concepts: Sequence[Concept]
    accelerator: Accelerator
    beside: nn.Module | None = None
    after: Callable[[], None] | None = None
    watch: Watch | None = None
    losses: list[float] = field(default_factory=list)
    trained: int = 0
    began: float = field(default_factory=time.perf_counter)

    @property
    def processes(self) -> int:
        return int(self.accelerator.num_processes)

    @cached_property
    def data(self) -> dict[str, Any]:
        """What is trained on, without a name or a path."""
        return {"base": self.base.ingredient.sha256, **{concept.name: concept.told for concept in self.concepts}}

    def run(self) -> None:
        """All steps that are left, from the last state in the output's folder on."""
        if self.settings.batch < self.processes:
            raise UsageError(f"a batch of {self.settings.batch} cannot be shared by {self.processes} processes",
                             mend="Give --batch at least that many.")  # fmt: skip
        self._prepare()
        first = self._restore()
        with _asked_to_stop() as asked, self._log(first) as tell:
            for step in range(first, self.settings.steps):
                loss, norm, stop = self._step(step, asked)
                self.losses.append(loss)
                done = Progress(step + 1, self.settings.steps, loss, norm, time.perf_counter() - self.began)
                tell(done)
                self._between(done, stop=stop)
        self.accelerator.end_training()

    def _prepare(self) -> None:
        settings, base, device = self.settings, self.base, self.accelerator.device
        signal_ = base.scheduler.alphas_cumprod.float()
        velocity = (settings.prediction or base.scheduler.config.prediction_type) == "v_prediction"
        self.objective = Objective(
            with_zero_terminal_snr(signal_) if settings.zero_terminal_snr else signal_, velocity, settings.snr_gamma
        )
        self.sampling = sampling_of(settings, base)
        self.encoder = Encoder(base.vae.to(device), device, self.sampling)
        self.conditioner = Conditioner(base)
        denoiser = Denoiser(base.unet, self.conditioner, self.objective, self.beside)
        self.parameters = {name: one for name, one in denoiser.named_parameters() if one.requires_grad}
        self.trained = sum(one.numel() for one in self.parameters.values())
        _freeze(denoiser, _HALVES[settings.precision])
        if settings.gradient_checkpointing:
            base.unet.enable_gradient_checkpointing()
            for encoder in base.encoders.values():
                encoder.gradient_checkpointing_enable()
        self.optimizer = _made(settings, self.parameters.values())
        self.schedule = get_scheduler(settings.schedule, self.optimizer, settings.warmup, settings.steps)
        self.denoiser, self.prepared = self.accelerator.prepare(denoiser.train().to(device), self.optimizer)
        self._conditions: dict[str, Condition] = {}

    def _restore(self) -> int:
        found = state.restored(Path(self.settings.output), self.settings, self.data)
        if found is None:
            return 0
        for name, parameter in self.parameters.items():
            parameter.data.copy_(found.trained[name])
        self.optimizer.load_state_dict(found.rest["optimizer"])
        self.schedule.load_state_dict(found.rest["schedule"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(found.rest["scaler"])
        self.losses[:] = found.rest["losses"]
        return found.step

    def save(self, step: int) -> None:
        """Writes a state that a later run goes on from."""
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            rest = {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict(), "losses": self.losses,
                    "scaler": scaler.state_dict() if scaler is not None else {}}  # fmt: skip
            trained = {name: one.detach().cpu().contiguous() for name, one in self.parameters.items()}
            state.save(Path(self.settings.output), state.State(step, trained, rest), self.settings, self.data)

    def _step(self, step: int, asked: threading.Event) -> tuple[float, float, bool]:
        """One optimizer step: its loss, the norm of its gradient, and whether any process was asked to stop."""
        torch.manual_seed(number(self.settings.seed, "dropout", step))
        draws = [draw for concept in self.concepts for draw in concept.draws(self.sampling, step)]
        mine = draws[self.accelerator.process_index :: self.processes]
        size = self.settings.micro_batch or len(mine)
        parts = [mine[start : start + size] for start in range(0, len(mine), size)]
        total = torch.zeros((), device=self.accelerator.device)
        self.prepared.zero_grad()
        for part in parts:
            with nullcontext() if part is parts[-1] else self.accelerator.no_sync(self.denoiser):
                weights = torch.tensor([draw.weight for draw in part], device=self.accelerator.device)
                loss = (self.denoiser(self._batch(part)) * weights).sum()
                self.accelerator.backward(
                    loss * self.processes
                )  # data-parallel runs average gradients: this makes it a sum
                total += loss.detach()
        told = self.accelerator.reduce(torch.stack([total, total.new_tensor(float(asked.is_set()))]), "sum")
        if not math.isfinite(found := float(told[0])):
            raise _broken(step, draws, self.settings)
        norm = self._clipped()
        self.prepared.step()
        self.schedule.step()
        if self.after is not None:
            self.after()
        return found, norm, bool(told[1] > 0)

    def _clipped(self) -> float:
        limit = self.settings.max_grad_norm or math.inf
        return float(self.accelerator.clip_grad_norm_(list(self.parameters.values()), limit))

    def _batch(self, part: Sequence[Draw]) -> Batch:
        device = self.accelerator.device
        captions = [draw.caption for draw in part]
        trained = self.conditioner.is_trained
        side = float(self.sampling.side)
        return Batch(
            torch.stack([draw.concept.latents(draw, self.encoder) for draw in part]).to(device),
            torch.stack([draw.noise for draw in part]).to(device),
            torch.tensor([draw.t for draw in part], device=device),
            [ids.to(device) for ids in self.conditioner.tokens(captions)] if trained else None,
            None if trained else self._known(captions),
            torch.tensor([side, side, 0.0, 0.0, side, side], device=device).repeat(len(part), 1),
        )

    @torch.no_grad()
    def _known(self, captions: Sequence[str]) -> Condition:
        """The conditions of captions, each computed once: the encoders do not change."""
        for caption in dict.fromkeys(captions):
            if caption not in self._conditions:
                ids = [one.to(self.accelerator.device) for one in self.conditioner.tokens([caption])]
                with self.accelerator.autocast():
                    self._conditions[caption] = self.conditioner(ids)
        known = [self._conditions[caption] for caption in captions]
        pooled = [one.pooled for one in known if one.pooled is not None]
        return Condition(torch.cat([one.states for one in known]), torch.cat(pooled) if pooled else None)

    def _between(self, done: Progress, *, stop: bool) -> None:
        settings = self.settings
        if self.watch is not None and self.accelerator.is_main_process:
            self.watch(done)
        if stop or (settings.save_every and done.step % settings.save_every == 0 and done.step < settings.steps):
            self.save(done.step)
        if stop:
            raise KeyboardInterrupt
        if settings.sample_every and done.step % settings.sample_every == 0 and done.step < settings.steps:
            self.sample(done.step)
            self.accelerator.wait_for_everyone()

    def sample(self, step: int) -> Path | None:
        """A grid of samples in the output's folder; None where none are asked for, or another process draws them."""
        if not self.settings.sample_count or not self.accelerator.is_main_process:
            return None
        with self.accelerator.autocast():
            return samples.sheet(self.settings, self.base, self.prompts(), self.sampling.side, step)

    def prompts(self) -> Sequence[str]:
        """What is sampled: what the settings say, or the first caption of each concept."""
        return self.settings.sample_prompts or [concept.captions[0][0] for concept in self.concepts]

    @contextmanager
    def _log(self, first: int) -> Iterator[Callable[[Progress], None]]:
        """A line of JSON a step; what a stopped run wrote beyond its state is cut off."""
        if not self.accelerator.is_main_process:
            yield lambda done: None
            return
        path = Path(self.settings.output) / LOG
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = path.read_text("utf-8").splitlines(keepends=True)[:first] if path.is_file() else []
        if self.settings.trackers:
            self.accelerator.init_trackers("adapterhub")
        with path.open("w", encoding="utf-8") as log:
            log.writelines(kept)

            def tell(done: Progress) -> None:
                rate = self.schedule.get_last_lr()[0]
                log.write(
                    json.dumps({"step": done.step, "loss": done.loss, "norm": done.norm, "learning_rate": rate}) + "\n"
                )
                log.flush()
                if self.settings.trackers:
                    self.accelerator.log({"loss": done.loss, "norm": done.norm, "learning_rate": rate}, step=done.step)

            yield tell


def _made(settings: TrainingSettings, parameters: Any) -> Any:
    module, _, name = settings.optimizer.partition(":")
    try:
        return getattr(import_module(module), name)(
            list(parameters), lr=settings.learning_rate, **settings.optimizer_options
        )
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UsageError(f"the optimizer {settings.optimizer} cannot be made: {error}",
                         mend="Give MODULE:CLASS of one that is installed, and options that it takes.") from error  # fmt: skip


def _freeze(denoiser: nn.Module, dtype: torch.dtype) -> None:
    """What is not trained in `dtype`, what is trained in float32: optimizers lose small steps in anything less."""
    for parameter in denoiser.parameters():
        parameter.data = parameter.data.to(torch.float32 if parameter.requires_grad else dtype)


@contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, so that a run ends between two steps; a second SIGINT ends it at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def stop(number: int, frame: Any) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()

    before = {one: signal.signal(one, stop) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _broken(step: int, draws: Sequence[Draw], settings: TrainingSettings) -> RefusedInput:
    names = sorted({draw.concept.pictures[draw.picture].name for draw in draws})
    why = "fp16 overflows in some models: --precision bf16 does not. " if settings.precision == "fp16" else ""
    return RefusedInput(f"step {step + 1}: the loss is not a finite number, with {', '.join(names[:4])}"
                        f"{' and others' * (len(names) > 4)}",
                        mend=f"{why}Lower --learning-rate; the last state in the output's folder is from before this.")  # fmt: skip
