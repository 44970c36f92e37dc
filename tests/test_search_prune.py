"""Pruning from end to end on networks of a few hundred weights: what is made, seen and refused."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from task_nets import Smooth, image_generator, latent_net, pair_net
from torch import nn

import leangan as lg
from leangan.errors import LeanganError, QualityNotReached, UsageError
from leangan.generator import Generator, Port, Signature
from leangan.graph.capture import capture
from leangan.graph.channels import couple
from leangan.measure.latency import Timing
from leangan.search import lab, prune_latency
from leangan.search.prune import prune, zero_share
from leangan.search.prune_latency import budget_for
from leangan.search.prune_maps import draw_groups
from leangan.search.prune_plan import PrunePlan
from leangan.search.recipe import Recipe, write
from leangan.search.recipe import read as read_recipe


def quick(workers, **_):
    """No test is about a time."""
    return [Timing(((2.0, 2.0), (2.0, 2.0)), 4.0, True) for _ in workers]


@pytest.fixture(autouse=True)
def _no_clock(monkeypatch):
    monkeypatch.setattr(lab, "paired", quick)
    monkeypatch.setattr(prune_latency, "paired", quick)


@pytest.fixture(scope="module")
def net():
    return image_generator(Smooth(), size=32)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    y, x = np.mgrid[0:48, 0:56] / 56
    for number in range(6):
        planes = [np.sin(9 * x + number) / 2 + 0.5, y, (x * (number + 1)) % 1]
        Image.fromarray((np.stack(planes, -1) * 255).astype(np.uint8)).save(
            folder / f"{number}.png"
        )
    return folder


@pytest.fixture(scope="module")
def made(net, photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    told = []
    result = prune(
        net, photos, folder / "small.pt2", channels=0.5, report=folder / "why.html",
        command="leangan prune smooth", limit=6,
        progress=lambda message, done=None, total=None: told.append(message),
    )  # fmt: skip
    return result, folder, told


def test_the_file_is_the_pruned_generator(made, net):
    result, folder, _ = made
    again = lg.load(folder / "small.pt2")
    (x,) = net.example({"H": 24, "W": 40}, seed=4)
    assert torch.equal(again(x), result.generator(x))
    assert again(x).shape == net(x).shape
    assert [s.name for s in again.history][-1] == "prune_channels"
    assert sorted(p.name for p in folder.iterdir()) == ["small.pt2", "why.html"]


def test_the_facts_are_those_of_both_generators(made, net):
    result, folder, told = made
    facts = result.to_json()
    assert [w["before"] for w in facts["widths"]] == [8, 8]
    assert sum(w["after"] for w in facts["widths"]) == 8
    before, after = facts["before"], facts["after"]
    assert (before["params"], after["params"]) == (net.params, result.generator.params)
    assert after["macs"] < before["macs"]
    assert after["bytes"] < before["bytes"]
    assert after["file_bytes"] == (folder / "small.pt2").stat().st_size
    assert 0 < after["zip_bytes"] < after["file_bytes"]
    assert facts["quality"]["psnr"]["n"] == 2
    assert facts["judged_on"] == "2 held-out samples"
    assert facts["plan"] == {"channels": 0.5}
    assert [f["reason"] for f in facts["fixed"]] == ["reaches the output"]
    assert facts["fixed"][0]["paths"] == ["c.bias"]
    assert told[:2] == ["Loading the model", "Reading the data"]
    assert told[-1] == "Writing"


def test_below_the_floor_no_success_is_claimed(made):
    (warning,) = made[0].facts["warnings"]
    assert "below the floor of the task translation, a PSNR of at least 45 dB" in warning
    assert "not called a success" in warning
    page = (made[1] / "why.html").read_text()
    assert "below the task" in page
    assert page.count("data:image/png") >= 8


class Twins(nn.Module):
    """Of 16 channels the last 8 are copies: half of them can go for nothing."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Conv2d(3, 16, 3, padding=1)
        self.b = nn.Conv2d(16, 3, 3, padding=1)
        with torch.no_grad():
            self.a.weight[8:], self.a.bias[8:] = self.a.weight[:8], self.a.bias[:8]

    def forward(self, x):
        return torch.sigmoid(self.b(torch.tanh(self.a(x))))


def test_what_is_redundant_goes_without_a_warning(photos, tmp_path):
    result = prune(
        image_generator(Twins(), size=32), photos, tmp_path / "s.pt2", channels=0.5, limit=6
    )
    assert result.facts["widths"] == [{"group": "a", "before": 16, "after": 8}]
    assert result.facts["quality"]["psnr"]["mean"] > 60
    assert result.facts["warnings"] == []


def test_explained_maps_are_told_from_those_of_their_own(photos):
    generator = image_generator(Twins(), size=32)
    inputs = [generator.example(seed=s) for s in range(3)]
    (copies,) = draw_groups(
        generator, couple(generator), {"a": range(8)}, inputs, generator.example(seed=9)
    )
    assert copies["explained"] > 0.999
    assert all(r["explained"] > 0.999 for r in copies["removed_maps"])
    (alone,) = draw_groups(
        generator, couple(generator), {"a": [0, 1, 8, 9]}, inputs, generator.example(seed=9)
    )
    assert alone["explained"] < 0.9
    assert (alone["kept"], alone["width"], alone["shape"]) == (4, 16, "32 x 32")
    assert {r["channel"] for r in alone["removed_maps"]}.isdisjoint({0, 1, 8, 9})


def test_maps_in_time_are_drawn_as_lines():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv1d(4, 6, 3, padding=1), nn.ReLU(), nn.Conv1d(6, 1, 3, padding=1))
    program = capture(body.eval(), [torch.randn(2, 4, 12)], [[0, 2]])
    mel = Port("mel", "mel", "NCT", (None, 4, None), (1, 4, 400))
    wave = Port("wave", "waveform", "NCT", (None, 1, None), (1, 1, 400), (-1.0, 1.0))
    generator = Generator(program, Signature((mel,), (wave,)))
    (group,) = draw_groups(
        generator, couple(generator), {"0": [0, 1, 2]}, [], generator.example(seed=1)
    )
    lines = [m["line"] for m in (*group["kept_maps"], *group["removed_maps"])]
    assert {len(line) for line in lines} == {160}
    assert all(0 <= v <= 1 for line in lines for v in line)


def test_latents_need_no_data(tmp_path):
    with pytest.raises(LeanganError, match="no channel that can be removed"):
        prune(latent_net(), None, tmp_path / "s.pt2", channels=0.5, limit=4)
    assert list(tmp_path.iterdir()) == []


def test_without_a_task_random_inputs_judge_and_that_is_said(tmp_path, net):
    unknown = dataclasses.replace(
        net, signature=Signature(net.signature.inputs, pair_net().signature.outputs)
    )
    result = prune(
        unknown, None, tmp_path / "s.pt2", channels=0.5, by="l2", reconstruct=False, limit=4
    )
    assert result.facts["task"] is None
    assert result.facts["judged_on"] == "4 random inputs"
    assert result.facts["quality"]["snr"]["n"] == 4
    assert any("random inputs only" in w for w in result.facts["warnings"])


def test_a_runtime_is_timed_in_turns_when_it_is_named(net, photos, tmp_path):
    result = prune(
        net, photos, tmp_path / "s.pt2", channels=0.5, by="l1", reconstruct=False, on="onnxruntime",
        threads=1, limit=3,
    )  # fmt: skip
    speed = result.facts["speed"]
    assert (speed["runtime"], speed["precision"], speed["threads"]) == ("onnxruntime", "fp32", 1)
    assert (speed["before_ms"]["p50"], speed["after_ms"]["p50"], speed["speedup"]) == (2, 2, 1)


@pytest.mark.parametrize(
    ("amount", "said"),
    [
        ({}, r"exactly one amount.*given: none"),
        ({"channels": 0.5, "macs": 0.5}, "given: channels and macs"),
        ({"channels": 0.5, "latency": 0.5, "on": "onnxruntime"}, "exactly one"),
        ({"channels": 1.0}, "channels is a share between 0 and 1"),
        ({"macs": 0}, "macs is a share"),
        ({"params": True}, "params is a share"),
        ({"latency": 0.5}, "needs a runtime"),
        ({"latency": 1.5, "on": "onnxruntime"}, "latency is a share"),
        ({"channels": 0.5, "by": "redundant"}, "did you mean 'redundancy'"),
        ({"channels": 0.5, "by": "magnitude"}, "choose from redundancy, l1"),
        ({"weights": 0.5, "by": "l1"}, "Weights are not ranked by 'l1'; choose from magnitude"),
        ({"channels": 0.5, "pattern": "2:4"}, "pattern means nothing when channels go"),
        ({"weights": 0.5, "uniform": True}, "uniform means nothing when single weights go"),
        ({"channels": 0.5, "only": ["z"]}, "no group of channels 'z'"),
        ({"channels": 0.5, "on": "tensorrt"}, "tensorrt"),
        ({"macs": 0.001}, "can.* be pruned to 0.001"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_written(net, photos, tmp_path, amount, said):
    with pytest.raises(UsageError, match=said):
        prune(net, photos, tmp_path / "s.pt2", limit=3, **amount)
    assert list(tmp_path.iterdir()) == []


def test_pictures_are_asked_for_where_they_are_needed(net, tmp_path):
    with pytest.raises(UsageError, match="--data"):
        prune(net, None, tmp_path / "s.pt2", channels=0.5)
    with pytest.raises(UsageError, match=r"s\.onnx"):
        prune(net, None, tmp_path / "s.onnx", channels=0.5)


# Latency


class Clock:
    """A runtime that takes a fifth of the time for nothing, and the rest by MACs."""

    runtime, precision = "sundial", "fp32"

    def __init__(self, fixed=0.2):
        self.fixed = fixed

    def time(self, macs, title):
        return type("Speed", (), {"share_left": self.fixed + (1 - self.fixed) * macs**1.5})


class Networks:
    def __init__(self, least):
        self.least = least

    def at(self, macs):
        return macs


@pytest.mark.parametrize(
    ("share", "fixed"), itertools.product((0.3, 0.5, 0.8, 0.95), (0.0, 0.1, 0.25))
)
def test_the_budget_for_a_share_of_the_time_is_found(share, fixed):
    tried = budget_for(share, Networks(0.02), Clock(fixed))
    assert tried[-1]["time"] <= share * 1.05
    assert tried[-1]["time"] >= share * 0.85
    assert len(tried) <= 6


def test_a_share_out_of_reach_is_refused_with_what_can_be_reached():
    with pytest.raises(QualityNotReached, match=r"to 10% of its time in sundial fp32.* takes 2\d%"):
        budget_for(0.1, Networks(0.1), Clock(0.2))


# Plans and recipes


def test_a_plan_is_written_and_read():
    plan = PrunePlan(macs=0.7, by="l1", only=("a*",), multiple=4, reconstruct=False)
    facts = plan.to_json()
    expected = {"macs": 0.7, "by": "l1", "only": ["a*"], "multiple": 4, "reconstruct": False}
    assert facts == expected
    assert PrunePlan.from_json(facts) == plan


BASE = "schema: 1\nruntime: onnxruntime\nprecision: int8\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prune: 0.5\n", "'prune' must hold settings"),
        ("prune: {macs: 0.7, channels: 0.5}\n", "exactly one amount"),
        ("prune: {mac: 0.7}\n", "no 'mac'; it has by, channels"),
        ("prune: {macs: 0.7, only: a}\n", "'only' must be a list"),
        ("prune: {macs: 0.7, reconstruct: 1}\n", "'reconstruct' must be true or false"),
        ("prune: {macs: 0.7, multiple: 2.5}\n", "'multiple' must be a whole number"),
        ("prune: {macs: 0.7, by: 3}\n", "'by' must be text"),
        ("prune: {macs: half}\n", "macs is a share"),
    ],
)
def test_a_wrong_pruning_step_is_named_with_its_recipe(tmp_path, text, said):
    path = tmp_path / "mine.yaml"
    path.write_text(BASE + text)
    with pytest.raises(UsageError, match=said) as caught:
        read_recipe(path)
    assert "mine.yaml" in str(caught.value)


def test_a_recipe_prunes_before_it_quantizes(net, photos, tmp_path):
    recipe = Recipe(
        "onnxruntime", "int8", quantize=True, limit=6, prune=PrunePlan(channels=0.5, by="l2")
    )
    path = write(recipe, tmp_path / "recipe.yaml")
    assert read_recipe(path) == recipe
    report = lg.compress(
        net, photos, tmp_path / "out", recipe=path, keep="psnr>=1", on=["onnxruntime"], threads=1
    )
    assert not [c["error"] for c in report.facts["candidates"] if c["error"]]
    small = lg.load(tmp_path / "out" / "generator.pt2")
    names = [s.name for s in small.history]
    assert names.index("prune_channels") < names.index("quantize_linear")
    assert small.params < net.params
    assert read_recipe(tmp_path / "out" / "recipe.yaml") == recipe


def test_a_recipe_that_prunes_what_is_quantized_is_refused(net, photos, tmp_path):
    quantized = lg.quantize(net, lg.calibrate(net, [net.example()]))
    path = write(Recipe("onnxruntime", "int8", prune=PrunePlan(macs=0.7)), tmp_path / "recipe.yaml")
    with pytest.raises(UsageError, match=r"quantized already.*The order is student, prune"):
        lg.compress(quantized, photos, tmp_path / "out", recipe=path, threads=1)
    with pytest.raises(UsageError, match="quantized"):
        prune(quantized, photos, tmp_path / "s.pt2", channels=0.5, limit=3)
    assert [p.name for p in tmp_path.iterdir()] == ["recipe.yaml"]


def test_what_is_pruned_already_is_compressed_like_anything(made, photos, tmp_path):
    report = lg.compress(
        made[1] / "small.pt2", photos, tmp_path / "out", keep="psnr>=1", on=["onnxruntime"],
        threads=1, limit=6,
    )  # fmt: skip
    assert report.delivered is not None
    assert not [c["error"] for c in report.facts["candidates"] if c["error"]]
    assert read_recipe(tmp_path / "out" / "recipe.yaml").prune is None


def test_zeros_are_counted_where_they_multiply(net):
    assert zero_share(net) == 0
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    with torch.no_grad():
        module[0].weight[:2] = 0
        module[0].bias.zero_()
    generator = lg.load(module, example_inputs=(1, 4))
    assert zero_share(generator) == pytest.approx(8 / 24)


def test_zeros_shrink_the_file_and_promise_no_time(net, photos, tmp_path):
    result = prune(
        net, photos, tmp_path / "s.pt2", weights=0.5, by="random", only=["conv*"], limit=3
    )
    facts = result.facts
    assert facts["after"]["zeros"] == pytest.approx(0.5, abs=0.01)
    assert facts["after"]["params"] == facts["before"]["params"]
    assert facts["widths"] == []
    assert any("Zeros save no time" in w for w in facts["warnings"])
    assert zero_share(lg.load(tmp_path / "s.pt2")) == facts["after"]["zeros"]
