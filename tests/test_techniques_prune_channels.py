"""Channel pruning from end to end: what comes out is smaller, still right, and says what went."""

from __future__ import annotations

import json

import pytest
import torch
from task_nets import Smooth, image_generator, latent_generator
from torch import nn

from leangan.errors import LeanganError, UsageError
from leangan.generator import Port
from leangan.graph.cost import macs
from leangan.techniques.calibrate import calibrate
from leangan.techniques.prune_channels import prune_channels
from leangan.techniques.quantize_linear import quantize

DATA = [(torch.rand(1, 3, 24, 28, generator=torch.Generator().manual_seed(i)),) for i in range(4)]
HELD_OUT = torch.rand(2, 3, 20, 32, generator=torch.Generator().manual_seed(99))


class Doubled(nn.Module):
    """16 maps of which 8 are mixes of the others, then 12 maps, all different."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 12, 3, padding=1)
        self.last = nn.Conv2d(12, 3, 3, padding=1)
        with torch.no_grad():
            self.first.weight[8:] = 0.7 * self.first.weight[:8]
            self.first.bias[8:] = 0.7 * self.first.bias[:8]

    def forward(self, x):
        return self.last(self.second(self.first(x).relu()).tanh())


@pytest.fixture(scope="module")
def doubled():
    return image_generator(Doubled())


def error(generator, pruned):
    (whole,), (left,) = generator.outputs(HELD_OUT), pruned.outputs(HELD_OUT)
    return float((whole - left).square().mean() / whole.var())


def test_what_is_there_twice_goes_and_the_output_stays(doubled):
    pruned = prune_channels(doubled, macs=0.7, data=DATA)
    (step,) = pruned.history[len(doubled.history) :]
    assert step.measured["widths"] == {"first": [16, 8]}
    assert {k % 8 for k in step.measured["kept"]["first"]} == set(range(8))  # one of each pair
    assert error(doubled, pruned) < 1e-6
    assert error(doubled, prune_channels(doubled, macs=0.7, by="random", data=DATA)) > 1e-3
    assert error(doubled, prune_channels(doubled, macs=0.7, data=DATA, reconstruct=False)) > 1e-3


def test_the_history_tells_what_was_asked_and_what_came_out(doubled):
    pruned = prune_channels(doubled, macs=0.6, data=DATA, by="l1", seed=3)
    step = pruned.history[-1]
    assert step.name == "prune_channels"
    assert step.settings["amount"] == {"macs": 0.6}
    assert (step.settings["by"], step.settings["seed"], step.settings["samples"]) == ("l1", 3, 4)
    assert step.measured["macs"] == [macs(doubled), macs(pruned)]
    assert step.measured["params"] == [doubled.params, pruned.params]
    assert macs(pruned) <= 0.6 * macs(doubled)
    assert step.measured["fixed"] == {"reaches the output": pytest.approx(3 / doubled.params)}
    assert json.loads(json.dumps(step.measured)) == step.measured
    assert json.loads(json.dumps(step.settings)) == step.settings


def test_the_generator_itself_is_left_alone_and_free_sizes_stay_free(doubled):
    before = doubled.outputs(HELD_OUT)[0].clone()
    params = doubled.params
    pruned = prune_channels(doubled, 0.5, data=DATA)
    assert doubled.params == params
    assert torch.equal(doubled.outputs(HELD_OUT)[0], before)
    assert pruned.signature == doubled.signature
    assert pruned.outputs(torch.rand(3, 3, 17, 41))[0].shape == (3, 3, 17, 41)


@pytest.mark.parametrize("scope", ["global", "uniform"])
def test_a_ratio_is_the_share_of_channels_that_go(doubled, scope):
    pruned = prune_channels(doubled, 0.5, data=DATA, scope=scope, multiple=1, reconstruct=False)
    widths = pruned.history[-1].measured["widths"].values()
    assert sum(before - after for before, after in widths) == 14
    if scope == "uniform":
        assert sorted(widths) == [[12, 6], [16, 8]]


def test_parameters_are_a_budget_too(doubled):
    pruned = prune_channels(doubled, params=0.5, data=DATA, reconstruct=False)
    assert 0.3 * doubled.params < pruned.params <= 0.5 * doubled.params


def test_only_the_named_groups_lose_channels(doubled):
    pruned = prune_channels(doubled, 0.3, data=DATA, only=["sec*"], reconstruct=False)
    assert list(pruned.history[-1].measured["widths"]) == ["second"]
    with pytest.raises(UsageError, match=r"'secnd'; did you mean second\?"):
        prune_channels(doubled, 0.3, data=DATA, only=["secnd"])
    with pytest.raises(UsageError, match="no group"):
        prune_channels(doubled, 0.3, data=DATA, only=[])


def test_the_same_seed_gives_the_same_network(doubled):
    one, two = (prune_channels(doubled, 0.4, by="random", data=DATA, seed=5) for _ in range(2))
    assert torch.equal(one.outputs(HELD_OUT)[0], two.outputs(HELD_OUT)[0])
    other = prune_channels(doubled, 0.4, by="random", data=DATA, seed=6)
    assert one.history[-1].measured["kept"] != other.history[-1].measured["kept"]


def test_progress_tells_what_is_done(doubled):
    seen = []
    prune_channels(doubled, 0.4, data=DATA, progress=lambda *step: seen.append(step))
    assert {what for what, _, _ in seen} >= {"measuring what the output loses", "refitting weights"}
    assert all(0 <= done <= of for _, done, of in seen)
    assert seen[-1][1] == seen[-1][2]


def test_weights_alone_need_no_data(doubled):
    pruned = prune_channels(doubled, macs=0.7, by="l2", reconstruct=False)
    assert pruned.history[-1].settings["samples"] == 0
    assert macs(pruned) <= 0.7 * macs(doubled)


@pytest.mark.parametrize(
    ("by", "reconstruct", "named"),
    [("redundancy", False, "redundancy"), ("l1", True, "reconstruct"), ("apoz", False, "apoz")],
)
def test_pictures_cannot_be_made_up(doubled, by, reconstruct, named):
    with pytest.raises(UsageError, match=rf"{named}.*image \(image\).*give data"):
        prune_channels(doubled, 0.5, by=by, reconstruct=reconstruct)
    with pytest.raises(UsageError, match="empty"):
        prune_channels(doubled, 0.5, by=by, reconstruct=reconstruct, data=[])


def test_latents_are_drawn():
    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.head, self.mid = nn.Linear(6, 16 * 16), nn.Conv2d(16, 16, 3, padding=1)
            self.last = nn.Conv2d(16, 3, 3, padding=1)

        def forward(self, z):
            return self.last(self.mid(self.head(z).relu().view(-1, 16, 4, 4)).relu()).tanh()

    latent = Port("z", "latent", "NL", (None, 6), (1, 6))
    image = Port("image", "image", "NCHW", (None, 3, 4, 4), (1, 3, 4, 4), (-1.0, 1.0))
    generator = latent_generator(Decoder(), [latent], image, [torch.randn(2, 6)])
    pruned = prune_channels(generator, 0.4)
    settings = pruned.history[-1].settings
    assert settings["samples"] >= 8
    # Sixteen rows of the linear layer stand behind each channel of the view.
    assert pruned.params < 0.75 * generator.params
    z = torch.randn(64, 6)
    whole, left = generator.outputs(z)[0], pruned.outputs(z)[0]
    assert float((whole - left).square().mean()) < 0.2 * float(whole.var())


@pytest.mark.parametrize("amounts", [{}, {"ratio": 0.5, "macs": 0.5}, {"macs": 0.5, "params": 0.5}])
def test_exactly_one_amount_is_asked_for(doubled, amounts):
    with pytest.raises(UsageError, match="exactly one of ratio"):
        prune_channels(doubled, **amounts, data=DATA)


@pytest.mark.parametrize("amounts", [{"ratio": 0.0}, {"ratio": 1.0}, {"macs": 1.0}, {"params": 2}])
def test_shares_lie_between_zero_and_one(doubled, amounts):
    with pytest.raises(UsageError, match="between 0 and 1"):
        prune_channels(doubled, **amounts, data=DATA)


def test_what_cannot_be_reached_or_is_not_known_is_refused(doubled):
    with pytest.raises(UsageError, match="are left"):
        prune_channels(doubled, macs=0.01, data=DATA)
    with pytest.raises(UsageError, match="criterion"):
        prune_channels(doubled, 0.5, by="magic", data=DATA)


def test_nothing_to_prune_is_no_success():
    single = image_generator(nn.Conv2d(3, 3, 3, padding=1))
    with pytest.raises(LeanganError, match=r"no channel.*100% of the parameters.*output"):
        prune_channels(single, 0.5, data=DATA)


def test_a_quantized_generator_is_refused_with_the_right_order():
    generator = image_generator(Smooth())
    eight = quantize(generator, calibrate(generator, DATA))
    with pytest.raises(UsageError, match=r"[Pp]rune.*quantize"):
        prune_channels(eight, 0.5, data=DATA)
