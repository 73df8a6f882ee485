"""The one loop of all four trainers: draw, predict, weigh, step.

Accelerate brings device, mixed precision and processes. What a step draws is a function of seed and step (`randomness`), for the
whole batch; each process computes every n-th sample of it, in micro-batches. So one process, accumulation and several processes
agree up to the rounding of sums, and a resumed run ends with the bytes of one that was never stopped.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adapterhub.documents import TrainingSettings
from adapterhub.errors import UsageError
from adapterhub.train import log, optimizer, rehearsal, samples, state
from adapterhub.train.base import Base
from adapterhub.train.beginning import Run, settled
from adapterhub.train.concept import Concept, Draw, Encoder, sampling_of
from adapterhub.train.conditioning import Condition, Conditioner
from adapterhub.train.denoiser import Batch, Denoiser
from adapterhub.train.log import Progress, Watch
from adapterhub.train.objective import objective_of
from adapterhub.train.randomness import number
from adapterhub.train.stopping import asked_to_stop, broken

__all__ = ["Loop", "Progress", "Watch"]

_HALVES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_CONDITIONS = 1024
"""Captions whose conditions are kept: of SDXL's 0.6 MB each."""


@dataclass
class Loop:
    """What a training is made of: `beside` holds what is trained outside of the base's modules; `after` is called behind every
    optimizer step, `watch` told of it.
    """

    settings: TrainingSettings
    base: Base
    concepts: Sequence[Concept]
    accelerator: Run
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
        first = self._restore() if self.accelerator.resumes else 0
        rehearsal.stop(self, first)
        settled(self.settings, self.accelerator)
        with asked_to_stop() as asked, self._told(first) as tell:
            for step in range(first, self.settings.steps):
                loss, norm, stop = self._step(step, asked)
                self.losses.append(loss)
                done = Progress(step + 1, self.settings.steps, loss, norm, time.perf_counter() - self.began)
                tell(done)
                self._between(done, stop=stop)
        self.accelerator.finish_trackers()

    def _prepare(self) -> None:
        settings, base, device = self.settings, self.base, self.accelerator.device
        self.objective = objective_of(settings, base.scheduler)
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
                # renamed in transformers 5
                getattr(encoder, "activation_checkpointing_enable", encoder.gradient_checkpointing_enable)()
        self.optimizer, self.schedule = optimizer.made(settings, self.parameters.values())
        # SDXL reads its first text encoder below its last layer: what is trained there gets no gradient
        self.accelerator.allow_unused(base.architecture == "sdxl" and self.conditioner.is_trained)
        self.denoiser, self.prepared = self.accelerator.prepare(denoiser.train().to(device), self.optimizer)
        self._conditions: dict[str, Condition] = {}

    def _restore(self) -> int:
        found = state.restored(Path(self.settings.output), self.settings, self.data)
        self._ensure_same(0 if found is None else found.step)
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

    def _ensure_same(self, step: int) -> None:
        """UsageError where processes on several machines do not see the same state."""
        steps = self.accelerator.gather(torch.tensor([step], device=self.accelerator.device)).tolist()
        if {*steps} != {step}:
            raise UsageError(f"processes would go on from the steps {', '.join(map(str, sorted({*steps})))}",
                             mend="Put the output's folder where every machine sees it.")  # fmt: skip

    def save(self, step: int) -> None:
        """Writes a state that a later run goes on from."""
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            rest = {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict(), "losses": self.losses,
                    "scaler": scaler.state_dict() if scaler is not None else {}}  # fmt: skip
            trained = {name: one.detach().cpu().contiguous() for name, one in self.parameters.items()}
            state.save(Path(self.settings.output), state.State(step, trained, rest), self.settings, self.data)
        self.accelerator.wait_for_everyone()  # a launcher kills those that are left when the first process ends

    def _step(self, step: int, asked: threading.Event) -> tuple[float, float, bool]:
        """One optimizer step: its loss, the norm of its gradient, and whether any process was asked to stop."""
        torch.manual_seed(number(self.settings.seed, f"dropout {self.accelerator.process_index}", step))
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
                # data-parallel runs average gradients: this makes it a sum
                self.accelerator.backward(loss * self.processes)
                total += loss.detach()
        told = self.accelerator.reduce(torch.stack([total, total.new_tensor(float(asked.is_set()))]), "sum")
        if not math.isfinite(found := float(told[0])):
            raise broken(step, "the loss", draws, self.settings, self.denoiser, self.encoder)
        norm = self._clipped()
        if (
            not math.isfinite(norm) and self.accelerator.scaler is None
        ):  # a scaler leaves such a step out, and scales less
            raise broken(step, "the gradient", draws, self.settings, self.denoiser, self.encoder)
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
        different = list(dict.fromkeys(captions))
        trained = self.conditioner.is_trained
        return Batch(
            torch.stack([draw.concept.latents(draw, self.encoder) for draw in part]).to(device),
            torch.stack([draw.noise for draw in part]).to(device),
            torch.tensor([draw.t for draw in part], device=device),
            [ids.to(device) for ids in self.conditioner.tokens(different)] if trained else None,
            torch.tensor([different.index(caption) for caption in captions], device=device),
            None if trained else self._known(captions),
            torch.tensor([draw.concept.sizes(draw, self.sampling.side) for draw in part], device=device),
        )

    @torch.no_grad()
    def _known(self, captions: Sequence[str]) -> Condition:
        """The conditions of captions, each computed once: the encoders do not change."""
        known = [self._condition(caption) for caption in captions]
        pooled = [one.pooled for one in known if one.pooled is not None]
        return Condition(torch.cat([one.states for one in known]), torch.cat(pooled) if pooled else None)

    def _condition(self, caption: str) -> Condition:
        if caption not in self._conditions:
            while len(self._conditions) >= _CONDITIONS:
                self._conditions.pop(next(iter(self._conditions)))
            ids = [one.to(self.accelerator.device) for one in self.conditioner.tokens([caption])]
            with self.accelerator.autocast():
                self._conditions[caption] = self.conditioner(ids)
        return self._conditions[caption]

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
        self.denoiser.eval()
        try:
            with self.accelerator.autocast():
                return samples.sheet(self.settings, self.base, self.prompts(), self.sampling.side, step)
        finally:
            self.denoiser.train()

    def prompts(self) -> Sequence[str]:
        """What is sampled: what the settings say, or the first caption of each concept."""
        return self.settings.sample_prompts or [concept.captions[0][0] for concept in self.concepts]

    @contextmanager
    def _told(self, first: int) -> Iterator[Callable[[Progress], None]]:
        """What tells the log and the trackers of a step."""
        if not self.accelerator.is_main_process:
            yield lambda done: None
            return
        if self.settings.trackers:
            self.accelerator.init_trackers("adapterhub")
        with log.written(Path(self.settings.output), first) as write:

            def tell(done: Progress) -> None:
                values = {"loss": done.loss, "norm": done.norm, "learning_rate": self.schedule.get_last_lr()[0]}
                write({"step": done.step, **values})
                if self.settings.trackers:
                    self.accelerator.log(values, step=done.step)

            yield tell


def _freeze(denoiser: nn.Module, dtype: torch.dtype) -> None:
    """What is not trained in `dtype`, what is trained in float32: optimizers lose small steps in anything less."""
    for parameter in denoiser.parameters():
        parameter.data = parameter.data.to(torch.float32 if parameter.requires_grad else dtype)
