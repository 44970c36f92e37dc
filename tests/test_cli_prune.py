"""`leangan prune` and what `inspect` says of channels, as people type them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from task_nets import net_and_photos

import leangan as lg
from leangan.cli.main import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return net_and_photos(tmp_path_factory.mktemp("work"))


@pytest.fixture(autouse=True)
def _here(folder, monkeypatch):
    monkeypatch.chdir(folder)


def prune(*words):
    return main(["prune", "net.pt2", "--data", "photos", *words])


@pytest.fixture(scope="module")
def said(folder):
    """What one pruning printed, and the exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "leangan.cli.main", "prune", "net.pt2", "--data", "photos",
         "--channels", "0.5", "-o", "small.pt2", "--report", "why.html"],
        cwd=folder, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_widths_weights_macs_sizes_and_quality_are_told(said):
    out, _ = said
    rows = [line.split() for line in out.splitlines()]
    widths = [row for row in rows if len(row) == 3 and row[0] in ("a", "b")]
    assert [row[1] for row in widths] == ["8", "8"]
    assert sum(int(row[2]) for row in widths) == 8
    for name in ("weights", "MACs", "tensors", "on", "zipped"):
        assert [row for row in rows if row[:1] == [name] and "left)" in row], name
    assert "PSNR:" in out
    assert "against the original's, on 1 held-out samples" in out
    assert "fixed    0.3% of the weights: c.bias reaches the output" in out
    assert "warning  The output is below the floor" in out
    assert "written  small.pt2" in out
    assert "report   why.html" in out
    assert "speed" not in out.lower(), "nothing was timed, so nothing is said of speed"


def test_progress_goes_to_stderr_in_plain_lines(said):
    assert said[1].splitlines()[0] == "Loading the model"
    assert "\x1b" not in said[1]


def test_the_file_is_taken_by_the_other_commands(said, folder, capfd):
    assert main(["inspect", "small.pt2", "--json"]) == 0
    facts = json.loads(capfd.readouterr().out)
    assert facts["history"][-1]["name"] == "prune_channels"
    assert facts["params"] < lg.load(folder / "net.pt2").params
    assert main(["run", "small.pt2", "photos", "-o", "made", "-q"]) == 0
    assert len(list((folder / "made").iterdir())) == 3


def test_json_and_a_criterion_by_name(capfd):
    words = ["--macs", "0.6", "--by", "l1", "--uniform", "--no-reconstruct", "--multiple", "2"]
    assert prune(*words, "-o", "l1.pt2", "--json", "-q") == 0
    facts = json.loads(capfd.readouterr().out)
    assert facts["plan"] == {
        "macs": 0.6, "by": "l1", "uniform": True, "reconstruct": False, "multiple": 2,
    }  # fmt: skip
    assert facts["after"]["macs"] <= 0.6 * facts["before"]["macs"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-o", "x.pt2"], "exactly one amount"),
        (["--channels", "0.5", "--params", "0.5", "-o", "x.pt2"], "channels and params"),
        (["--channels", "0.5", "-o", "x.onnx"], "must end in .pt2"),
        (["--channels", "0.5", "-o", "x.pt2", "--report", "x.pdf"], "must end in .html"),
        (["--channels", "0.5", "-o", "photos/0.png/x.pt2"], "is a file"),
        (["--channels", "0.5", "--by", "feature-rnk", "-o", "x.pt2"], "'feature-rank'?"),
        (["--latency", "0.5", "-o", "x.pt2"], "--for openvino"),
        (["--latency", "0.5", "--for", "opnvino", "-o", "x.pt2"], "'openvino'?"),
        (["--channels", "0.5", "--for", "openvino,torch", "-o", "x.pt2"], "one runtime"),
        (["--weights", "half", "-o", "x.pt2"], "neither a share between 0 and 1 nor a file"),
        (["--weights", "0.5", "--weights", "0.6", "-o", "x.pt2"], "takes one share"),
        (["--channels", "much", "-o", "x.pt2"], "valid number"),
    ],
)
def test_what_is_typed_wrong_is_said_in_a_sentence(folder, capfd, words, said):
    assert prune(*words, "-q") == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert said in err
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert not (folder / "x.pt2").exists()


def test_weights_are_a_file_as_in_the_other_commands(folder, capfd):
    import torch

    (folder / "nets.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self):\n"
        "        super().__init__(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(),\n"
        "                         nn.Conv2d(16, 3, 3, padding=1), nn.Sigmoid())\n"
    )
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 3, 3))
    with torch.no_grad():
        net[2].bias.fill_(7.0)
    torch.save(net.state_dict(), folder / "w.pth")
    words = ["prune", "nets.py:Net", "--weights", "w.pth", "--size", "1x3x32x32", "--channels"]
    words += ["0.5", "--by", "l2", "--no-reconstruct", "-o", "net16.pt2", "-q", "--json"]
    assert main(words) == 0
    assert json.loads(capfd.readouterr().out)["widths"][0]["after"] == 8
    small = lg.load(folder / "net16.pt2")
    assert float(small.program.state_dict["2.bias"].mean()) == 7.0


def test_interrupted_it_leaves_nothing(folder):
    place = folder / "interrupted"
    place.mkdir(exist_ok=True)
    started = subprocess.Popen(
        [sys.executable, "-m", "leangan.cli.main", "prune", "net.pt2", "--data", "photos",
         "--channels", "0.5", "-o", str(place / "s.pt2")],
        cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        # A shell lets its background jobs ignore the signal, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert started.stderr.readline() == "Loading the model\n"
    time.sleep(0.2)
    started.send_signal(signal.SIGINT)
    out, err = started.communicate(timeout=60)
    # Python ends itself by the signal where that fell into an exec of text, though it was caught;
    # shells call both 130.
    assert started.returncode in (130, -signal.SIGINT), err
    assert out == ""
    assert "Interrupted" in err
    assert list(place.iterdir()) == []


def test_inspect_tells_what_can_go_and_what_is_fixed(capfd):
    assert main(["inspect", "net.pt2", "-q"]) == 0
    out = capfd.readouterr().out
    assert "group of channels" in out
    assert "fixed   0.3% of the weights: c.bias reaches the output" in out
    assert "redundancy" not in out, "that one needs data"
    assert main(["inspect", "net.pt2", "--channels", "--data", "photos", "--json", "-q"]) == 0
    facts = json.loads(capfd.readouterr().out)["channels"]
    assert [g["name"] for g in facts["groups"]] == ["a", "b"]
    assert {"redundancy", "l1", "feature-rank"} <= set(facts["groups"][0]["dispensable"])
    assert "random" not in facts["groups"][0]["dispensable"]
    assert facts["zeros"] == 0


def test_inspect_of_a_quantized_generator_says_why_nothing_can_go(folder, capfd):
    net = lg.load(folder / "net.pt2")
    lg.quantize(net, lg.calibrate(net, [net.example()])).save(folder / "int8.pt2")
    assert main(["inspect", "int8.pt2", "-q"]) == 0
    assert "no channel can be pruned: It is quantized" in capfd.readouterr().out
