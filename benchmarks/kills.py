"""Kill a run at random moments, resume it each time, and compare its end with an unbroken one's.

    python benchmarks/kills.py MODEL --data DIR --work DIR [--kills 10] [--steps 240] [--seed 0]

MODEL loses half of its weights and is trained back on one thread, with the moving average and
everything else that a checkpoint has to hold. Each kill is SIGKILL: three fall while a process
loads and runs the teacher, the others at random moments after it has gone on training.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

import leangan as lg

SCRIPT = """
import sys
import leangan as lg
model, data, out, steps = sys.argv[1:]
net = lg.load(model)
settings = lg.TrainSettings(
    steps=int(steps), batch=4, lr=3e-4, precision="fp32", examples=64, ema=0.99, save_every=0.5,
    show_every=5,
)
lg.finetune(
    lg.prune_weights(net, 0.5), data, out, settings=settings, teacher=net, limit=6, threads=1,
    resume=True,
)
"""


_EARLY = 3


def written(file: Path) -> int:
    return file.stat().st_mtime_ns if file.exists() else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    ends = [options.work / name for name in ("whole", "killed")]
    for folder in ends:
        shutil.rmtree(folder, ignore_errors=True)

    def command(out: Path) -> list[str]:
        words = [options.model, options.data, str(out), str(options.steps)]
        return [sys.executable, "-c", SCRIPT, *words]

    subprocess.run(command(ends[0]), check=True)
    rng = random.Random(options.seed)
    checkpoint, log = (ends[1] / name for name in ("checkpoint.pt", "log.jsonl"))
    for number in range(options.kills):
        before, begun = written(checkpoint), time.monotonic()
        process = subprocess.Popen(command(ends[1]))
        if number >= _EARLY:
            while process.poll() is None and written(checkpoint) == before:
                time.sleep(0.01)
        try:
            process.wait(rng.uniform(0, 4) if number >= _EARLY else rng.uniform(1, 10))
            print(f"it ended after {number} kills already: take more --steps")
            return 1
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        said = log.read_text().splitlines()[-1:] if log.exists() else []
        print(
            f"killed after {time.monotonic() - begun:.1f} s: {said or 'no step told'}", flush=True
        )
    if subprocess.run(command(ends[1])).returncode:
        print(f"it failed after {options.kills} kills")
        return 1
    whole, killed = (lg.load(folder / "generator.pt2").program.state_dict for folder in ends)
    different = [n for n, value in whole.items() if not torch.equal(value, killed[n])]
    print(
        f"{options.kills} kills; "
        + (f"{len(different)} tensors differ" if different else "bit-identical to the unbroken run")
    )
    return bool(different)


if __name__ == "__main__":
    sys.exit(main())
