"""The one loop that trains everything."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

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
_SETTLING = 50
"""Batches that a BatchNorm's statistics are taken over, for averaged weights."""
_YOUNG = 10
"""At step n no more than (1 + n) / (10 + n) of the average is kept, as TensorFlow does it."""
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

    def to(self, device: torch.device) -> None:
        """Move to where the student is."""
        ...

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

    def state(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
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
        settings: of the run. `precision` and `lr` are settled.
        run: its folder.
        penalty: added to the losses, of the student's weights alone.
        features: compares feature maps that the student puts out behind its outputs; what it
            has to train learns along.
        adversary: a discriminator that learns beside.
        hooks: called after each step.
        show: called as show(student, step) now and then and in the end, to draw samples.
        progress: called as progress(message, done, total).

    Raises:
        LeanganError: the loss diverges again and again.
    """
    say = progress or (lambda message, done=None, total=None: None)
    torch.manual_seed(settings.seed)
    fabric = _fabric(settings)
    modules = [student] if features is None else [student, features]
    trained = [p for m in modules for p in m.parameters() if p.requires_grad]
    assert settings.lr is not None
    optimizer = torch.optim.Adam(trained, settings.lr, (settings.beta, 0.99), fused=True)
    model, optimizer = fabric.setup(student, optimizer)
    if features is not None:
        features.to(fabric.device)
    if adversary:
        adversary.to(fabric.device)
    average = copy.deepcopy(student.state_dict()) if settings.ema else None
    at, watch = Position(), Watch(may_rise=bool(hooks))
    began = 0.0, 0.0  # the share and seconds that time left is reckoned from
    kept = _Kept(at, watch, student, optimizer, average, features, adversary, hooks)
    state = run.load()
    if state is None:
        run.save(kept.state())
    else:
        kept.restore(state)
        run.forget_after(at.step)
    fabric.barrier()
    clock = _Clock(at.seconds)
    place = slice(fabric.global_rank, None, fabric.world_size)
    try:
        while (share := _share(fabric, at.step, clock.seconds(), settings)) < 1:
            for group in optimizer.param_groups:
                group["lr"] = settings.rate(share) * at.damping
            batch = _to(fabric, examples.at(at.step, settings.batch, settings.seed, place))

            with clock.computing():
                made, *more = model(*batch.inputs)
                with fabric.autocast():
                    terms = objective(made, batch.wanted) if objective else {}
                if penalty:
                    terms["penalty"] = penalty(student)
                if features is not None:
                    terms["features"] = features(more, batch.inputs)
                if adversary:
                    terms |= adversary.terms(made, batch)
                optimizer.zero_grad()
                fabric.backward(torch.stack(list(terms.values())).sum())

            wrong = watch.see(_seen(fabric, terms))
            if wrong:
                _go_back(kept, run, wrong)
                say(f"Diverged: {wrong}; back to step {at.step}, at half the rate")
                seconds = clock.seconds()
                began = _share(fabric, at.step, seconds, settings), seconds
                continue
            fabric.clip_gradients(
                model, optimizer, max_norm=settings.clip, error_if_nonfinite=False
            )
            optimizer.step()
            told: dict[str, float] = {}
            if adversary:
                with clock.computing():
                    told = adversary.learn(made.detach(), batch, share)
            for hook in hooks:
                hook.after_step(student, share)
            if average is not None:
                # Where a run is young the first weights would be most of the average.
                decay = min(settings.ema, (1 + at.step) / (_YOUNG + at.step))
                _follow(average, student.state_dict(), decay)
            at.step += 1
            at.seconds, at.computed = clock.seconds(), at.computed + clock.take_computed()

            if processes.is_first():
                if clock.due("log", _LOG_EVERY):
                    rate = optimizer.param_groups[0]["lr"]
                    run.log(at.step, {**watch.parts, **told, "lr": rate, "seconds": at.seconds})
                    say(_words(watch, share, at.seconds, began), round(share * 1000), 1000)
                if clock.due("save", settings.save_every):
                    run.save(kept.state())
                if show and clock.due("show", settings.show_every):
                    with clock.stopped():
                        show(student, at.step)
    except KeyboardInterrupt:
        run.save(kept.state())
        say(f"Interrupted at step {at.step}: the same command with --resume goes on from there")
        raise
    if average is not None:
        student.load_state_dict(average)
        # Averaged statistics of norms are not those of averaged weights.
        batches = (examples.at(n, settings.batch, settings.seed, place) for n in range(_SETTLING))
        update_bn((batch.inputs[0] for batch in batches), student, fabric.device)
    student.cpu()
    if show and processes.is_first():  # what is delivered; a short run has no other
        show(student, at.step)
    run.close()
    share_computing = min(1.0, at.computed / max(at.seconds, 1e-9))
    return Trained(at.step, at.seconds, share_computing, dict(watch.parts), at.rollbacks)


@dataclass
class Position:
    """How far a run is."""

    step: int = 0
    seconds: float = 0.0
    """Of training."""
    computed: float = 0.0
    """Seconds of these inside forward and backward passes."""
    damping: float = 1.0
    """What the rate is multiplied by, after divergence."""
    rollbacks: int = 0


@dataclass
class _Kept:
    """All that a checkpoint holds."""

    at: Position
    watch: Watch
    student: nn.Module
    optimizer: Any
    average: dict[str, Tensor] | None
    features: FeatureMatch | None
    adversary: Adversary | None
    hooks: Sequence[Hook]

    def state(self) -> dict[str, Any]:
        """Raw tensors and plain values."""
        return {
            "at": vars(self.at),
            "watch": self.watch.to_json(),
            "student": self.student.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "features": self.features.state_dict() if self.features is not None else None,
            "adversary": self.adversary.state_dict() if self.adversary else None,
            "hooks": [hook.state() for hook in self.hooks],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """As it was when `state` was taken."""
        vars(self.at).update(state["at"])
        vars(self.watch).update(state["watch"], parts={})
        self.student.load_state_dict(state["student"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            for name, value in state["average"].items():
                self.average[name].copy_(value)
        if self.features is not None:
            self.features.load_state_dict(state["features"])
        if self.adversary:
            self.adversary.load_state_dict(state["adversary"])
        for hook, facts in zip(self.hooks, state["hooks"], strict=True):
            hook.restore(facts)


def _go_back(kept: _Kept, run: RunFolder, wrong: str) -> None:
    """To the last checkpoint, at half the rate; time that was lost is lost."""
    at = kept.at
    step, seconds, count, damping = at.step, at.seconds, at.rollbacks, at.damping
    if count == _ROLLBACKS:
        raise LeanganError(
            f"Training diverged at step {step}: {wrong}, again after {count} returns to an "
            "earlier checkpoint at half the rate. Take a smaller --lr."
        )
    last = run.load()
    assert last is not None
    kept.restore(last)
    at.seconds, at.rollbacks, at.damping = seconds, count + 1, damping / 2
    run.save(kept.state())


class _Clock:
    """Seconds of a run over all its parts, what of them was computing, and what is due."""

    def __init__(self, before: float) -> None:
        """Go on from `before` seconds."""
        self._start = time.monotonic() - before
        self._computed = 0.0
        self._last: dict[str, float] = {}

    def seconds(self) -> float:
        """So far."""
        return time.monotonic() - self._start

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Count the block as computing."""
        began = time.monotonic()
        yield
        self._computed += time.monotonic() - began

    def take_computed(self) -> float:
        """Seconds of computing since this was asked last."""
        taken, self._computed = self._computed, 0.0
        return taken

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Do not count the block."""
        began = time.monotonic()
        yield
        self._start += time.monotonic() - began

    def due(self, what: str, every: float) -> bool:
        """Whether `every` seconds have passed since this was true, or since the start."""
        now = time.monotonic()
        if now - self._last.setdefault(what, now) < every:
            return False
        self._last[what] = now
        return True


def _seen(fabric: Fabric, terms: Mapping[str, Tensor]) -> dict[str, float]:
    """The losses as numbers, of all processes: they must agree on what went wrong."""
    values = torch.stack([term.detach().float() for term in terms.values()])
    if fabric.world_size > 1:
        reduced = fabric.all_reduce(values, reduce_op="mean")
        assert isinstance(reduced, Tensor)
        values = reduced
    return dict(zip(terms, values.tolist(), strict=True))


def _share(fabric: Fabric, step: int, seconds: float, settings: TrainSettings) -> float:
    """The share of the run that is over; the clock of the first process counts for all."""
    if settings.steps:
        return step / settings.steps
    share = seconds / (settings.seconds or 1)
    return float(fabric.broadcast(share)) if fabric.world_size > 1 else share


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


def _words(watch: Watch, share: float, elapsed: float, began: tuple[float, float]) -> str:
    left = (elapsed - began[1]) * (1 - share) / max(share - began[0], 1e-3)
    parts = ", ".join(f"{name} {value:.4g}" for name, value in watch.parts.items())
    minutes, seconds = divmod(int(left), 60)
    return f"Training: {parts}, {minutes}:{seconds:02d} left"
