"""One lesson: what a student is to learn, from the data to the folder that is left."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from leangan import sources, tasks
from leangan.architectures import architecture
from leangan.errors import UsageError
from leangan.generator import Generator, Step
from leangan.graph.cost import macs as count_macs
from leangan.graph.fuse import normalize
from leangan.graph.receptive import receptive_field
from leangan.measure.perceptual import missing
from leangan.report.json_report import finite
from leangan.search.data import affordable, data_path
from leangan.search.judge import quality_of
from leangan.search.sheets import Sheets
from leangan.search.students import new_network, read_arguments
from leangan.sources.module import from_module
from leangan.tasks.base import Data, Sample, Task
from leangan.tasks.calibration import check_inputs
from leangan.training import processes
from leangan.training.adversary import Discriminator
from leangan.training.discriminators import GraphDiscriminator
from leangan.training.examples import Examples, part_of, prepare
from leangan.training.features import FeatureMatch
from leangan.training.loop import Hook, train
from leangan.training.losses import Objective, usual_losses
from leangan.training.run import RunFolder
from leangan.training.settings import TrainSettings
from leangan.training.sparse import ChannelShrink, GradualPruning, idle_shares, l1_penalty
from leangan.training.speed import settle
from leangan.training.student import Student
from leangan.training.teacher import teacher as open_teacher

Progress = Callable[..., None]
_LEAST_SIDE = 32
_FEWEST, _MOST = 64, 65536
"""Examples to prepare."""
_MOST_BYTES, _MOST_OF_DISK = 1 << 32, 0.25
"""Of examples, and the share of the free disk that they may take."""
_TEACHING = 0.25
"""Share of a run's time that the teacher may take to prepare examples."""
_SHOWN = 4
_EXACT_DB = {"finetune": 50.0, "distill": 35.0}
"""How exact the teacher's form must be: a student of another kind stays far below that."""


@dataclass(frozen=True)
class Judge:
    """A discriminator that learns beside a student."""

    source: Any
    """Whatever `leangan.load` takes, and of a file with a whole GAN its discriminator; or the
    name of a family, for one that knows nothing yet: "patchgan:widths=[32,64,128]"."""
    weight: float = 0.01
    """Of its verdict beside the other losses."""
    game: str = "non-saturating"
    """A name of `training.losses.adversarial.GAMES`."""
    slope: float = 0.0
    """Weight of the R1 penalty."""
    matching: float = 0.0
    """Weight of the difference in what its layers see, see `adversary.Discriminator`."""

    def to_json(self) -> dict[str, Any]:
        """As in a run's settings."""
        return {**vars(self), "source": title(self.source, self.source)}

    def opened(self, seed: int) -> Generator:
        """The discriminator; a new one has random weights by `seed`.

        Raises:
            UsageError: a family cannot be built so.
            LeanganError: the file cannot be loaded, or holds several that could be meant.
        """
        if isinstance(self.source, Generator):
            return self.source
        fresh = new_network(str(self.source), "discriminator", seed)
        if fresh is not None:
            name, _, rest = str(self.source).partition(":")
            inputs, outputs = architecture(name).ports(**read_arguments(rest))
            return normalize(from_module(fresh, name=name, inputs=inputs, outputs=outputs))
        if Path(str(self.source)).suffix == ".pt2":  # it holds one network, whatever it is
            return sources.load(self.source)
        return sources.load(self.source, part="discriminator")


@dataclass(frozen=True)
class Taught:
    """A trained generator, its folder, and what was seen."""

    generator: Generator
    folder: Path
    facts: dict[str, Any]
    """JSON values: model, teacher, task, settings, before, after, judged_on, training, warnings;
    as in run.json."""


@dataclass(frozen=True)
class Lesson:
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
    l1: float = 0.0
    """Weight of the sum of absolute weights."""
    slim: float = 0.0
    """Strength of a `ChannelShrink`."""
    zeros: float | None = None
    """Share of the weights to cut on the way."""

    def check(self, student: Student) -> None:
        """Refuse what cannot be asked of such a student."""
        held = ", ".join(student.what)
        if self.slim and held:
            raise UsageError(f"Channels are made smaller where all weights are free: no {held}.")
        if self.l1 and "codebooks" in student.what:
            raise UsageError("Codebooks learn their levels, and l1 is about weights: leave it out.")

    def idle(self, generator: Generator) -> list[dict[str, float]]:
        """What lies idle, where something is asked that makes it so; integers never do."""
        asked = (self.l1 or self.slim) and not generator.quantized
        return [idle_shares(generator)] if asked else []

    def hooks(self, begin: Generator, settings: TrainSettings) -> list[Hook]:
        """What is done to the student after each step."""
        found: list[Hook] = []
        if self.zeros is not None:
            found.append(GradualPruning(self.zeros))
        if self.slim:
            found.append(ChannelShrink(begin, self.slim, settings))
        return found

    def penalty(self, student: Student) -> torch.Tensor:
        """Of the student's weights alone."""
        return self.l1 * l1_penalty(student)

    def adversary(self, scaled: Generator) -> Discriminator | None:
        """The judge, ready to learn; `scaled` is the original at the sizes to train at."""
        if self.judge is None:
            return None
        network = GraphDiscriminator(self.judge.opened(self.settings.seed), scaled)
        return Discriminator(
            network, game=self.judge.game, weight=self.judge.weight, slope=self.judge.slope,
            lr=self.settings.lr or 2e-4, look=network.look, matching=self.judge.matching,
        )  # fmt: skip


def teach(
    lesson: Lesson,
    begin: Callable[[Data], Generator],
    asked: dict[str, Any],
    *,
    resume: bool,
    say: Progress,
    features: Mapping[str, float] | None = None,
) -> Taught:
    """Prepare, train, judge, write."""
    if processes.count() > 1 and (features or lesson.judge):
        raise UsageError("What learns beside the student, features or a judge, needs one process.")
    original, settings = lesson.original, lesson.settings
    task = tasks.infer(original)
    folder = data_path(lesson.data)
    limit = lesson.limit or affordable(original)
    samples = task.data(original, folder, limit=limit, seed=settings.seed)
    check_inputs(original, samples.held_out)
    losses = dict(lesson.losses or usual_losses(original.signature.outputs[0], task.losses))
    objective = Objective(losses, original.signature.outputs[0])
    unheard = "" if lesson.losses else ", ".join(sorted(set(task.losses or ()) - set(losses)))
    notes = [f"Trained without the loss {unheard}. {missing()}"] if unheard else []
    asked = {
        **asked,
        "data": str(lesson.data) if lesson.data is not None else None,
        "losses": losses,
        "judge": lesson.judge.to_json() if lesson.judge else None,
        **{key: getattr(lesson, key) for key in ("size", "l1", "slim", "zeros")},
        **settings.to_json(),
    }
    done = _finished(lesson.out, asked) if resume else None
    if done is not None:
        return done
    processes.join()
    with processes.first_alone():  # the others find the folder as the first one left it
        run = RunFolder(lesson.out, asked, resume=resume)
        with run.beginning():
            generator = begin(samples)
            _check_ports(generator, original)
            student = Student(generator, prunable=lesson.zeros is not None)
            lesson.check(student)
            scaled = _training_size(original, lesson.size)
            at_size = Sample("What to train on", scaled.example())
            check_inputs(generator, [*samples.held_out, at_size])
            idle, adversary = lesson.idle(generator), lesson.adversary(scaled)
        settings = dataclasses.replace(settings, lr=settings.lr or _rate(lesson.name, student))
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
        penalty=lesson.penalty if lesson.l1 else None,
        features=match,
        adversary=adversary,
        hooks=lesson.hooks(generator, settings),
        show=Sheets(run.folder, original, samples.held_out[:_SHOWN]),
        progress=say,
    )
    say("Judging what was learned")
    measured = {"steps": found.steps, "seconds": round(found.seconds, 1), "losses": found.losses}
    # Where files lay is of no use to whom the result is given.
    told = {k: v for k, v in asked.items() if k not in ("model", "data")}
    made = student.finished(Step(lesson.name, {**told, "teacher": original.name}, measured))
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
            "idle": idle + lesson.idle(made),
            "pairs": [[p.teacher, p.student] for p in match.pairs] if match else [],
            "training": dataclasses.asdict(found),
            "notes": [*samples.notes, *notes],
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


def _prepare(
    run: RunFolder,
    student: Student,
    lesson: Lesson,
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
    with open_teacher(lesson.original, torch.get_num_threads(), exact) as (form, run_teacher):
        if "examples" not in settled:
            probe = next(stream)
            run_teacher(probe.inputs)  # the first run is slower
            at = time.monotonic()
            size = 2 * (run_teacher(probe.inputs).numel() + sum(x.numel() for x in probe.inputs))
            seconds = time.monotonic() - at
            room = min(_MOST_BYTES, int(_MOST_OF_DISK * shutil.disk_usage(run.folder).free))
            count = _count(settings, settled["step_seconds"], seconds, room // size)
            settled |= {"teacher": form, "examples": count, "part": part_of(count, size)}
            stream = task.examples(scaled, folder, seed=settings.seed, without=names)
            run.write("settled.json", settled)
        examples = prepare(
            run.folder / "examples",
            stream,
            run_teacher,
            settled["examples"],
            part=settled["part"],
            progress=lambda done, of: say(f"Running the teacher in {form}", done, of),
        )
    if settings.seconds is not None:
        if "prepared" not in settled:
            settled["prepared"] = time.monotonic() - began
            run.write("settled.json", settled)
        left = max(settings.seconds - settled["prepared"], 0.1 * settings.seconds)
        settings = dataclasses.replace(settings, seconds=left)
    return settings, examples


def _count(settings: TrainSettings, step: float, teach: float, room: int) -> int:
    """Examples to prepare: as many as are learned from, as far as time and disk allow."""
    if settings.examples is not None:
        return settings.examples
    whole = settings.seconds or (settings.steps or 1) * step
    seen = (settings.steps or int(whole / step)) * settings.batch
    affordable = int(_TEACHING * whole / max(teach, 1e-6))
    return max(min(_FEWEST, seen), min(seen, affordable, _MOST, room))


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


def title(source: Any, generator: Any) -> str:
    """What a model is called in a run's settings."""
    if isinstance(source, str | Path):
        return str(source)
    return str(getattr(generator, "name", type(generator).__name__))


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
