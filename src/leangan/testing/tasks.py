"""What every task must pass, ours and third parties'."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from leangan.errors import LeanganError, UsageError
from leangan.generator import Generator
from leangan.measure import perceptual
from leangan.report.words import conditions
from leangan.tasks.base import Sample, Score, Task
from leangan.tasks.calibration import check_inputs
from leangan.tasks.quality import LOWER_IS_BETTER
from leangan.training.losses import LOSSES


class TaskCase:
    """Inherit, and provide the fixtures `task`, `generator` and `source`.

    `source` must hold enough data for six samples, in files of its own where the task reads files;
    None when the task needs no data. `generator` must be one that the task is for.
    """

    @pytest.fixture
    def task(self) -> Task:
        """The task under test."""
        raise NotImplementedError

    @pytest.fixture
    def generator(self) -> Generator:
        """A small generator of the task's kind."""
        raise NotImplementedError

    @pytest.fixture
    def source(self, tmp_path: Path) -> Path | None:
        """Data for it."""
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def offline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """No test fetches the feature network."""
        monkeypatch.setattr(perceptual, "load_network", lambda: None)

    def test_says_what_it_is(self, task: Task) -> None:
        """A name fit for a command line, a line of explanation, a floor and losses there are."""
        assert task.name == task.name.lower()
        assert " " not in task.name
        assert task.summary
        assert conditions(task.floor)
        assert set(task.losses or ()) <= set(LOSSES)

    def test_matches_its_generator(self, task: Task, generator: Generator) -> None:
        """The task knows a generator of its kind."""
        assert task.matches(generator)

    def test_samples_can_be_run(
        self, task: Task, generator: Generator, source: Path | None
    ) -> None:
        """Shapes, ranges and values are those of the signature, and truth is like the output."""
        data = task.data(generator, source, limit=6)
        samples = (*data.calibration, *data.held_out)
        check_inputs(generator, samples)
        for sample in samples:
            output = generator.outputs(*sample.inputs)[0]
            assert sample.truth is None or sample.truth.shape == output.shape

    def test_examples_can_be_trained_on(
        self, task: Task, generator: Generator, source: Path | None
    ) -> None:
        """All of one shape, by the seed alone, and none of a file that is judged on."""
        held = [s.name for s in task.data(generator, source, limit=6).held_out]

        def first(seed: int) -> list[Sample]:
            stream = task.examples(generator, source, seed=seed, without=held)
            return [next(stream) for _ in range(8)]

        samples = first(0)
        check_inputs(generator, samples)
        assert len({tuple(x.shape for x in s.inputs) for s in samples}) == 1
        assert source is None or not {s.name for s in samples} & set(held)
        for a, b in zip(samples, first(0), strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a.inputs, b.inputs, strict=True))
        others = zip(samples, first(1), strict=True)
        assert not all(torch.equal(a.inputs[0], b.inputs[0]) for a, b in others)

    def test_two_thirds_calibrate(
        self, task: Task, generator: Generator, source: Path | None
    ) -> None:
        """The split is as promised, and respects the limit."""
        data = task.data(generator, source, limit=6)
        assert (len(data.calibration), len(data.held_out)) == (4, 2)
        data = task.data(generator, source, limit=2)
        assert (len(data.calibration), len(data.held_out)) == (1, 1)

    def test_nothing_is_judged_that_was_calibrated_on(
        self, task: Task, generator: Generator, source: Path | None
    ) -> None:
        """Neither a name nor an input is in both parts."""
        data = task.data(generator, source, limit=6)
        assert not {s.name for s in data.calibration} & {s.name for s in data.held_out}
        for seen in data.calibration:
            assert not any(_same(seen, held) for held in data.held_out)

    def test_the_seed_decides(self, task: Task, generator: Generator, source: Path | None) -> None:
        """One seed, one split with the same values; another seed, another."""
        first, again, other = (task.data(generator, source, limit=6, seed=s) for s in (3, 3, 4))
        for a, b in zip(
            (*first.calibration, *first.held_out),
            (*again.calibration, *again.held_out),
            strict=True,
        ):
            assert a.name == b.name
            assert _same(a, b)
        pairs = zip(first.calibration, other.calibration, strict=True)
        assert not all(_same(a, b) for a, b in pairs)

    def test_one_sample_is_refused(
        self, task: Task, generator: Generator, source: Path | None
    ) -> None:
        """One sample cannot both calibrate and judge."""
        with pytest.raises(UsageError, match="split"):
            task.data(generator, source, limit=1)

    def test_no_such_folder(self, task: Task, generator: Generator, tmp_path: Path) -> None:
        """The missing folder is named."""
        with pytest.raises(LeanganError, match="nowhere"):
            task.data(generator, tmp_path / "nowhere")

    def test_an_empty_folder(self, task: Task, generator: Generator, tmp_path: Path) -> None:
        """The empty folder is named."""
        folder = tmp_path / "hollow"
        folder.mkdir()
        with pytest.raises(LeanganError, match="hollow"):
            task.data(generator, folder)

    def test_worse_output_scores_worse(
        self, task: Task, generator: Generator, source: Path | None
    ) -> None:
        """Equal output meets the floor; the more noise, the worse each metric but the truth's."""
        samples = task.data(generator, source, limit=6).held_out
        reference = [generator.outputs(*s.inputs)[0] for s in samples]
        spread = float(torch.cat([r.flatten() for r in reference]).std())
        equal, near, far = (
            task.quality(generator, samples, reference, _disturb(reference, amount * spread))
            for amount in (0, 0.01, 0.5)
        )
        for condition in conditions(task.floor):
            assert condition.holds(_facts(equal))
        assert not conditions(task.floor)[0].holds(_facts(far))
        for name in equal:
            assert equal[name].n == len(samples)
            if name.endswith(("_truth", "_lost")):
                continue
            scores = [equal[name].mean, near[name].mean, far[name].mean]
            assert scores == sorted(scores, reverse=name not in LOWER_IS_BETTER)
            assert scores[0] != scores[2]

    def test_broken_output_misses_the_floor(
        self, task: Task, generator: Generator, source: Path | None
    ) -> None:
        """NaN is the worst score, not an error and not NaN, which JSON cannot hold."""
        samples = task.data(generator, source, limit=6).held_out
        reference = [generator.outputs(*s.inputs)[0] for s in samples]
        broken = [torch.full_like(r, torch.nan) for r in reference]
        scores = task.quality(generator, samples, reference, broken)
        assert not conditions(task.floor)[0].holds(_facts(scores))
        assert all(abs(s.mean) < float("inf") for s in scores.values())


def _facts(scores: dict[str, Score]) -> dict[str, dict[str, float | int]]:
    return {name: score.to_json() for name, score in scores.items()}


def _same(a: Sample, b: Sample) -> bool:
    return all(
        x.shape == y.shape and torch.equal(x, y) for x, y in zip(a.inputs, b.inputs, strict=True)
    )


def _disturb(reference: list[Tensor], amount: float) -> list[Tensor]:
    rng = torch.Generator().manual_seed(0)
    # One-sided on the whole, so that means shift too.
    return [r + amount * (torch.randn(r.shape, generator=rng) + 0.5) for r in reference]
