"""Prune until a runtime needs a given share of the time, as it is measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from leangan import runtimes
from leangan.errors import LeanganError, QualityNotReached
from leangan.generator import Generator, Step
from leangan.graph.channels import couple, slice_module
from leangan.graph.rewrite import recapture
from leangan.measure.latency import Timing, paired, speedup
from leangan.search.candidate import Candidate
from leangan.search.lab import Lab
from leangan.search.prune_plan import PrunePlan
from leangan.tasks.base import Data
from leangan.techniques.allocate import Budget, allocate, ladder
from leangan.techniques.calibration_inputs import calibration_inputs
from leangan.techniques.importance import CRITERIA, Context, criterion
from leangan.techniques.prune_channels import chosen_groups, score_channels
from leangan.techniques.width_cost import WidthCost

_TRIES = 6
_CLOSE = 0.05
"""A share of the time this close to the wanted one, relatively, is that share."""
_SECONDS = 12.0
_ALL = 0.999
"""The largest share that is less than all."""
_NARROW = 0.01


@dataclass(frozen=True)
class Speed:
    """Original and pruned in one runtime, in turns."""

    runtime: str
    precision: str
    threads: int
    before: Timing
    after: Timing

    @property
    def share_left(self) -> float:
        """Of the original's time."""
        return 1 / speedup(self.before, self.after)

    def to_json(self) -> dict[str, Any]:
        """As in the facts of a pruning."""
        return {
            "runtime": self.runtime,
            "precision": self.precision,
            "threads": self.threads,
            "before_ms": dataclasses.asdict(self.before.latency()),
            "after_ms": dataclasses.asdict(self.after.latency()),
            "speedup": speedup(self.before, self.after),
        }


class Stopwatch:
    """Times pruned generators beside their original; a context manager, as it holds processes."""

    def __init__(
        self, original: Generator, runtime: str, threads: int, progress: Callable[..., None]
    ) -> None:
        """Nothing runs before the block is entered.

        Args:
            original: float.
            runtime: name of an installed runtime; its fastest float precision is used.
            threads: of both processes.
            progress: is told what goes on.
        """
        self.runtime = runtime
        self.precision = runtimes.get(runtime).precisions(quantized=False)[-1]
        candidate = Candidate("original", runtime, self.precision, original, plain=True)
        self._lab = Lab(original, None, Data((), ()), threads, progress, candidate)

    def __enter__(self) -> Stopwatch:
        self._lab.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._lab.__exit__(*error)

    def time(self, pruned: Generator, title: str) -> Speed:
        """Measure one, in turns with the original.

        Args:
            pruned: float.
            title: what it is, for progress and errors.

        Raises:
            LeanganError: the runtime does not take it.
        """
        candidate = self._lab.attempt(Candidate(title, self.runtime, self.precision, pruned))
        if candidate.error is not None:
            raise LeanganError(candidate.error)
        assert candidate.worker is not None
        assert self._lab.original.worker is not None
        workers = [self._lab.original.worker, candidate.worker]
        before, after = paired(workers, seconds_budget=_SECONDS)
        candidate.close()
        return Speed(self.runtime, self.precision, self._lab.threads, before, after)


class Narrower:
    """Networks of any budget, to be timed: channels are judged once, and nothing is refitted."""

    def __init__(
        self,
        generator: Generator,
        plan: PrunePlan,
        samples: Sequence[tuple[Tensor, ...]] | None,
        seed: int,
        progress: Callable[..., None],
    ) -> None:
        """Judge all channels.

        Args:
            generator: the original.
            plan: how channels are chosen; its amount is not looked at.
            samples: calibration inputs; None where latents can be drawn.
            seed: of whatever is drawn.
            progress: called as progress(message, done, total).
        """
        self._generator, self._plan = generator, plan
        self._coupling = chosen_groups(generator, couple(generator), plan.only or None)
        judge = criterion(plan.by or next(iter(CRITERIA)))
        used = calibration_inputs(
            generator, self._coupling, judge, samples, reconstruct=plan.reconstruct, seed=seed
        )
        self._scores = score_channels(
            Context(generator, generator.module(), self._coupling, used, seed),
            judge,
            measure=not plan.uniform and bool(used),
            refit=plan.reconstruct,
            progress=progress,
        )

    @property
    def least(self) -> float:
        """The share of the MACs that is left with every group at its narrowest."""
        cost = WidthCost(self._generator, self._coupling, "macs")
        narrow = {g.name: ladder(g.width, self._plan.multiple)[-1] for g in self._coupling.groups}
        return min(_ALL, cost.total(narrow) / cost.whole + 1e-6)

    def at(self, macs: float) -> Generator:
        """The network with this share of the MACs left."""
        scope: Literal["global", "uniform"] = "uniform" if self._plan.uniform else "global"
        budget = Budget(macs, "macs", scope, self._plan.multiple)
        keep = allocate(self._generator, self._coupling, self._scores, budget)
        sliced = slice_module(self._generator, self._coupling, keep)
        return recapture(self._generator, sliced.module, Step("narrowed", {"macs": macs}))


def budget_for(share: float, narrower: Narrower, watch: Stopwatch) -> list[dict[str, float]]:
    """Look for the budget of MACs at which the time falls to `share`, by false position.

    Args:
        share: of the original's time, to be left.
        narrower: makes the networks.
        watch: measures them, already entered.

    Returns:
        What was measured, {"macs", "time"} as shares of the original, the chosen one last.

    Raises:
        QualityNotReached: even the narrowest network needs more; the message says how much.
    """
    where = f"{watch.runtime} {watch.precision}"
    least = narrower.least
    low, high = (0.0, 0.0), (1.0, 1.0)
    tried: list[dict[str, float]] = []
    while len(tried) < _TRIES:
        macs = low[0] + (share - low[1]) / (high[1] - low[1]) * (high[0] - low[0])
        macs = min(max(macs, least), _ALL)
        time = watch.time(narrower.at(macs), f"{macs:.0%} of the MACs").share_left
        tried.append({"macs": macs, "time": time})
        if abs(time / share - 1) <= _CLOSE:
            break
        if time > share and macs <= least:
            raise QualityNotReached(
                f"It cannot be pruned to {share:.0%} of its time in {where}: with {macs:.0%} of "
                f"the MACs left, the least there is, it still takes {time:.0%}. Ask for that or "
                "more."
            )
        low, high = ((macs, time), high) if time < share else (low, (macs, time))
        if high[0] - low[0] < _NARROW or high[1] - low[1] < _NARROW:
            break  # what lies between is noise of the clock, or a step in the widths
    met = [t for t in tried if t["time"] <= share * (1 + _CLOSE)]
    if not met:
        fastest = min(tried, key=lambda t: t["time"])
        raise QualityNotReached(
            f"It was not brought to {share:.0%} of its time in {where} in {len(tried)} tries: the "
            f"fastest took {fastest['time']:.0%}, with {fastest['macs']:.0%} of the MACs left. "
            "Ask for that, or give --macs."
        )
    chosen = max(met, key=lambda t: t["macs"])
    return [*(t for t in tried if t is not chosen), chosen]
