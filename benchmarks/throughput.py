"""How fast a student learns: this loop beside the same one written plainly.

    python benchmarks/throughput.py TEACHER --student SPEC --data DIR [--steps 40] [--batch 4]

Plainly: float32, contiguous, the teacher in PyTorch eager at every step. Both learn from the same
examples by the same loss, in turns of `--steps`, on all cores. The share of the time inside
forward and backward passes is that of our loop alone, by its own clock and by PyTorch's profiler.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import leangan as lg
from leangan import tasks
from leangan.generator import Generator
from leangan.search.data import data_path
from leangan.search.students import make_student
from leangan.training.losses import Objective, usual_losses


def plain(
    teacher: Generator,
    student: Generator,
    inputs: list[tuple[Tensor, ...]],
    objective: Objective,
    steps: int,
) -> float:
    """Steps per second of the plain loop."""
    module = student.module()
    trained = [p for p in module.parameters() if p.requires_grad or p.is_floating_point()]
    for parameter in trained:
        parameter.requires_grad_(True)
    adam = torch.optim.Adam(trained, 1e-4)
    start = time.monotonic()
    for step in range(steps):
        x = inputs[step % len(inputs)]
        wanted = teacher.outputs(*x)[0]
        loss = torch.stack(list(objective(module(*x), wanted).values())).sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
    return steps / (time.monotonic() - start)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("teacher")
    parser.add_argument("--student", required=True)
    parser.add_argument("--data")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(2)
    teacher = lg.load(options.teacher)
    task = tasks.infer(teacher)
    samples = task.data(teacher, data_path(options.data), limit=12)
    student = make_student(options.student, teacher, samples.calibration, 0, lambda *_: None)
    port = teacher.signature.outputs[0]
    objective = Objective(usual_losses(port), port)
    stream = task.examples(teacher, data_path(options.data))
    batches = []
    for _ in range(4):
        some = [next(stream).inputs for _ in range(options.batch)]
        batches.append(tuple(torch.cat(x) for x in zip(*some, strict=True)))
    for number in range(options.rounds):
        slow = plain(teacher, student, batches, objective, max(2, options.steps // 8))
        with tempfile.TemporaryDirectory() as folder:
            settings = lg.TrainSettings(steps=options.steps, batch=options.batch, examples=32)
            began = time.monotonic()
            with profile(activities=[ProfilerActivity.CPU]) as seen:
                found = lg.finetune(
                    student, options.data, Path(folder) / "run", settings=settings,
                    teacher=teacher, limit=12,
                )  # fmt: skip
            whole = time.monotonic() - began
        training = found.facts["training"]
        fast = options.steps / training["seconds"]
        backward = (
            sum(e.self_cpu_time_total for e in seen.key_averages() if "onvolution" in e.key) / 1e6
        )
        print(
            f"round {number}: plain {slow:.3f}, ours {fast:.3f} steps per second "
            f"({found.facts['settings']['precision']}): {fast / slow:.1f} times; "
            f"{training['compute_share']:.0%} of the time in forward and backward passes; "
            f"the profiler saw {backward:.0f} s of convolutions in {whole:.0f} s with all else",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
