"""The game: each side's loss, a discriminator that learns, and a GAN from nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import leangan as lg
from leangan.errors import UsageError
from leangan.measure.frechet import enough, frechet
from leangan.search.train_new import train_gan
from leangan.training.adversary import Discriminator
from leangan.training.discriminators import GraphDiscriminator, SpectralDiscriminator
from leangan.training.examples import Batch
from leangan.training.losses.adversarial import GAMES, r1


@pytest.mark.parametrize("name", GAMES)
def test_each_side_wants_what_it_should(name):
    game = GAMES[name]
    good, bad = torch.full((4, 1), 3.0), torch.full((4, 1), -3.0)
    if name == "lsgan":  # it wants 1 and 0
        good, bad = torch.ones(4, 1), torch.zeros(4, 1)
    assert float(game.judge(good, bad)) < float(game.judge(bad, good))
    assert float(game.maker(good)) < float(game.maker(bad))


def test_the_slope_is_that_of_the_scores():
    torch.manual_seed(0)
    linear = nn.Linear(5, 1)
    expected = float(linear.weight.square().sum()) / 2
    assert float(r1(linear, torch.randn(7, 5))) == pytest.approx(expected, rel=1e-5)


def batch(seed):
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(16, 1, 16, 16, generator=rng) * 0.2 + 0.8


@pytest.mark.parametrize("game", GAMES)
def test_a_discriminator_learns_and_waits_when_it_wins(game):
    torch.manual_seed(0)
    judge = Discriminator(SpectralDiscriminator(1, 16, 8), game=game, lr=5e-3)
    waited = []
    for step in range(150):
        real, made = batch(step), -batch(step + 999)
        told = judge.learn(made, Batch((), real), step / 150)
        waited.append(judge.waited)
    assert judge.network(batch(5000)).mean() > judge.network(-batch(5001)).mean()
    if game != "lsgan":  # its scores are around a half, not around zero
        assert told["discriminator_right"] > 0.9
        assert waited[-1] > 0
    terms = judge.terms(-batch(1).requires_grad_(), Batch((), batch(2)))
    terms["adversarial"].backward()
    assert all(p.grad is None or not p.requires_grad for p in judge.network.parameters())


def test_a_checkpoint_holds_all_of_it():
    torch.manual_seed(0)
    one = Discriminator(SpectralDiscriminator(1, 16, 8))
    for step in range(3):
        one.learn(-batch(step), Batch((), batch(step + 9)), 0.0)
    other = Discriminator(SpectralDiscriminator(1, 16, 8))
    other.load_state_dict(one.state_dict())
    for judge in (one, other):
        judge.network.eval()
    assert torch.equal(one.network(batch(1)), other.network(batch(1)))
    assert (one.step, one.right) == (other.step, other.right)


def test_there_is_no_other_game():
    with pytest.raises(UsageError, match="choose from"):
        Discriminator(SpectralDiscriminator(1, 16), game="chess")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    rng = np.random.default_rng(0)
    for number in range(70):
        picture = np.zeros((16, 16), np.uint8)
        x, y = rng.integers(2, 10, 2)
        picture[y : y + 4, x : x + 4] = 255
        Image.fromarray(picture).save(folder / f"{number}.png")
    return folder


def test_a_gan_from_nothing_is_a_generator_like_any_other(digits, tmp_path):
    settings = lg.TrainSettings(steps=12, batch=16, lr=1e-3, beta=0.5, ema=0.5)
    found = train_gan(digits, tmp_path / "run", settings=settings, width=8, threads=1)
    opened = lg.load(tmp_path / "run" / "generator.pt2")
    assert opened.task == "synthesis"
    assert [p.kind for p in opened.signature.inputs] == ["latent"]
    assert opened.signature.outputs[0].shape[1:] == (1, 16, 16)
    assert torch.equal(opened(*opened.example()), found.generator(*opened.example()))
    assert (tmp_path / "run" / "samples" / "step-000012.png").exists()
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["training"]["steps"] == 12
    pruned = lg.prune_channels(opened, macs=0.5)
    assert pruned.params < opened.params


def test_averaged_weights_have_statistics_of_their_own(digits, tmp_path):
    settings = lg.TrainSettings(steps=30, batch=16, lr=5e-3, beta=0.5, ema=0.9)
    made = train_gan(digits, tmp_path / "run", settings=settings, width=8, threads=1).generator
    module = made.module()
    first = next(n for n in module.graph.nodes if "relu" in str(n.target))
    output = module.graph.output_node()
    output.args = ((first.args[0],),)
    module.graph.set_codegen(torch.fx.graph.CodeGen())
    module.recompile()
    maps = module(torch.randn(256, *made.signature.inputs[0].shape[1:]))[0]
    # What the first norm puts out has a deviation of its scale, about 1, whatever was averaged.
    spread = maps.std((0, 2, 3))
    assert 0.8 < float(spread.min()) < float(spread.max()) < 1.2


def test_what_cannot_be_trained_from_nothing_is_said(digits, tmp_path):
    settings = lg.TrainSettings(steps=1)
    with pytest.raises(UsageError, match="noise"):
        train_gan(digits, tmp_path / "a", spec="srvgg", settings=settings)
    few = tmp_path / "few"
    few.mkdir()
    Image.new("L", (16, 16)).save(few / "one.png")
    with pytest.raises(UsageError, match="many more"):
        train_gan(few, tmp_path / "b", settings=settings)


def test_the_distance_of_gaussians_is_known():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(4000, 6))
    assert frechet(a, a) == pytest.approx(0, abs=1e-8)
    assert frechet(a, a + 2.0) == pytest.approx(24, rel=1e-6)
    # Of standard deviations 1 and 3 without correlation: (3 - 1)^2 a dimension.
    assert frechet(a, 3 * a) == pytest.approx(4 * 6, rel=0.05)
    assert enough(12, 6)
    assert not enough(11, 6)


def test_a_discriminator_from_its_file_judges_while_a_student_learns(digits, tmp_path):
    from leangan.search.lesson import Judge

    settings = lg.TrainSettings(steps=8, batch=16, lr=1e-3, beta=0.5)
    gan = train_gan(digits, tmp_path / "gan", settings=settings, width=8, threads=1).generator
    few = lg.TrainSettings(steps=10, batch=8, lr=1e-3, precision="fp32", examples=32)
    judge = Judge(tmp_path / "gan" / "discriminator.pt2", 0.05)
    found = lg.distill(
        gan, "narrow:0.6", None, tmp_path / "run", settings=few, judge=judge, threads=1
    )
    assert set(found.facts["training"]["losses"]) == {"charbonnier", "adversarial"}
    assert found.facts["settings"]["judge"]["weight"] == 0.05
    with pytest.raises(UsageError, match="cannot judge"):
        lg.finetune(
            gan, None, tmp_path / "other", settings=few, threads=1,
            judge=Judge(lg.load(nn.Conv2d(3, 1, 4), example_inputs=torch.rand(1, 3, 9, 9))),
        )  # fmt: skip


def test_a_new_discriminator_learns_what_its_layers_are_to_see_alike(tmp_path):
    from task_nets import latent_net

    from leangan.search.lesson import Judge

    few = lg.TrainSettings(steps=6, batch=4, lr=1e-3, precision="fp32", examples=16)
    words = "patchgan:widths=[8,16],strides=[2,1,1]"
    found = lg.distill(
        latent_net(), latent_net(), None, tmp_path / "run", settings=few, threads=1,
        judge=Judge(words, 0.05, matching=0.1),
    )  # fmt: skip
    assert set(found.facts["training"]["losses"]) == {"charbonnier", "adversarial", "matching"}
    assert found.facts["settings"]["judge"]["matching"] == 0.1
    with pytest.raises(UsageError, match="cannot be built"):
        lg.distill(
            latent_net(), latent_net(), None, tmp_path / "other", settings=few,
            judge=Judge("patchgan:width=8"),
        )  # fmt: skip


def test_matching_is_the_difference_of_layers_and_leaves_the_judge_alone():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 1, 3))
    judge = Discriminator(network, look=lambda x: (network(x), [network[0](x)]), matching=2.0)
    real, made = batch(1), (batch(2) - 1).requires_grad_()
    seen, wanted = network[0](made), network[0](real)
    expected = 2 * float((seen - wanted).abs().mean() / wanted.abs().mean())
    terms = judge.terms(made, Batch((), real))
    assert float(terms["matching"].detach()) == pytest.approx(expected, rel=1e-5)
    terms["matching"].backward()
    assert made.grad.abs().max() > 0
    assert network[0].weight.grad is None
    assert float(judge.terms(real, Batch((), real))["matching"]) == 0


def test_a_sigmoid_at_the_end_of_a_discriminator_goes(digits):
    from task_nets import latent_net

    torch.manual_seed(0)
    scores = nn.Sequential(nn.Conv2d(3, 4, 4, 2), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 7))
    shape = (1, 3, 16, 16)
    with_sigmoid = lg.load(nn.Sequential(*scores, nn.Sigmoid()).eval(), example_inputs=[shape])
    judge = GraphDiscriminator(with_sigmoid, latent_net())
    x = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(judge(x), (scores(x),))


class Together(nn.Module):
    def __init__(self, *judges):
        super().__init__()
        self.judges = nn.ModuleList(judges)

    def forward(self, x):
        return tuple(judge(x) for judge in self.judges)


def test_discriminators_that_judge_together_count_alike_whatever_they_put_out():
    torch.manual_seed(0)
    few, many = nn.Linear(8, 1), nn.Linear(8, 5)
    both = Discriminator(Together(few, many), game="lsgan", slope=0.0)
    made, real = torch.randn(4, 8), torch.randn(4, 8)
    game = GAMES["lsgan"]
    expected = (game.maker(few(made)) + game.maker(many(made))) / 2
    terms = both.terms(made, Batch((), real))
    assert float(terms["adversarial"]) == pytest.approx(float(expected.detach()), rel=1e-5)
    losses = [float(game.judge(x(real), x(made)).detach()) for x in (few, many)]
    told = both.learn(made, Batch((), real), 0.0)
    assert told["discriminator"] == pytest.approx(sum(losses) / 2, rel=1e-5)
    slope = few.weight.sum(0) + many.weight.sum(0)
    expected = slope.square().sum() / 2
    assert float(r1(both.network, real)) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_several_discriminators_of_sound_judge_at_any_length(tmp_path):
    from task_nets import voice_net

    from leangan.search.lesson import Judge

    for number in range(2):
        np.save(tmp_path / f"{number}.npy", np.random.default_rng(number).normal(size=(1, 4, 90)))
    few = lg.TrainSettings(steps=6, batch=4, lr=1e-3, precision="fp32", examples=16)
    words = "hifigan-discriminator:periods=[3],scales=1,period_width=2,scale_width=16"
    found = lg.distill(
        voice_net(), voice_net(), tmp_path, tmp_path / "run", settings=few, threads=1, size=62,
        losses={"mel": 1.0}, judge=Judge(words, 0.05, matching=0.1),
    )  # fmt: skip
    losses = found.facts["training"]["losses"]
    assert set(losses) == {"mel", "adversarial", "matching"}
    assert all(0 < value < 10 for value in losses.values())


def test_a_judge_of_one_size_judges_at_no_other():
    from task_nets import latent_net

    from leangan.search.lesson import Judge

    opened = Judge("stylegan2-discriminator:widths=[4,4,4]").opened(0)
    network = GraphDiscriminator(opened, latent_net())
    judge = Discriminator(network, look=network.look, matching=0.1, lr=1e-2)
    made, real = torch.rand(2, 4, 3, 16, 16)
    before = judge.terms(made, Batch((), real))
    for _ in range(5):
        judge.learn(made, Batch((), real), 0.0)
    after = judge.terms(made, Batch((), real))
    assert set(after) == {"adversarial", "matching"}
    assert after["adversarial"] > before["adversarial"]
    other = lg.load(nn.Conv2d(3, 3, 3, padding=1), example_inputs=torch.rand(1, 3, 24, 24))
    with pytest.raises(UsageError, match="cannot judge"):
        GraphDiscriminator(opened, other)
