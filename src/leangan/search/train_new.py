"""Train a generator from nothing: a reference GAN on a folder of pictures."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from leangan import sources
from leangan.architectures import architecture
from leangan.errors import UsageError
from leangan.files import atomic
from leangan.generator import Port, Signature, Step
from leangan.graph.cost import macs as count_macs
from leangan.search.data import data_path
from leangan.search.lesson import Taught
from leangan.search.students import read_arguments
from leangan.tasks.arrays import FAR
from leangan.tasks.images import from_port, list_images, read_image, to_8_bit
from leangan.tasks.pictures import cover, crop
from leangan.training import processes
from leangan.training.adversary import Discriminator
from leangan.training.discriminators import SpectralDiscriminator
from leangan.training.examples import Batch, order
from leangan.training.loop import train
from leangan.training.run import RunFolder
from leangan.training.settings import TrainSettings

Progress = Callable[..., None]
_SHEET = 8
"""Pictures a side of a sheet of samples."""
_LEAST = 64
_RATE = 4e-4
_LARGEST, _INNERMOST, _WIDTH = 128, 4, 64


@dataclass(frozen=True)
class Pictures:
    """Real pictures, and latents that are drawn anew at every step."""

    real: Tensor
    """uint8 (count, C, H, W)."""
    range: tuple[float, float]
    latent: tuple[int, ...]
    """Shape of one."""

    def at(self, step: int, batch: int, seed: int, place: slice) -> Batch:
        """The batch of a step."""
        rng = torch.Generator().manual_seed((seed + 1) * FAR + step)
        latents = torch.randn(batch, *self.latent, generator=rng)[place]
        picks = order(len(self.real), step, batch, seed)[place]
        low, high = self.range
        return Batch((latents,), self.real[picks].float() / 255 * (high - low) + low)


class _Whole(nn.Module):
    """A network that puts out one tensor, as the loop wants it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> tuple[Tensor]:
        return (self.network(*inputs),)


def train_gan(
    data: Path | str,
    out: Path | str,
    *,
    spec: str | None = None,
    settings: TrainSettings,
    game: str = "non-saturating",
    slope: float = 1.0,
    width: int = 32,
    resume: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Taught:
    """Train a generator of pictures from noise, against a discriminator.

    Args:
        data: a folder of pictures; they are cut to the size that the generator draws.
        out: the folder of the run; generator.pt2 and discriminator.pt2 lie in it in the end.
        spec: a family of generators that starts from noise, with arguments where wanted, such as
            "dcgan:latent=64,widths=[128,64],channels=1,first=7"; a DCGAN of about the pictures'
            size when left out.
        settings: how long and how fast.
        game: a name of `training.losses.adversarial.GAMES`.
        slope: weight of the penalty on the discriminator's slope at real pictures (R1).
        width: channels of the discriminator's first layer.
        resume: go on with the run in `out`.
        threads: of the CPU; all cores when left out.
        progress: called as progress(message, done, total).

    Raises:
        UsageError: the family does not start from noise, or the request cannot be.
        LeanganError: the pictures cannot be read, or training diverges.
    """
    say = progress or (lambda message, done=None, total=None: None)
    if processes.count() > 1:
        raise UsageError("A discriminator learns beside the generator, which needs one process.")
    torch.set_num_threads(threads or os.cpu_count() or 1)
    source = data_path(data)
    assert source is not None
    spec = spec or _fitting(source)
    name, _, rest = spec.partition(":")
    family = architecture(name)
    arguments = read_arguments(rest)
    (latent, *more), (picture, *_) = family.ports(**arguments)
    if more or latent.kind != "latent" or picture.kind != "image":
        raise UsageError(f"{name} does not draw pictures from noise; dcgan does.")
    torch.manual_seed(settings.seed)
    network = family.build(**arguments)
    _initial(network)
    judge = SpectralDiscriminator(int(picture.shape[1] or 3), picture.typical[2], width)
    asked = {
        "model": spec, "data": str(data), "game": game, "slope": slope, "width": width,
        **settings.to_json(),
    }  # fmt: skip
    run = RunFolder(Path(out), asked, resume=resume)
    say("Reading the pictures")
    shape = tuple(int(n or 1) for n in latent.shape[1:])
    assert picture.range is not None
    pictures = Pictures(_read(source, picture), picture.range, shape)
    if settings.precision == "auto":
        settings = dataclasses.replace(settings, precision="fp32")  # small, and touchy
    rate = settings.lr or _RATE
    settings = dataclasses.replace(settings, lr=rate)
    student = _Whole(network).to(memory_format=torch.channels_last)
    found = train(
        student,
        None,
        pictures,
        settings,
        run,
        adversary=Discriminator(
            judge.to(memory_format=torch.channels_last), game=game, slope=slope, lr=rate,
            beta=settings.beta,
        ),
        show=_Sheet(run.folder, picture, shape, settings.seed),
        progress=say,
    )  # fmt: skip
    network.eval().to(memory_format=torch.contiguous_format)
    made = sources.load(network, example_inputs=[torch.randn(latent.typical)], task=family.task)
    # What the family knows of its ports, the graph alone does not tell.
    made = dataclasses.replace(made, signature=Signature((latent,), (picture,)), name=name)
    measured = {"steps": found.steps, "seconds": round(found.seconds, 1), "losses": found.losses}
    made = made.then(
        made.program, Step("train", {k: v for k, v in asked.items() if k != "data"}, measured)
    )
    facts = {
        "model": spec, "teacher": None, "data": str(data), "task": family.task,
        "settings": {**asked, **settings.to_json()}, "before": {}, "after": {},
        "judged_on": "", "macs": count_macs(made), "params": made.params, "held": {}, "idle": [],
        "pairs": [],
        "training": dataclasses.asdict(found),
        "notes": [f"{len(pictures.real)} pictures to learn from"], "warnings": [],
    }  # fmt: skip
    say("Writing")
    made.save(run.folder / "generator.pt2")
    judge.eval().to(memory_format=torch.contiguous_format)
    verdict = sources.load(
        judge, example_inputs=[picture.typical], kinds={"picture": "image"},
        ranges={"picture": picture.range},
    )  # fmt: skip
    verdict.save(run.folder / "discriminator.pt2")
    run.write("run.json", facts)
    return Taught(made, run.folder, facts)


def _fitting(source: Path) -> str:
    """A DCGAN for pictures like the first one: its size halved down to 4 to 7 pixels."""
    first = read_image(list_images(source)[0])
    side, levels = min(min(first.rgb.shape[1:]), _LARGEST), 0
    while side >= 2 * _INNERMOST:
        side, levels = side // 2, levels + 1
    grey = bool((first.rgb == first.rgb[:1]).all())
    widths = [_WIDTH * 2**n for n in reversed(range(levels))]
    return f"dcgan:latent=64,widths={widths},channels={1 if grey else 3},first={side}".replace(
        " ", ""
    )


def _initial(network: nn.Module) -> None:
    """Weights as in the DCGAN paper: normal, deviation 0.02; norms begin around 1."""
    for module in network.modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(weight, nn.Parameter):
            nn.init.normal_(weight, 1.0, 0.02)


def _read(source: Path, port: Port) -> Tensor:
    """All pictures, uint8, cut to the port's size; grey where it has one channel."""
    height, width = port.typical[2:]
    found = []
    for file in list_images(source):
        rgb = crop(cover(read_image(file).rgb, height, width), height, width, (0.5, 0.5))
        if port.shape[1] == 1:
            rgb = rgb.mean(0, keepdim=True)
        found.append((rgb * 255).round().to(torch.uint8))
    if len(found) < _LEAST:
        raise UsageError(f"{source} holds {len(found)} pictures; a GAN needs many more to learn.")
    return torch.stack(found)


@dataclass
class _Sheet:
    """Draws the same latents again and again."""

    folder: Path
    port: Port
    latent: tuple[int, ...]
    seed: int

    def __call__(self, student: nn.Module, step: int) -> None:
        rng = torch.Generator().manual_seed(self.seed)
        latents = torch.randn(_SHEET**2, *self.latent, generator=rng)
        was = student.training
        with torch.no_grad():
            device = next(student.parameters()).device
            made = from_port(student.eval()(latents.to(device))[0].float().cpu(), self.port)
        student.train(was)
        rows = [torch.cat(list(row), 2) for row in made.split(_SHEET)]
        sheet = torch.cat(rows, 1)
        picture = sheet.expand(3, -1, -1) if sheet.shape[0] == 1 else sheet
        zoom = max(1, 512 // picture.shape[1])
        large = F.interpolate(picture[None], scale_factor=float(zoom), mode="nearest")[0]
        image: Image.Image = to_8_bit(large)
        with atomic(self.folder / "samples" / f"step-{step:06d}.png") as temporary:
            image.save(temporary)
