"""`leangan quantize` as people type it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from task_nets import net_and_photos

import leangan as lg
from leangan.cli.main import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return net_and_photos(tmp_path_factory.mktemp("work"))


@pytest.fixture(autouse=True)
def _here(folder, monkeypatch):
    monkeypatch.chdir(folder)


def test_codebook_is_written_and_told(capsys):
    words = ("--bits", "4", "--codebook", "--data", "photos", "-o", "small.pt2", "--json")
    assert main(["quantize", "net.pt2", *words]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["bits"] == 4
    assert facts["codebook"]
    assert facts["after"]["file_bytes"] == os.path.getsize("small.pt2")
    assert facts["after"]["file_bytes"] < facts["before"]["file_bytes"]
    assert facts["quality"]["psnr"]["mean"] > 20
    made = lg.load("small.pt2")
    assert made.history[-1].name == "quantize_codebook"
    assert set(made.history[-1].measured["layers"]) == set(facts["layers"])


def test_words_for_people(capsys):
    words = ("--bits", "3", "--codebook", "--data", "photos", "-o", "told.pt2")
    assert main(["quantize", "net.pt2", *words]) == 0
    out = capsys.readouterr().out
    for word in ("times smaller", "quality", "coarsest", "save no time", "told.pt2"):
        assert word in out


def test_int8_is_written(capsys):
    assert main(["quantize", "net.pt2", "--data", "photos", "-o", "int8.pt2"]) == 0
    assert lg.load("int8.pt2").history[-1].name == "quantize_linear"


def test_a_plan_is_left_edited_and_applied(capsys):
    assert main(["quantize", "net.pt2", "--data", "photos", "-o", "whole.pt2"]) == 0
    words = lg.load("whole.pt2").history[-1].settings["words"]
    first = next(iter(words))
    text = Path("whole.plan.yaml").read_text().replace(f"{first}: w8a8", f"{first}: float")
    Path("edited.yaml").write_text(text)
    given = ("--plan", "edited.yaml", "--data", "photos", "-o", "mixed.pt2")
    assert main(["quantize", "net.pt2", *given]) == 0
    assert lg.load("mixed.pt2").history[-1].settings["words"] == {**words, first: "float"}


def test_few_bits_for_weights_alone_and_a_page(capsys):
    given = ("--bits", "4", "--activations", "float", "--per", "group", "--scheme", "affine")
    out = ("--data", "photos", "-o", "w4.pt2", "--report", "w4.html")
    assert main(["quantize", "net.pt2", *given, *out]) == 0
    settings = lg.load("w4.pt2").history[-1].settings
    assert set(settings["words"].values()) == {"w4"}
    assert not settings["symmetric"]
    assert settings["rounding"] == "feedback"
    assert "<svg" in Path("w4.html").read_text()


def test_inputs_without_a_zero_point():
    given = ("--activations", "8s", "--data", "photos", "-o", "signed.pt2")
    assert main(["quantize", "net.pt2", *given]) == 0
    words = lg.load("signed.pt2").history[-1].settings["words"]
    assert set(words.values()) == {"w8s8"}


def test_codebooks_need_no_data(capsys):
    assert main(["quantize", "net.pt2", "--bits", "4", "--codebook", "-o", "none.pt2"]) == 0
    assert "random inputs only" in capsys.readouterr().out


def test_same_seed_same_weights(capsys):
    for name in ("a.pt2", "b.pt2"):
        words = ("--bits", "4", "--codebook", "--data", "photos", "--seed", "3", "-o", name)
        assert main(["quantize", "net.pt2", *words]) == 0
    a, b = (lg.load(name).program.state_dict for name in ("a.pt2", "b.pt2"))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--activations", "4", "-o", "x.pt2"), "--activations"),
        (("--scheme", "odd", "-o", "x.pt2"), "affine"),
        (("--per", "layer", "-o", "x.pt2"), "channel"),
        (("--codebook", "--per", "tensor", "-o", "x.pt2"), "even steps"),
        (("--plan", "missing.yaml", "-o", "x.pt2"), "missing.yaml"),
        (("--keep-float", "nose", "--data", "photos", "-o", "x.pt2"), "nose"),
        (("--bits", "1", "--codebook", "-o", "x.pt2"), "--bits"),
        (("--codebook", "-o", "x.onnx"), ".pt2"),
        (("--codebook", "-o", "photos"), ".pt2"),
        (("--codebook", "--only", "nothing", "-o", "x.pt2"), "nothing"),
        (("--only", "a", "-o", "x.pt2"), "--only"),
        (("--codebook", "--data", "nowhere", "-o", "x.pt2"), "nowhere"),
    ],
)
def test_wrong_use_is_refused_and_nothing_written(words, told, capsys):
    assert main(["quantize", "net.pt2", *words]) in (1, 2)
    error = capsys.readouterr().err
    assert "Error: " in error
    assert told in error
    assert not os.path.exists("x.pt2")


def test_what_is_quantized_is_refused(capsys):
    assert main(["quantize", "net.pt2", "--data", "photos", "-o", "once.pt2"]) == 0
    assert main(["quantize", "once.pt2", "--codebook", "-o", "x.pt2"]) == 2
    assert "quantized already" in capsys.readouterr().err
