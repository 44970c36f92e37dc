"""Train a generator towards a teacher, and say what that gave back."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from leangan import sources, tasks
from leangan.errors import UsageError
from leangan.files import atomic
from leangan.generator import Generator, Step
from leangan.graph.cost import macs as count_macs
from leangan.graph.receptive import receptive_field
from leangan.report.json_report import finite
from leangan.search.data import affordable, data_path
from leangan.search.judge import quality_of
from leangan.search.students import make_student
from leangan.tasks.base import Data, Sample, Task
from leangan.tasks.calibration import check_inputs
from leangan.tasks.preview import panels
from leangan.training import processes
from leangan.training.adversary import Discriminator
from leangan.training.discriminators import GraphDiscriminator
from leangan.training.examples import Examples, prepare
from leangan.training.features import FeatureMatch
from leangan.training.loop import train
from leangan.training.losses import Objective, usual_losses
from leangan.training.run import RunFolder
from leangan.training.settings import TrainSettings
from leangan.training.sparse import GradualPruning, l1_penalty
from leangan.training.speed import settle
from leangan.training.student import Student
from leangan.training.teacher import teacher as open_teacher

Progress = Callable[..., None]
_LEAST_SIDE = 32
_FEWEST, _MOST = 64, 4096
"""Examples to prepare."""
_MOST_BYTES = 1 << 30
_TEACHING = 0.15
"""Share of a run's time that the teacher may take to prepare examples."""
_SHOWN = 4
_EXACT_DB = {"finetune": 50.0, "distill": 35.0}
"""How exact the teacher's form must be: a student of another kind stays far below that."""


@dataclass(frozen=True)
class Judge:
    """A discriminator that learns beside a student, from its own file."""

    source: Any
    """Whatever `leangan.load` takes; of a file with a whole GAN its discriminator."""
    weight: float = 0.01
    """Of its verdict beside the other losses."""
    game: str = "non-saturating"
    """A name of `training.losses.adversarial.GAMES`."""
    slope: float = 0.0
    """Weight of the R1 penalty."""

    def to_json(self) -> dict[str, Any]:
        """As in a run's settings."""
        return {**vars(self), "source": _title(self.source, self.source)}


@dataclass(frozen=True)
class Taught:
    """A trained generator, its folder, and what was seen."""

    generator: Generator
    folder: Path
    facts: dict[str, Any]
    """JSON values: model, teacher, task, settings, before, after, judged_on, training, warnings;
    as in run.json."""


def finetune(
    source: Any,
    data: Path | str | None,
    out: Path | str,
    *,
    settings: TrainSettings,
    teacher: Any = None,
    losses: Mapping[str, float] | None = None,
    judge: Judge | None = None,
    size: int | None = None,
    l1: float = 0.0,
    zeros: float | None = None,
    limit: int | None = None,
    resume: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
    loading: dict[str, Any] | None = None,
) -> Taught:
    """Train a compressed generator until its output is that of its teacher again.

    No labels and no discriminator are needed: the teacher says what is right. What was done to
    the weights stays done: zeros stay zero, codebooks learn their levels, and what computes in 8
    bits learns through its rounding, and still does.

    Args:
        source: what to train: whatever `leangan.load` takes, or a Generator.
        data: as for `compress`; the samples that it judges on are not trained on.
        out: the folder of the run; generator.pt2 lies in it when the run ends.
        settings: how long and how fast.
        teacher: the original; the generator itself, as it is now, when left out.
        losses: weights by name of `training.losses.LOSSES`; what is usual for such an output when
            left out.
        judge: a discriminator that learns beside, and whose verdict counts too.
        size: height, width or length of the inputs to train on; half of the usual when left out,
            all of it where the network looks at the whole picture.
        l1: weight of the sum of absolute weights, which makes weights prunable.
        zeros: share of the weights to set to zero on the way, the smallest first.
        limit: the most samples to judge on; by the network's cost when left out.
        resume: go on with the run in `out`, which was given the same arguments.
        threads: of the CPU; all cores when left out.
        progress: called as progress(message, done, total).
        loading: keyword arguments of `leangan.load`, for `source`.

    Raises:
        UsageError: the request cannot be.
        LeanganError: the model or the data cannot be used, or training diverges.
    """
    say = progress or _silent
    say("Loading the model")
    begin = source if isinstance(source, Generator) else sources.load(source, **loading or {})
    if teacher is None:
        compressed = [s.name for s in begin.history if s.name in _COMPRESSING]
        if compressed:
            raise UsageError(
                f"{begin.name} was compressed already ({', '.join(compressed)}), so its own output "
                "is not what to learn: give the original with --teacher."
            )
        teacher = begin
    if zeros is not None and (begin.quantized or not 0 < zeros < 1):
        raise UsageError(
            "zeros is a share between 0 and 1, and integers cannot be pruned: prune first."
        )
    original = teacher if isinstance(teacher, Generator) else sources.load(teacher)
    asked = {
        "model": _title(source, begin),
        "teacher": _title(teacher, original),
        "l1": l1,
        "zeros": zeros,
    }
    lesson = _Lesson("finetune", original, data, Path(out), settings, losses, judge, size, limit)
    _set_threads(threads)
    return _teach(
        lesson,
        lambda samples: begin,
        asked,
        resume=resume,
        say=say,
        penalty=(lambda s: l1 * l1_penalty(s)) if l1 else None,
        zeros=zeros,
    )


def distill(
    teacher: Any,
    student: Any,
    data: Path | str | None,
    out: Path | str,
    *,
    settings: TrainSettings,
    losses: Mapping[str, float] | None = None,
    features: Mapping[str, float] | None = None,
    judge: Judge | None = None,
    size: int | None = None,
    limit: int | None = None,
    resume: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
    loading: dict[str, Any] | None = None,
) -> Taught:
    """Train a smaller network towards the output of a generator (Hinton et al. 2015).

    Args:
        teacher: whatever `leangan.load` takes, or a Generator.
        student: see `students.make_student`.
        data: as for `finetune`, as are all others.
        out: the folder of the run.
        settings: how long and how fast.
        losses: see `finetune`.
        features: {"kernels": weight} or {"adapters": weight}, to learn the teacher's feature maps
            as well, see `training.features.FeatureMatch`. The teacher then runs at every step.
        judge: see `finetune`.
        size: see `finetune`.
        limit: see `finetune`.
        resume: see `finetune`.
        threads: see `finetune`.
        progress: see `finetune`.
        loading: keyword arguments of `leangan.load`, for `teacher`.

    Raises:
        UsageError: the request cannot be.
        LeanganError: the model or the data cannot be used, or training diverges.
    """
    say = progress or _silent
    say("Loading the teacher")
    original = teacher if isinstance(teacher, Generator) else sources.load(teacher, **loading or {})
    _set_threads(threads)
    features = dict(features or {})
    if len(features) > 1 or (features and processes.count() > 1):
        raise UsageError("Features are matched in one way, and in one process.")
    asked = {
        "model": _title(student, student),
        "teacher": _title(teacher, original),
        "features": features,
    }
    lesson = _Lesson("distill", original, data, Path(out), settings, losses, judge, size, limit)
    start = Path(out) / "student.pt2"

    def begin(samples: Data) -> Generator:
        if start.exists():  # of a run that goes on, or of the first process
            return sources.load(start)
        made = make_student(student, original, samples.calibration, settings.seed, say)
        made.save(start)
        return made

    return _teach(lesson, begin, asked, resume=resume, say=say, features=features)


@dataclass(frozen=True)
class _Lesson:
    """What is to be learned, whoever learns it."""

    name: str
    original: Generator
    data: Path | str | None
    out: Path
    settings: TrainSettings
    losses: Mapping[str, float] | None
    judge: Judge | None
    size: int | None
    limit: int | None

    def adversary(self) -> Discriminator | None:
        """The judge, ready to learn."""
        if self.judge is None:
            return None
        source = self.judge.source
        loaded = source if isinstance(source, Generator) else _load_judge(source)
        return Discriminator(
            GraphDiscriminator(loaded, self.original), game=self.judge.game,
            weight=self.judge.weight, slope=self.judge.slope, lr=self.settings.lr or 2e-4,
        )  # fmt: skip


def _teach(
    lesson: _Lesson,
    begin: Callable[[Data], Generator],
    asked: dict[str, Any],
    *,
    resume: bool,
    say: Progress,
    penalty: Callable[[Student], torch.Tensor] | None = None,
    zeros: float | None = None,
    features: Mapping[str, float] | None = None,
) -> Taught:
    """Prepare, train, judge, write."""
    original, settings = lesson.original, lesson.settings
    task = tasks.infer(original)
    folder = data_path(lesson.data)
    limit = lesson.limit or affordable(original)
    samples = task.data(original, folder, limit=limit, seed=settings.seed)
    check_inputs(original, samples.held_out)
    losses = dict(lesson.losses or usual_losses(original.signature.outputs[0]))
    objective = Objective(losses, original.signature.outputs[0])
    asked = {
        **asked,
        "data": str(lesson.data) if lesson.data is not None else None,
        "losses": losses,
        "judge": lesson.judge.to_json() if lesson.judge else None,
        "size": lesson.size,
        **settings.to_json(),
    }
    done = _finished(lesson.out, asked) if resume else None
    if done is not None:
        return done
    processes.join()
    with processes.first_alone():  # the others find the folder as the first one left it
        run = RunFolder(lesson.out, asked, resume=resume)
        generator = begin(samples)
        _check_ports(generator, original)
        student = Student(generator, prunable=zeros is not None)
        settings = dataclasses.replace(settings, lr=settings.lr or _rate(lesson.name, student))
        scaled = _training_size(original, lesson.size)
        settings, examples = _prepare(
            run, student, lesson, scaled, task, samples, folder, settings, say
        )
    match = None
    for kind, weight in (features or {}).items():
        inputs = samples.held_out[0].inputs
        match = FeatureMatch(original, student, inputs, kind=kind, weight=weight)
    before = quality_of(original, generator, task, samples.held_out, cure="load it again")
    found = train(
        student.to(memory_format=torch.channels_last),
        objective,
        examples,
        settings,
        run,
        penalty=penalty,
        features=match,
        adversary=lesson.adversary(),
        hooks=[GradualPruning(zeros)] if zeros is not None else (),
        show=_Sheets(run.folder, original, samples.held_out[:_SHOWN]),
        progress=say,
    )
    say("Judging what was learned")
    measured = {"steps": found.steps, "seconds": round(found.seconds, 1), "losses": found.losses}
    made = student.finished(Step(lesson.name, asked, measured))
    facts = finite(
        {
            **{key: asked[key] for key in ("model", "teacher", "data")},
            "task": task.name,
            "settings": {**asked, **settings.to_json()},
            "before": before,
            "after": quality_of(original, made, task, samples.held_out, cure="take a smaller rate"),
            "judged_on": f"{len(samples.held_out)} held-out samples",
            "macs": count_macs(made),
            "params": made.params,
            "held": student.what,
            "pairs": [[p.teacher, p.student] for p in match.pairs] if match else [],
            "training": dataclasses.asdict(found),
            "notes": list(samples.notes),
        }
    )
    facts["warnings"] = _warnings(facts)
    say("Writing")
    if processes.is_first():
        made.save(run.folder / "generator.pt2")
    run.write("run.json", facts)
    if processes.is_first():  # the largest part by far, and it can be made again
        shutil.rmtree(run.folder / "examples", ignore_errors=True)
    return Taught(made, run.folder, facts)


def _finished(folder: Path, asked: Mapping[str, Any]) -> Taught | None:
    """The result of a run that came to its end before; None where it did not."""
    files = [folder / name for name in ("settings.json", "run.json", "generator.pt2")]
    if not all(file.exists() for file in files):
        return None
    RunFolder(folder, asked, resume=True)  # refuses another run's result
    facts = json.loads(files[1].read_text(encoding="utf-8"))
    return Taught(sources.load(files[2]), folder, facts)


def _rate(lesson: str, student: Student) -> float:
    """The rate that served on real generators: the finer what is trained, the smaller."""
    if lesson == "distill":
        return 1e-3
    if student.rounded:
        return 2e-5
    return 2e-4 if "codebooks" in student.what else 3e-4


def _load_judge(source: Any) -> Generator:
    """The discriminator of a file; a `.pt2` holds one network, whatever it is."""
    if isinstance(source, str | Path) and Path(source).suffix == ".pt2":
        return sources.load(source)
    return sources.load(source, part="discriminator")


def _set_threads(threads: int | None) -> None:
    share = max(1, (os.cpu_count() or 1) // processes.count())
    torch.set_num_threads(threads or share)


_COMPRESSING = ("prune_channels", "prune_weights", "quantize_linear", "quantize_codebook")


def _prepare(
    run: RunFolder,
    student: Student,
    lesson: _Lesson,
    scaled: Generator,
    task: Task,
    samples: Data,
    folder: Path | None,
    settings: TrainSettings,
    say: Progress,
) -> tuple[TrainSettings, Examples]:
    """The settings that were settled, and the examples; both as before where a run goes on."""
    names = [s.name for s in samples.held_out]
    stream = task.examples(scaled, folder, seed=settings.seed, without=names)
    settled = run.read("settled.json")
    if settled is None:
        say("Timing a step")
        first = [next(stream) for _ in range(settings.batch)]
        inputs = [torch.cat(x) for x in zip(*(s.inputs for s in first), strict=True)]
        timed, step_seconds = settle(student, inputs, settings)
        settled = {"precision": timed.precision, "step_seconds": step_seconds}
        stream = task.examples(scaled, folder, seed=settings.seed, without=names)
        run.write("settled.json", settled)
    settings = dataclasses.replace(settings, precision=settled["precision"])
    began = time.monotonic()
    exact = _EXACT_DB[lesson.name]
    with open_teacher(lesson.original, torch.get_num_threads(), exact) as (form, teach):
        if "examples" not in settled:
            probe = next(stream)
            at = time.monotonic()
            size = teach(probe.inputs).numel() + sum(x.numel() for x in probe.inputs)
            count = _count(settings, settled["step_seconds"], time.monotonic() - at, 2 * size)
            settled |= {"teacher": form, "examples": count}
            stream = task.examples(scaled, folder, seed=settings.seed, without=names)
            run.write("settled.json", settled)
        examples = prepare(
            run.folder / "examples",
            stream,
            teach,
            settled["examples"],
            progress=lambda done, of: say(f"Running the teacher in {form}", done, of),
        )
    if settings.seconds is not None:
        if "prepared" not in settled:
            settled["prepared"] = time.monotonic() - began
            run.write("settled.json", settled)
        left = max(settings.seconds - settled["prepared"], 0.1 * settings.seconds)
        settings = dataclasses.replace(settings, seconds=left)
    return settings, examples


def _count(settings: TrainSettings, step: float, teach: float, size: int) -> int:
    """Examples to prepare: as many as are learned from, as far as time and disk allow."""
    if settings.examples is not None:
        return settings.examples
    whole = settings.seconds or (settings.steps or 1) * step
    seen = (settings.steps or int(whole / step)) * settings.batch
    affordable = int(_TEACHING * whole / max(teach, 1e-6))
    return max(min(_FEWEST, seen), min(seen, affordable, _MOST, _MOST_BYTES // max(1, size)))


def _training_size(generator: Generator, size: int | None) -> Generator:
    """The generator at the sizes to train at."""
    if size is not None:
        return generator.sized(dict.fromkeys("HWT", size))
    if receptive_field(generator) is None:  # it looks at the whole picture
        return generator
    sizes = {}
    for port in generator.signature.inputs:
        for axis, letter in enumerate(port.layout):
            if letter in "HWT" and port.shape[axis] is None:
                multiple = port.multiple_of(axis)
                half = max(_LEAST_SIDE, port.typical[axis] // 2)
                sizes[letter] = min(-(-half // multiple) * multiple, port.typical[axis])
    return generator.sized(sizes)


@dataclass
class _Sheets:
    """Draws samples as they are now: input, teacher, student, difference, a row each."""

    folder: Path
    original: Generator
    samples: tuple[Sample, ...]

    def __call__(self, student: nn.Module, step: int) -> None:
        rows = []
        with torch.no_grad():
            for sample in self.samples:
                wanted = self.original.outputs(*sample.inputs)[0]
                made = student(*sample.inputs)[0].float()
                shown = panels(self.original.signature, sample, wanted, made)
                if not shown:
                    return
                rows.append(_beside(list(shown.values())))
        sheet = Image.new("RGB", (max(r.width for r in rows), sum(r.height for r in rows)))
        top = 0
        for row in rows:
            sheet.paste(row, (0, top))
            top += row.height
        with atomic(self.folder / "samples" / f"step-{step:06d}.png") as temporary:
            sheet.save(temporary)


def _beside(pictures: list[Image.Image]) -> Image.Image:
    height = max(p.height for p in pictures)
    row = Image.new("RGB", (sum(p.width for p in pictures), height))
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width
    return row


def _title(source: Any, generator: Any) -> str:
    return str(source) if isinstance(source, str | Path) else generator.name


def _silent(message: str, done: int | None = None, total: int | None = None) -> None:
    """Where nobody listens."""


def _check_ports(student: Generator, original: Generator) -> None:
    pairs = zip(student.signature.inputs, original.signature.inputs, strict=False)
    same = len(student.signature.inputs) == len(original.signature.inputs) and all(
        a.layout == b.layout and a.typical[1:2] == b.typical[1:2] and a.range == b.range
        for a, b in pairs
    )
    if not same:
        raise UsageError(
            f"{student.name} does not take what {original.name} takes: "
            f"{[(p.name, p.layout, p.range) for p in student.signature.inputs]} and "
            f"{[(p.name, p.layout, p.range) for p in original.signature.inputs]}."
        )


def _warnings(facts: dict[str, Any]) -> list[str]:
    found = []
    metric = next(iter(facts["after"]))
    before, after = (facts[key][metric]["mean"] for key in ("before", "after"))
    if before is not None and after is not None and after < before:
        found.append(
            f"The output is further from the teacher's than before, {metric} {after:.2f} after "
            f"{before:.2f}: take a smaller rate or more time."
        )
    if facts["training"]["rollbacks"]:
        found.append("Training diverged on the way and went on at a smaller rate.")
    return found
