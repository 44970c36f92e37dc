"""Kill a run at random moments, resume it each time, and compare its end with an unbroken one's.

    python benchmarks/kills.py MODEL --data DIR --work DIR [--kills 10] [--steps 240] [--seed 0]

MODEL loses half of its weights and is trained back on one thread, with the moving average and
everything else that a checkpoint has to hold. Each kill is SIGKILL, up to ten seconds after a
process has begun: while it loads, runs the teacher, trains, or writes.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import torch

import leangan as lg

SCRIPT = """
import sys
import leangan as lg
model, data, out, steps = sys.argv[1:]
net = lg.load(model)
settings = lg.TrainSettings(
    steps=int(steps), batch=4, lr=3e-4, examples=64, ema=0.99, save_every=0.5, show_every=5
)
lg.finetune(
    lg.prune_weights(net, 0.5), data, out, settings=settings, teacher=net, limit=6, threads=1,
    resume=True,
)
"""


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
    moments: list[float] = []
    while True:
        process = subprocess.Popen(command(ends[1]))
        if len(moments) < options.kills:
            moment = rng.uniform(1, 10) + 3  # three seconds of imports
            try:
                process.wait(moment)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                moments.append(moment)
                log = ends[1] / "log.jsonl"
                said = log.read_text().splitlines()[-1:] if log.exists() else []
                print(f"killed after {moment:.1f} s: {said[0] if said else 'no step'}", flush=True)
                continue
            print(f"it ended after {len(moments)} kills already: take more --steps")
            return 1
        if process.wait():
            print(f"it failed after {len(moments)} kills")
            return 1
        break
    whole, killed = (lg.load(folder / "generator.pt2").program.state_dict for folder in ends)
    different = [n for n, value in whole.items() if not torch.equal(value, killed[n])]
    print(
        f"{len(moments)} kills; "
        + (f"{len(different)} tensors differ" if different else "bit-identical to the unbroken run")
    )
    return bool(different)


if __name__ == "__main__":
    sys.exit(main())
