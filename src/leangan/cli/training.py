"""Options that the commands which train share, and what they print in the end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leangan.cli import options
from leangan.errors import UsageError

if TYPE_CHECKING:
    from leangan.training.settings import TrainSettings

PANEL = "Training"


def _option(*names: str, **more: Any) -> Any:
    return typer.Option(*names, show_default=False, rich_help_panel=PANEL, **more)


Out = Annotated[
    Path,
    typer.Option(
        "-o",
        "--out",
        metavar="DIR",
        show_default=False,
        help="The folder of the run; generator.pt2 lies in it in the end.",
    ),
]
Time = Annotated[str | None, _option("--time", metavar="30m", help="How long to train.")]
Steps = Annotated[int | None, _option("--steps", min=1, help="Or how many steps.")]
Batch = Annotated[int | None, _option("--batch", min=1, help="Examples per step; 8.")]
Rate = Annotated[
    float | None, _option("--lr", help="The highest learning rate; by what is trained.")
]
Ema = Annotated[
    float | None, _option("--ema", help="Deliver a moving average of the weights: 0.999, say.")
]
Precision = Annotated[
    str | None,
    _option("--precision", metavar="fp32|bf16|fp16", help="The faster one when left out."),
]
Loss = Annotated[
    str | None,
    _option(
        "--loss",
        metavar="NAME=WEIGHT,...",
        help="charbonnier, l1, l2, pyramid, ssim, wavelet, perceptual, style, stft, mel.",
    ),
]
JudgeFile = Annotated[
    str | None,
    _option(
        "--judge",
        metavar="MODEL",
        help="A discriminator that learns beside, from its file; or a new one: patchgan, "
        "hifigan-discriminator or stylegan2-discriminator.",
    ),
]
JudgeWeight = Annotated[
    float, typer.Option("--adversarial", help="Weight of its verdict.", rich_help_panel=PANEL)
]
Matching = Annotated[
    float,
    _option("--matching", help="Weight of the difference in what the judge's layers see."),
]
Size = Annotated[
    int | None,
    _option("--crop", min=8, help="Height, width or length of the inputs to train on."),
]
L1 = Annotated[
    float, _option("--l1", min=0.0, help="Weight of the sum of all absolute weights: 1e-5, say.")
]
Slim = Annotated[
    float, _option("--slim", min=0.0, help="How fast to make unneeded channels smaller: 2, say.")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the run in DIR.", rich_help_panel=PANEL)
]


def settings(
    time: str | None, steps: int | None, usual: dict[str, Any], **given: Any
) -> TrainSettings:
    """From what was typed; `usual` holds where nothing was."""
    from leangan.training.settings import TrainSettings, read_time

    said = {key: value for key, value in given.items() if value is not None}
    seconds = None if time is None else read_time(time)
    return TrainSettings(steps=steps, seconds=seconds, **{**usual, **said})


def weights(text: str | None) -> dict[str, float] | None:
    """Of NAME=WEIGHT,..., None where nothing was typed."""
    from leangan.training.losses import read_losses

    return None if text is None else read_losses(text)


@dataclass(frozen=True)
class Lesson:
    """What `finetune` and `distill` are told alike, as it was typed."""

    settings: dict[str, Any]
    loss: str | None
    judge: str | None
    adversarial: float
    matching: float
    plain: dict[str, Any]
    """What the library takes as it is."""

    def keywords(self, usual: dict[str, Any]) -> dict[str, Any]:
        """As keyword arguments of the library's functions; `usual` as for `settings`.

        Raises:
            UsageError: a text has not the form it needs.
        """
        if self.matching and self.judge is None:
            raise UsageError(
                "--matching compares what a judge's layers see: give one with --judge."
            )
        made, losses = settings(usual=usual, **self.settings), weights(self.loss)

        from leangan.search.lesson import Judge

        judge = None if self.judge is None else Judge(
            self.judge, self.adversarial, matching=self.matching
        )  # fmt: skip
        return {"settings": made, "losses": losses, "judge": judge, **self.plain}


def _lesson(
    time: Time = None,
    steps: Steps = None,
    batch: Batch = None,
    lr: Rate = None,
    loss: Loss = None,
    judge: JudgeFile = None,
    adversarial: JudgeWeight = 0.01,
    matching: Matching = 0.0,
    l1: L1 = 0.0,
    slim: Slim = 0.0,
    crop: Size = None,
    ema: Ema = None,
    precision: Precision = None,
    resume: Resume = False,
    threads: options.Threads = None,
    seed: options.Seed = 0,
    limit: options.Limit = None,
) -> Lesson:
    return Lesson(
        {
            "time": time, "steps": steps, "batch": batch, "lr": lr, "ema": ema,
            "precision": precision, "seed": seed,
        },
        loss, judge, adversarial, matching,
        {
            "size": crop, "l1": l1, "slim": slim, "limit": limit, "resume": resume,
            "threads": threads,
        },
    )  # fmt: skip


with_lesson = options.with_group("lesson", _lesson)
"""Give a command the options that say how to train, as `lesson`."""


def lines(facts: dict[str, Any]) -> list[str]:
    """What a run came to, for people."""
    from leangan.report.words import count, metric_value, metric_words

    training = facts["training"]
    minutes, seconds = divmod(round(training["seconds"]), 60)
    found = [
        f"trained  {training['steps']} steps in {minutes}:{seconds:02d}, "
        f"{facts['settings']['precision']}, {training['compute_share']:.0%} of the time computing"
    ]
    if facts["held"]:
        held = ", ".join(f"{number} {kind}" for kind, number in facts["held"].items())
        found.append(f"kept     {held}")
    if facts["idle"]:
        before, after = facts["idle"]
        shares = [f"{before[kind]:.1%} -> {after[kind]:.1%} of the {kind}" for kind in before]
        found.append(f"idle     {', '.join(shares)}: below a hundredth of what is usual")
    if facts["pairs"]:
        pairs = ", ".join(" and ".join(pair) for pair in facts["pairs"])
        found.append(f"features {pairs}")
    found.append(f"network  {count(facts['params'])} weights, {count(facts['macs'])} MACs")
    for metric, after in facts["after"].items():
        before = facts["before"].get(metric, {}).get("mean")
        now = metric_value(metric, after["mean"])
        then = f"{metric_value(metric, before)} -> " if before is not None else ""
        found.append(f"quality  {metric_words(metric)[0]}: {then}{now}")
    if facts["after"]:
        found.append(f"         of the output against the teacher's, on {facts['judged_on']}")
    found += [f"note     {note}" for note in facts["notes"]]
    found += [f"warning  {warning}" for warning in facts["warnings"]]
    return found
