"""Foreign naming schemes, weight normalization and old files map onto one network."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, remove_weight_norm, spectral_norm, weight_norm

from leangan.architectures import recognise, try_recognise
from leangan.architectures.base import fit
from leangan.architectures.cyclegan import CYCLEGAN
from leangan.architectures.dcgan import DCGAN, DCGAN_DISCRIMINATOR
from leangan.architectures.hifigan import HIFIGAN
from leangan.architectures.mlp import MLP
from leangan.architectures.patchgan import PATCHGAN
from leangan.architectures.pix2pix_unet import PIX2PIX_UNET
from leangan.architectures.reparameterized import plain_weights
from leangan.architectures.rrdb import RRDB
from leangan.architectures.srresnet import SRRESNET


def restored(state, family, **arguments):
    """The network that is built from nothing but `state`."""
    state = plain_weights(state)
    found, read = recognise(state)
    assert found is family
    read |= arguments
    assert fit(family, read, state) == 1
    net = family.build(**read).eval()
    net.load_state_dict(family.rename(state, read), strict=False)
    return net


def renamed(state, *changes):
    out = {}
    for name, tensor in state.items():
        for old, new in changes:
            name = name.replace(old, new)
        out[name] = tensor
    return out


def same(a, b, *inputs):
    with torch.no_grad():
        return torch.equal(a(*inputs), b(*inputs))


RRDB_OLD = (
    ("conv_body", "trunk_conv"),
    ("body.", "RRDB_trunk."),
    ("conv_up", "upconv"),
    ("conv_hr", "HRconv"),
    ("rdb", "RDB"),
)


@pytest.mark.parametrize("doublings", [1, 2, 3])
@pytest.mark.parametrize("scheme", ["old", "oldest"])
def test_rrdb_under_its_old_names(scheme, doublings):
    net = RRDB.build(width=8, growth=4, blocks=2, doublings=doublings).eval()
    state = net.state_dict()
    if scheme == "old":
        state = renamed(state, *RRDB_OLD)
        assert "RRDB_trunk.1.RDB3.conv5.bias" in state
    else:
        ups = [(f"conv_up{n + 1}.", f"model.{3 * (n + 1)}.") for n in range(doublings)]
        last = 3 * doublings + 2
        changes = [
            *ups,
            ("conv_body.", "model.1.sub.2."),
            ("conv_hr.", f"model.{last}."),
            ("conv_last.", f"model.{last + 2}."),
            ("conv_first.", "model.0."),
            *((f"conv{n}.", f"conv{n}.0.") for n in range(1, 6)),
            ("body.", "model.1.sub."),
            ("rdb", "RDB"),
        ]
        state = renamed(state, *changes)
        assert "model.1.sub.0.RDB1.conv1.0.weight" in state
    assert same(net, restored(state, RRDB), torch.rand(1, 3, 8, 8))


def test_srresnet_under_its_old_names():
    net = SRRESNET.build(width=4, blocks=2, scale=2).eval()
    state = renamed(net.state_dict(), ("body.", "recon_trunk."), ("conv_hr", "HRconv"))
    assert same(net, restored(state, SRRESNET), torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize("inside", ["block", "layers"])
def test_cyclegan_blocks_of_any_name(inside):
    net = CYCLEGAN.build(width=4, blocks=2, norm="instance_affine").eval()
    state = renamed(net.state_dict(), ("conv_block", inside))
    assert same(net, restored(state, CYCLEGAN), torch.rand(1, 3, 16, 16))


def test_cyclegan_with_unused_statistics_from_before_0_4_1():
    net = CYCLEGAN.build(width=4, blocks=2, norm="instance").eval()
    state = CYCLEGAN.build(width=4, blocks=2, norm="instance_tracked").state_dict()
    state = {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}
    state |= net.state_dict()
    assert same(net, restored(state, CYCLEGAN), torch.rand(1, 3, 16, 16))


def test_batch_norm_run_on_the_statistics_of_its_input():
    net = PIX2PIX_UNET.build(width=4, downs=4, norm="batch")
    for name, buffer in net.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
    state = copy.deepcopy(net.state_dict())
    x = torch.rand(1, 3, 16, 16)
    live = restored(state, PIX2PIX_UNET, norm="instance_affine")
    with torch.no_grad():
        wanted = net.train()(x)
        assert torch.allclose(live(x), wanted, atol=1e-5)
        assert not torch.allclose(restored(state, PIX2PIX_UNET)(x), wanted, atol=1e-2)


def test_batch_norm_without_counters_fits():
    net = DCGAN.build(latent=6, widths=(8, 4)).eval()
    state = {n: t for n, t in net.state_dict().items() if not n.endswith("num_batches_tracked")}
    assert same(net, restored(state, DCGAN), torch.randn(2, 6, 1, 1))


@pytest.mark.parametrize("prefix", ["", "gen.", "model."])
def test_dcgan_under_any_one_name(prefix):
    net = DCGAN.build(latent=6, widths=(8, 4)).eval()
    state = renamed(net.state_dict(), ("main.", prefix))
    assert same(net, restored(state, DCGAN), torch.randn(2, 6, 1, 1))


def test_mlp_with_dropout_between_its_layers():
    net = MLP.build(widths=(8, 16, 16, 49), shape=(1, 7, 7)).eval()
    changes = [(f"layers.{n}.", f"net.{3 * n}.") for n in (2, 1, 0)]
    state = renamed(net.state_dict(), *changes)
    assert same(net, restored(state, MLP), torch.randn(2, 8))


def test_mlp_takes_what_the_file_does_not_tell():
    net = MLP.build(widths=(8, 16, 49), hidden="leakyrelu", output="tanh", shape=(1, 7, 7)).eval()
    x = torch.randn(4, 8)
    state = net.state_dict()
    assert not same(net, restored(state, MLP), x)
    assert same(net, restored(state, MLP, hidden="leakyrelu", output="tanh"), x)


def reparameterize(net, wrap):
    for name, layer in list(net.named_modules()):
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d) and name:
            wrap(layer)
    return net


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("wrap", [weight_norm, parametrizations.weight_norm])
def test_hifigan_with_weight_norm_old_and_new(wrap):
    net = reparameterize(HIFIGAN.build(width=16, rates=(4, 2), up_kernels=(8, 4)), wrap).eval()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith(("weight_g", "original0")):
                parameter.mul_(1.5)
    state = net.state_dict()
    assert any(name.endswith(("weight_g", "original0")) for name in state)
    assert same(net, restored(state, HIFIGAN), torch.randn(1, 80, 9))


@pytest.mark.filterwarnings("ignore")
def test_hifigan_with_weight_norm_taken_off():
    net = reparameterize(HIFIGAN.build(width=16, rates=(4, 2), up_kernels=(8, 4)), weight_norm)
    reparameterize(net, remove_weight_norm)
    assert same(net.eval(), restored(net.state_dict(), HIFIGAN), torch.randn(1, 80, 9))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("wrap", [spectral_norm, parametrizations.spectral_norm])
def test_discriminator_with_spectral_norm_old_and_new(wrap):
    net = reparameterize(PATCHGAN.build(widths=(4, 8, 16), strides=(2, 2, 1, 1)), wrap)
    x = torch.rand(1, 3, 32, 32)
    net.train()(x)
    net.eval()
    with torch.no_grad():
        y = restored(net.state_dict(), PATCHGAN)(x)
        assert torch.allclose(net(x), y, atol=1e-6)


def test_plain_weights_leaves_half_a_pair_alone():
    state = {"a.weight_g": torch.ones(2), "b.weight": torch.ones(2, 2)}
    assert plain_weights(state).keys() == state.keys()


def test_the_two_parts_of_a_dcgan_are_told_apart():
    generator = DCGAN.build(latent=16, widths=(16, 8)).state_dict()
    discriminator = DCGAN_DISCRIMINATOR.build(widths=(8, 16)).state_dict()
    assert try_recognise(generator)[0] is DCGAN
    assert try_recognise(discriminator)[0] is DCGAN_DISCRIMINATOR
    assert try_recognise(generator, "discriminator") is None
    assert try_recognise(discriminator, "generator") is None
