"""finetune, distill and train on the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from task_nets import net_and_photos

import leangan as lg
from leangan.cli.main import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = net_and_photos(tmp_path_factory.mktemp("cli"))
    rng = np.random.default_rng(1)
    for number in range(4):
        picture = np.kron(rng.integers(0, 255, (6, 6, 3)), np.ones((16, 16, 1))).astype(np.uint8)
        Image.fromarray(picture).save(folder / "photos" / f"more-{number}.png")
    lg.prune_weights(lg.load(folder / "net.pt2"), 0.5).save(folder / "cut.pt2")
    return folder


def test_finetune_tells_what_came_back(folder, tmp_path, capsys):
    code = main([
        "finetune", str(folder / "cut.pt2"), "--teacher", str(folder / "net.pt2"),
        "--data", str(folder / "photos"), "--steps", "20", "--lr", "2e-3", "--batch", "4",
        "--threads", "1", "-o", str(tmp_path / "run"),
    ])  # fmt: skip
    out = capsys.readouterr().out
    assert code == 0
    assert "trained  20 steps" in out
    assert "kept     3 pruned weights" in out
    assert "->" in out
    assert (tmp_path / "run" / "generator.pt2").exists()


def test_finetune_tells_what_lies_idle(folder, tmp_path, capsys):
    code = main([
        "finetune", str(folder / "net.pt2"), "--data", str(folder / "photos"), "--steps", "5",
        "--lr", "2e-3", "--batch", "4", "--slim", "3", "--threads", "1",
        "-o", str(tmp_path / "run"),
    ])  # fmt: skip
    assert code == 0
    said = " ".join(capsys.readouterr().out.split())  # wrapped to the width of the terminal
    assert "of the channels: below a hundredth" in said


def test_distill_answers_in_json(folder, tmp_path, capsys):
    code = main([
        "distill", str(folder / "net.pt2"), "--student", "narrow:0.6", "--json",
        "--data", str(folder / "photos"), "--steps", "5", "--batch", "4", "--loss",
        "charbonnier=1,ssim=0.1", "--threads", "1", "-o", str(tmp_path / "run"),
    ])  # fmt: skip
    facts = json.loads(capsys.readouterr().out)
    assert code == 0
    assert facts["settings"]["losses"] == {"charbonnier": 1.0, "ssim": 0.1}
    assert facts["training"]["steps"] == 5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--steps", "5", "--time", "3m"], "either steps or time"),
        ([], "either steps or time"),
        (["--time", "soon"], "'soon' is no time"),
        (["--steps", "5", "--loss", "lpips"], "no loss 'lpips'"),
        (["--steps", "5", "--matching", "0.1"], "give one with --judge"),
        (["--steps", "5", "--precision", "int8"], "no precision 'int8'"),
    ],
)
def test_wrong_words_are_named(folder, tmp_path, capsys, words, said):
    code = main([
        "finetune", str(folder / "net.pt2"), "--data", str(folder / "photos"), *words,
        "-o", str(tmp_path / "run"),
    ])  # fmt: skip
    assert code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run" / "generator.pt2").exists()


def test_only_synthesis_begins_from_nothing(folder, tmp_path, capsys):
    code = main([
        "train", "translation", "--data", str(folder), "--steps", "5", "-o", str(tmp_path / "x")
    ])  # fmt: skip
    assert code == 2
    assert "synthesis" in capsys.readouterr().err
