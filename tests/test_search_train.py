"""finetune and distill, as people use them: files, folders, interruptions, wrong input."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from task_nets import latent_net, net_and_photos

import leangan as lg
from leangan.errors import LeanganError, UsageError
from leangan.search import lesson
from leangan.search.lesson import Judge
from leangan.training import losses
from leangan.training.examples import part_of
from leangan.training.settings import TrainSettings, read_time

FEW = TrainSettings(steps=30, batch=4, lr=2e-3, precision="fp32", examples=32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = net_and_photos(tmp_path_factory.mktemp("train"))
    rng = np.random.default_rng(1)
    for number in range(5):
        picture = np.kron(rng.integers(0, 255, (6, 6, 3)), np.ones((16, 16, 1))).astype(np.uint8)
        Image.fromarray(picture).save(folder / "photos" / f"more-{number}.png")
    return folder


@pytest.fixture(scope="module")
def net(folder):
    return lg.load(folder / "net.pt2")


def test_quality_comes_back_and_the_folder_tells_how(net, folder, tmp_path):
    cut = lg.prune_weights(net, 0.5)
    messages = []
    found = lg.finetune(
        cut, folder / "photos", tmp_path / "run", settings=FEW, teacher=net, threads=1,
        progress=lambda message, *_: messages.append(message),
    )  # fmt: skip
    before, after = (found.facts[key]["psnr"]["mean"] for key in ("before", "after"))
    assert after > before + 2
    assert found.facts["warnings"] == []
    assert found.facts["held"] == {"pruned weights": 3}
    run = tmp_path / "run"
    opened = lg.load(run / "generator.pt2")
    assert opened.history[-1].name == "finetune"
    for name, tensor in found.generator.program.state_dict.items():
        assert torch.equal(opened.program.state_dict[name], tensor)
    assert json.loads((run / "run.json").read_text())["after"] == found.facts["after"]
    assert json.loads((run / "settings.json").read_text())["steps"] == 30
    assert {"environment.json", "checkpoint.pt"} <= set(os.listdir(run))
    assert "examples" not in os.listdir(run)
    again = lg.finetune(cut, folder / "photos", run, settings=FEW, teacher=net, resume=True)
    assert again.facts == json.loads((run / "run.json").read_text())
    assert any("teacher" in message for message in messages)


def test_nothing_is_judged_on_that_was_trained_on(net, folder):
    from leangan import tasks

    task = tasks.infer(net)
    held = {s.name for s in task.data(net, folder / "photos", limit=6).held_out}
    stream = task.examples(net, folder / "photos", without=held)
    seen = {next(stream).name for _ in range(40)}
    assert seen
    assert not seen & held


def test_examples_are_the_same_for_a_seed_and_others_for_another(net, folder):
    from leangan import tasks

    task = tasks.infer(net)

    def first(seed):
        stream = task.examples(net, folder / "photos", seed=seed)
        return torch.cat([next(stream).inputs[0] for _ in range(5)])

    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))


def test_a_student_of_another_kind_learns(net, folder, tmp_path):
    found = lg.distill(
        net, "shuffle-resnet:width=8,blocks=2,gated=[1]", folder / "photos", tmp_path / "run",
        # An average of so many steps, of which there are fewer, is of those that there are.
        settings=dataclasses.replace(FEW, steps=60, lr=3e-3, ema=0.999), threads=1,
    )  # fmt: skip
    before, after = (found.facts[key]["psnr"]["mean"] for key in ("before", "after"))
    assert after > before + 1
    assert found.generator.signature.inputs[0].multiple == (1, 1, 4, 4)
    assert found.generator.signature.inputs[0].range == net.signature.inputs[0].range
    assert found.generator.history[-1].name == "distill"


def test_a_narrow_student_is_the_teacher_with_fewer_channels(net, folder, tmp_path):
    found = lg.distill(
        net, "narrow:0.5", folder / "photos", tmp_path / "run", settings=FEW, threads=1
    )
    assert [s.name for s in found.generator.history[-2:]] == ["prune_channels", "distill"]
    assert found.facts["params"] < 0.7 * net.params


def test_latents_need_no_data(tmp_path):
    cut = lg.prune_weights(latent_net(), 0.3)
    found = lg.finetune(cut, None, tmp_path, settings=FEW, teacher=latent_net(), threads=1)
    assert found.facts["after"]["psnr"]["mean"] > found.facts["before"]["psnr"]["mean"]


SCRIPT = """
import sys, torch
import leangan as lg
from leangan.training.settings import TrainSettings
folder, out = sys.argv[1:3]
net = lg.load(folder + "/net.pt2")
settings = TrainSettings(
    steps=150, batch=4, lr=2e-3, precision="fp32", examples=32, ema=0.9, save_every=0.05
)
lg.finetune(
    lg.prune_weights(net, 0.5), folder + "/photos", out, settings=settings, teacher=net,
    threads=1, resume=True,
)
"""


def test_a_run_that_is_killed_again_and_again_ends_as_one_that_was_not(folder, tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    rng = np.random.default_rng(0)
    kills = 0
    while True:
        process = subprocess.Popen([*command, str(tmp_path / "cut")], stderr=subprocess.PIPE)
        if kills < 2:
            deadline = time.monotonic() + 60
            while not (tmp_path / "cut" / "checkpoint.pt").exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            if kills:  # somewhere after it has read what was there
                time.sleep(float(rng.uniform(2.5, 4)))
            else:
                time.sleep(0.1)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
            continue
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()[-2000:]
        break
    whole, cut = (lg.load(tmp_path / name / "generator.pt2") for name in ("whole", "cut"))
    for name, tensor in whole.program.state_dict.items():
        assert torch.equal(cut.program.state_dict[name], tensor)


class Breaks:
    """A loss that is no number at some calls."""

    def __init__(self, calls):
        self.calls, self.seen = calls, 0

    def __call__(self, made, wanted):
        self.seen += 1
        loss = (made - wanted).square().mean()
        return loss * float("nan") if self.seen in self.calls else loss


@pytest.mark.parametrize("often", [1, 4])
def test_divergence_is_seen_said_and_rolled_back(net, folder, tmp_path, monkeypatch, often):
    from leangan.training.losses import LOSSES

    loss = Breaks(range(20, 20 + often))
    monkeypatch.setitem(LOSSES, "l2", lambda: loss)
    messages = []

    def run():
        return lg.finetune(
            lg.prune_weights(net, 0.3), folder / "photos", tmp_path / "run", settings=FEW,
            teacher=net, losses={"l2": 1.0}, threads=1,
            progress=lambda message, *_: messages.append(message),
        )  # fmt: skip

    if often > 3:
        with pytest.raises(LeanganError, match=r"l2 is no number.*--lr"):
            run()
        assert not (tmp_path / "run" / "generator.pt2").exists()
        return
    found = run()
    assert any("half the rate" in message for message in messages)
    assert found.facts["training"]["rollbacks"] == 1
    assert any("diverged" in warning for warning in found.facts["warnings"])
    assert found.facts["after"]["psnr"]["mean"] > found.facts["before"]["psnr"]["mean"]


def test_a_loss_that_rises_is_divergence():
    from leangan.training.watch import Watch

    watch = Watch()
    assert not any(watch.see({"l1": 1.0}) for _ in range(100))
    said = [watch.see({"l1": 20.0}) for _ in range(30)]
    assert said[0] is None
    assert "rose" in said[-1]
    cut = Watch(may_rise=True)  # as where weights are taken away
    assert not any(cut.see({"l1": loss}) for loss in [1.0] * 100 + [20.0] * 30)
    assert "no number" in cut.see({"l1": float("nan")})


TOGETHER = """
import sys
import leangan as lg
from leangan.training.settings import TrainSettings
folder, out = sys.argv[1:3]
net = lg.load(folder + "/net.pt2")
settings = TrainSettings(steps=20, batch=4, lr=1e-3, precision="fp32", examples=32)
lg.finetune(
    lg.prune_weights(net, 0.5), folder + "/photos", out, settings=settings, teacher=net, threads=1
)
"""


def test_two_processes_learn_what_one_does(net, folder, tmp_path):
    script = tmp_path / "together.py"
    script.write_text(TOGETHER)
    settings = TrainSettings(steps=20, batch=4, lr=1e-3, precision="fp32", examples=32)
    one = lg.finetune(
        lg.prune_weights(net, 0.5), folder / "photos", tmp_path / "one", settings=settings,
        teacher=net, threads=1,
    ).generator  # fmt: skip
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *torchrun, str(script), str(folder), str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    two = lg.load(tmp_path / "two" / "generator.pt2")
    for name, tensor in one.program.state_dict.items():
        torch.testing.assert_close(two.program.state_dict[name], tensor, atol=1e-5, rtol=1e-4)


def test_wrong_requests_are_refused_in_words(net, folder, tmp_path):
    photos = folder / "photos"
    with pytest.raises(UsageError, match="--teacher"):
        lg.finetune(lg.prune_weights(net, 0.5), photos, tmp_path / "a", settings=FEW)
    lg.finetune(net, photos, tmp_path / "b", settings=FEW, threads=1)
    with pytest.raises(UsageError, match="--resume"):
        lg.finetune(net, photos, tmp_path / "b", settings=FEW)
    other = TrainSettings(steps=31, batch=4, lr=2e-3, precision="fp32", examples=32)
    with pytest.raises(UsageError, match="steps 30, not 31"):
        lg.finetune(net, photos, tmp_path / "b", settings=other, resume=True)
    with pytest.raises(UsageError, match="holds no run"):
        lg.finetune(net, photos, photos, settings=FEW)
    with pytest.raises(UsageError, match="zeros"):
        lg.finetune(net, photos, tmp_path / "c", settings=FEW, zeros=1.5)
    with pytest.raises(UsageError, match="no student"):
        lg.distill(net, "narow:0.5", photos, tmp_path / "d", settings=FEW)
    with pytest.raises(UsageError, match=r"narrow:0\.25"):
        lg.distill(net, "narrow:2", photos, tmp_path / "e", settings=FEW)
    with pytest.raises(UsageError, match="cannot be built"):
        lg.distill(net, "shuffle-resnet:depth=3", photos, tmp_path / "f", settings=FEW)


def test_settings_are_checked():
    for wrong in ({}, {"steps": 3, "seconds": 2.0}, {"steps": 0}, {"steps": 3, "ema": 1.0},
                  {"steps": 3, "precision": "int4"}, {"steps": 3, "lr": float("nan")}):  # fmt: skip
        with pytest.raises(UsageError):
            TrainSettings(**wrong)
    assert [read_time(t) for t in ("90s", "30m", "1.5h")] == [90, 1800, 5400]
    for wrong in ("30", "m", "0m", "-3s", "half an hour"):
        with pytest.raises(UsageError, match="30m"):
            read_time(wrong)


CODE = """
import torch
from torch import nn
class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
    def forward(self, x):
        return torch.sigmoid(self.conv(x))
"""


def test_a_penalty_on_whole_numbers_and_on_codebooks(net, folder, tmp_path):
    data = [net.example({"N": 1}, seed=seed) for seed in range(3)]
    few = dataclasses.replace(FEW, steps=4)
    found = lg.finetune(
        lg.quantize(net, data), folder / "photos", tmp_path / "a", settings=few, teacher=net,
        l1=1e-7, threads=1,
    )  # fmt: skip
    assert found.facts["idle"] == []  # integers cannot be pruned
    assert "penalty" in found.facts["training"]["losses"]
    with pytest.raises(UsageError, match="Codebooks learn their levels"):
        lg.finetune(
            lg.codebook(net, 4, data=data), folder / "photos", tmp_path / "b", settings=few,
            teacher=net, l1=1e-7,
        )  # fmt: skip


def test_a_judge_that_cannot_be_is_said_before_the_teacher_runs(net, folder, tmp_path):
    messages = []
    with pytest.raises(UsageError, match="cannot be built"):
        lg.distill(
            net, "narrow:0.5", folder / "photos", tmp_path, settings=FEW,
            judge=Judge("patchgan:width=8"), progress=lambda message, *_: messages.append(message),
        )  # fmt: skip
    assert not any("Running the teacher" in message for message in messages)


def test_small_examples_lie_in_few_files_and_large_ones_in_many():
    assert part_of(10_000, 1 << 10) == 4096
    assert part_of(50, 1 << 10) == 50
    assert part_of(10_000, 1 << 20) == 32


def test_a_run_without_the_feature_network_says_so(net, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(losses, "missing_network", lambda: "offline")
    monkeypatch.setattr(lesson, "missing", lambda: "It is missing.")
    found = lg.finetune(
        lg.prune_weights(net, 0.5), folder / "photos", tmp_path / "run", settings=FEW, teacher=net,
        threads=1,
    )  # fmt: skip
    assert found.facts["settings"]["losses"] == {"pyramid": 1.0}
    assert "Trained without the loss perceptual. It is missing." in found.facts["notes"]


def test_what_becomes_prunable_is_measured_before_and_after(net, folder, tmp_path):
    found = lg.finetune(
        net,
        folder / "photos",
        tmp_path / "run",
        settings=FEW,
        losses={"charbonnier": 1.0},
        l1=1e-6,
        slim=50.0,
        threads=1,
    )
    before, after = found.facts["idle"]
    assert set(before) == {"weights", "channels"}
    assert after["channels"] > before["channels"]
    assert {"charbonnier", "penalty"} == set(found.facts["training"]["losses"])
    with pytest.raises(UsageError, match="all weights are free"):
        lg.finetune(
            lg.prune_weights(net, 0.5), folder / "photos", tmp_path / "b", settings=FEW,
            teacher=net, slim=1.0,
        )  # fmt: skip


def test_a_student_that_is_refused_leaves_nothing(net, folder, tmp_path):
    out = tmp_path / "run"
    arguments = {"settings": FEW, "threads": 1}
    with pytest.raises(UsageError, match="is no student"):
        lg.distill(net, "narro:0.5", folder / "photos", out, **arguments)
    assert not any(out.iterdir())
    lg.distill(net, "separable", folder / "photos", out, **arguments)
    before = sorted(out.iterdir())
    with pytest.raises(UsageError):  # of a run that is there nothing is taken back
        lg.distill(net, "narro:0.5", folder / "photos", out, **arguments, resume=True)
    assert sorted(out.iterdir()) == before


@pytest.mark.parametrize("live", [True, False])
def test_a_student_may_be_code_of_ones_own(net, folder, tmp_path, live):
    file = tmp_path / "own + mine.py"
    file.write_text(CODE)
    spec = f"{file}:Small"
    if live:
        spec = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3, padding=1), torch.nn.Sigmoid())
    found = lg.distill(net, spec, folder / "photos", tmp_path / "run", settings=FEW, threads=1)
    assert found.generator.signature.inputs[0].range == net.signature.inputs[0].range
    assert found.facts["after"]["psnr"]["mean"] > found.facts["before"]["psnr"]["mean"]
