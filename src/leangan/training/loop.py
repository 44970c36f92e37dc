"""The one loop that trains everything."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from leangan.errors import LeanganError
from leangan.training import processes
from leangan.training.examples import Batch
from leangan.training.features import FeatureMatch
from leangan.training.losses import Objective
from leangan.training.run import RunFolder
from leangan.training.settings import TrainSettings
from leangan.training.watch import Watch

Progress = Callable[..., None]
_LOG_EVERY = 2.0
"""Seconds."""
_ROLLBACKS = 3
"""So often a run that diverges goes back and on at half the rate, before it gives up."""
_FABRIC: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


class Lessons(Protocol):
    """Where batches come from."""

    def at(self, step: int, batch: int, seed: int, place: slice) -> Batch:
        """The batch of a step: its part at `place`, and nothing depends on what was read before."""
        ...


class Adversary(Protocol):
    """A network that learns to tell what is made from what is wanted."""

    def terms(self, made: Tensor, batch: Batch) -> dict[str, Tensor]:
        """What the student is to make smaller."""
        ...

    def learn(self, made: Tensor, batch: Batch, share: float) -> dict[str, float]:
        """One step of its own; what there is to log."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        ...


class Hook(Protocol):
    """Something that is done to the student after each step."""

    def after_step(self, student: Any, share: float) -> None:
        """`share` of the run is over."""
        ...


@dataclass
class Trained:
    """What a run came to."""

    steps: int
    seconds: float
    """Of training alone."""
    compute_share: float
    """Share of the time inside forward and backward passes, 0 to 1."""
    losses: dict[str, float]
    """The last of each kind."""
    rollbacks: int


def train(
    student: nn.Module,
    objective: Objective | None,
    examples: Lessons,
    settings: TrainSettings,
    run: RunFolder,
    *,
    penalty: Callable[[Any], Tensor] | None = None,
    features: FeatureMatch | None = None,
    adversary: Adversary | None = None,
    hooks: Sequence[Hook] = (),
    show: Callable[[nn.Module, int], None] | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train `student` in place until the settings' steps or time are over.

    A run that was cut short goes on from its last checkpoint; on as many threads it ends with the
    same weights as one that was not.

    Args:
        student: takes a batch's inputs and returns a tuple, the first of which is judged.
        objective: compares it with the teacher's output; None where the adversary alone judges.
        examples: to learn from.
        settings: of the run. `precision` is settled, not "auto".
        run: its folder.
        penalty: added to the losses, of the student's weights alone.
        features: compares feature maps that the student puts out behind its outputs; what it
            has to train learns along.
        adversary: a discriminator that learns beside.
        hooks: called after each step.
        show: called as show(student, step) now and then, to draw samples.
        progress: called as progress(message, done, total).

    Raises:
        LeanganError: the loss diverges again and again.
    """
    torch.manual_seed(settings.seed)
    fabric = _fabric(settings)
    modules = [student] if features is None else [student, features]
    trained = [p for m in modules for p in m.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, settings.lr, (settings.beta, 0.99), fused=True)
    model, optimizer = fabric.setup(student, optimizer)
    average = copy.deepcopy(student.state_dict()) if settings.ema else None
    watch = Watch()
    step, before, rollbacks, damping, computing = 0, 0.0, 0, 1.0, 0.0

    def everything(elapsed: float) -> dict[str, Any]:
        return {
            "step": step, "seconds": elapsed, "computing": computing, "damping": damping,
            "rollbacks": rollbacks, "watch": watch.to_json(), "student": student.state_dict(),
            "optimizer": optimizer.state_dict(), "average": average,
            "adversary": adversary.state_dict() if adversary else None,
            "hooks": [vars(hook) for hook in hooks],
            "features": features.state_dict() if features is not None else None,
        }  # fmt: skip

    def restore(state: dict[str, Any]) -> None:
        nonlocal step, before, damping, rollbacks, average, watch, computing
        step, before, computing = state["step"], state["seconds"], state["computing"]
        damping, rollbacks, watch = state["damping"], state["rollbacks"], Watch(**state["watch"])
        student.load_state_dict(state["student"])
        optimizer.load_state_dict(state["optimizer"])
        average = state["average"]
        if features is not None:
            features.load_state_dict(state["features"])
        if adversary:
            adversary.load_state_dict(state["adversary"])
        for hook, facts in zip(hooks, state["hooks"], strict=True):
            vars(hook).update(facts)

    if (state := run.load()) is not None:
        restore(state)
        run.forget_after(step)
    else:
        run.save(everything(0.0))
    fabric.barrier()
    start = saved = logged = shown = time.monotonic()
    while True:
        elapsed = before + time.monotonic() - start
        share = step / settings.steps if settings.steps else elapsed / (settings.seconds or 1)
        share = _agreed(fabric, share)
        if share >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * damping * _rate(share, settings.warmup)
        place = slice(fabric.global_rank, None, fabric.world_size)
        batch = _to(fabric, examples.at(step, settings.batch, settings.seed, place))

        began = time.monotonic()
        made, *more = model(*batch.inputs)
        terms = objective(made, batch.wanted) if objective else {}
        if penalty:
            terms["penalty"] = penalty(student)
        if features is not None:
            terms["features"] = features(more, batch.inputs)
        if adversary:
            terms |= adversary.terms(made, batch)
        loss = torch.stack(list(terms.values())).sum()
        optimizer.zero_grad()
        fabric.backward(loss)
        computing += time.monotonic() - began

        wrong = watch.see({name: float(term.detach()) for name, term in terms.items()})
        if wrong:
            if rollbacks == _ROLLBACKS:
                raise LeanganError(
                    f"Training diverged at step {step}: {wrong}, again after {rollbacks} returns "
                    "to an earlier checkpoint at half the rate. Take a smaller --lr."
                )
            last = run.load()
            assert last is not None
            count, damped = rollbacks + 1, damping / 2
            restore(last)
            rollbacks, damping = count, damped
            before, start = elapsed, time.monotonic()  # lost time is lost
            run.save(everything(before))
            if progress:
                progress(f"Diverged: {wrong}; back to step {step}, at half the rate")
            continue
        fabric.clip_gradients(model, optimizer, max_norm=settings.clip, error_if_nonfinite=False)
        optimizer.step()
        told: dict[str, float] = {}
        if adversary:
            began = time.monotonic()
            told = adversary.learn(made.detach(), batch, share)
            computing += time.monotonic() - began
        for hook in hooks:
            hook.after_step(student, share)
        if average is not None:
            _follow(average, student.state_dict(), settings.ema)
        step += 1

        now = time.monotonic()
        elapsed = before + now - start
        if not processes.is_first():
            continue
        if now - logged > _LOG_EVERY:
            facts = {**watch.parts, **told, "lr": optimizer.param_groups[0]["lr"],
                     "steps_per_second": step / max(elapsed, 1e-9)}  # fmt: skip
            run.log(step, facts)
            logged = now
            if progress:
                progress(_words(watch, share, elapsed), round(share * 1000), 1000)
        if now - saved > settings.save_every:
            run.save(everything(elapsed))
            saved = now
        if show and now - shown > settings.show_every:
            show(student, step)
            shown = time.monotonic()
            start += shown - now  # drawing is no training
    elapsed = before + time.monotonic() - start
    if average is not None:
        student.load_state_dict(average)
    run.close()
    share_computing = computing / max(elapsed, 1e-9)
    return Trained(step, elapsed, min(1.0, share_computing), dict(watch.parts), rollbacks)


def _fabric(settings: TrainSettings) -> Fabric:
    count = processes.count()
    cuda = torch.cuda.is_available()
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = Fabric(
        accelerator="cuda" if cuda else "cpu",
        devices=count if count > 1 else 1,
        strategy="ddp" if count > 1 else "auto",
        precision=_FABRIC[settings.precision],
    )
    if count > 1:
        fabric.launch()
    return fabric


def _rate(share: float, warmup: float) -> float:
    """1 at the highest, when the warm-up ends; 0 when the run does."""
    if share < warmup:
        return share / warmup
    return 0.5 * (1 + math.cos(math.pi * (share - warmup) / (1 - warmup)))


def _agreed(fabric: Fabric, share: float) -> float:
    """The clock of the first process counts for all."""
    return float(fabric.broadcast(share)) if fabric.world_size > 1 else share


def _to(fabric: Fabric, batch: Batch) -> Batch:
    layout = torch.channels_last

    def move(x: Tensor | None) -> Any:
        if x is None:
            return None
        moved = fabric.to_device(x)
        return moved.contiguous(memory_format=layout) if moved.dim() == 4 else moved

    return Batch(tuple(move(x) for x in batch.inputs), move(batch.wanted), move(batch.truth))


def _follow(average: dict[str, Tensor], now: dict[str, Tensor], decay: float) -> None:
    for name, value in now.items():
        if value.is_floating_point():
            average[name].lerp_(value, 1 - decay)
        else:
            average[name].copy_(value)


def _words(watch: Watch, share: float, elapsed: float) -> str:
    left = elapsed * (1 - share) / max(share, 1e-3)
    parts = ", ".join(f"{name} {value:.4g}" for name, value in watch.parts.items())
    minutes, seconds = divmod(int(left), 60)
    return f"Training: {parts}, {minutes}:{seconds:02d} left"
