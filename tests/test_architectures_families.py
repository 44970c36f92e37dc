"""Every family of ours against the base test case."""

from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from torch import nn

from leangan import architectures
from leangan.architectures.cyclegan import CYCLEGAN
from leangan.architectures.dcgan import DCGAN, DCGAN_DISCRIMINATOR
from leangan.architectures.fast_srgan import FAST_SRGAN
from leangan.architectures.hifigan import HIFIGAN
from leangan.architectures.hifigan_discriminator import HIFIGAN_DISCRIMINATOR
from leangan.architectures.istftnet import ISTFTNET
from leangan.architectures.mlp import MLP, MLP_DISCRIMINATOR
from leangan.architectures.mobile_stylegan import MOBILE_STYLEGAN
from leangan.architectures.patchgan import PATCHGAN
from leangan.architectures.pix2pix_unet import PIX2PIX_UNET
from leangan.architectures.rrdb import RRDB
from leangan.architectures.shuffle_resnet import SHUFFLE_RESNET
from leangan.architectures.small_unet import SMALL_UNET
from leangan.architectures.squeezenet import SQUEEZENET
from leangan.architectures.srgan import SRGAN
from leangan.architectures.srresnet import SRRESNET
from leangan.architectures.srvgg import SRVGG
from leangan.architectures.stylegan2_discriminator import STYLEGAN2_DISCRIMINATOR
from leangan.errors import LeanganError, UsageError
from leangan.testing.architectures import ArchitectureTests


class TestCycleGan(ArchitectureTests):
    family = CYCLEGAN
    cases = (
        {"width": 4, "blocks": 2, "norm": "instance_affine", "bias": True},
        {"width": 4, "blocks": 3, "norm": "instance", "in_channels": 1, "downs": 1},
        {"width": 4, "blocks": 1, "norm": "batch", "bias": False, "dropout": True},
        {"width": 4, "blocks": 1, "norm": "instance_tracked", "padding": "zero"},
        {"width": 4, "blocks": 1, "padding": "zero", "dropout": True, "upsample": "resize"},
    )


class TestPix2PixUnet(ArchitectureTests):
    family = PIX2PIX_UNET
    cases = (
        {"width": 4, "downs": 5, "norm": "batch", "bias": False},
        {"width": 4, "downs": 4, "norm": "instance", "bias": True, "out_channels": 1},
        {"width": 4, "downs": 2, "norm": "instance_affine", "bias": True},
    )
    sizes: ClassVar = {"N": 2, "H": 64, "W": 96}


class TestDcgan(ArchitectureTests):
    family = DCGAN
    optional = ("main.6.bias",)
    cases = (
        {"latent": 10, "widths": (16, 8, 4), "norm": "batch", "bias": False},
        {"latent": 6, "widths": (8, 4), "norm": "none", "bias": True, "last_bias": True},
        {"latent": 6, "widths": (8, 8), "channels": 1, "first": 7, "last_bias": True},
    )


class TestDcganDiscriminator(ArchitectureTests):
    family = DCGAN_DISCRIMINATOR
    cases = (
        {"widths": (4, 8, 16), "norm": "batch"},
        {"widths": (4, 8), "norm": "none", "bias": True, "channels": 1},
    )

    sizes: ClassVar = {"N": 2, "H": 64, "W": 96}


class TestPatchGan(ArchitectureTests):
    family = PATCHGAN
    cases = (
        {"widths": (4, 8, 16), "strides": (2, 2, 1, 1), "norm": "batch", "bias": False},
        {"widths": (4, 8, 16, 16), "norm": "instance", "in_channels": 6},
    )
    sizes: ClassVar = {"N": 2, "H": 64, "W": 96}


class TestSrgan(ArchitectureTests):
    family = SRGAN
    cases = (
        {"width": 4, "blocks": 2, "scale": 4},
        {"width": 4, "blocks": 1, "scale": 2, "norm": "none", "middle": "prelu"},
        {"width": 4, "blocks": 3, "scale": 8, "middle": "batch", "in_channels": 1},
    )


class TestFastSrgan(ArchitectureTests):
    family = FAST_SRGAN
    cases = ({"width": 4, "blocks": 2, "scale": 4}, {"width": 4, "blocks": 3, "scale": 2})


class TestSrResNet(ArchitectureTests):
    family = SRRESNET
    cases = (
        {"width": 4, "blocks": 2, "scale": 4},
        {"width": 4, "blocks": 1, "scale": 3},
        {"width": 4, "blocks": 3, "scale": 2},
    )


class TestRrdb(ArchitectureTests):
    family = RRDB
    cases = (
        {"width": 8, "growth": 4, "blocks": 1, "doublings": 2, "unshuffle": 2},
        {"width": 8, "growth": 4, "blocks": 2, "doublings": 2, "unshuffle": 1},
        {"width": 8, "growth": 4, "blocks": 1, "doublings": 2, "unshuffle": 4},
        {"width": 8, "growth": 4, "blocks": 1, "doublings": 3, "in_channels": 1, "out_channels": 1},
    )


class TestSrvgg(ArchitectureTests):
    family = SRVGG
    cases = (
        {"width": 8, "convs": 3, "scale": 4, "activation": "prelu"},
        {"width": 8, "convs": 2, "scale": 2, "activation": "relu", "channels": 1},
    )


class TestShuffleResnet(ArchitectureTests):
    family = SHUFFLE_RESNET
    cases = (
        {"width": 8, "blocks": 3, "factor": 4, "gated": (1,)},
        {"width": 6, "blocks": 2, "factor": 2, "gated": (), "channels": 1},
    )


class TestHifigan(ArchitectureTests):
    family = HIFIGAN
    optional = ("conv_post.bias",)  # a VITS decoder has none
    cases = (
        {"width": 16, "rates": (4, 2), "up_kernels": (8, 4), "block": 1},
        {
            "in_channels": 12,
            "width": 16,
            "rates": (4, 2, 2),
            "up_kernels": (8, 4, 4),
            "kernels": (3, 5, 7),
            "dilations": ((1, 2), (2, 6), (3, 12)),
            "block": 2,
            "last_bias": False,
        },
    )


class TestIstftnet(ArchitectureTests):
    family = ISTFTNET
    cases = (
        {"width": 8, "rates": (4,), "up_kernels": (8,), "kernels": (3,), "dilations": ((1, 3),)},
        {
            "in_channels": 12, "width": 8, "rates": (4, 2), "up_kernels": (8, 4), "block": 2,
            "dilations": ((1, 2), (2, 6), (3, 12)), "points": 20,
        },
    )  # fmt: skip


class TestSmallUnet(ArchitectureTests):
    family = SMALL_UNET
    cases = ({"widths": (4, 8, 6), "blocks": 1}, {"widths": (4, 8), "blocks": 0, "channels": 1})


class TestMobileStyleGan(ArchitectureTests):
    family = MOBILE_STYLEGAN
    cases = (
        {"latent": 6, "widths": (8, 12, 6), "style": 10, "depth": 2},
        {"latent": 8, "widths": (8,), "style": 8, "depth": 1, "channels": 1},
    )


class TestHifiganDiscriminator(ArchitectureTests):
    family = HIFIGAN_DISCRIMINATOR
    cases = (
        {"periods": (2,), "scales": 2, "period_width": 2, "scale_width": 16},
        {"periods": (2, 3, 5), "scales": 0, "period_width": 3},
        {"periods": (), "scales": 1, "scale_width": 16},
    )
    sizes: ClassVar = {"N": 2, "T": 1201}


class TestStyleGan2Discriminator(ArchitectureTests):
    family = STYLEGAN2_DISCRIMINATOR
    cases = ({"widths": (4, 8, 8)}, {"widths": (4, 6, 8, 8), "channels": 1})


class TestMlp(ArchitectureTests):
    family = MLP
    cases = (
        {"widths": (8, 16, 49), "shape": (1, 7, 7)},
        {"widths": (8, 16, 16, 75), "shape": (3, 5, 5)},
    )


class TestMlpDiscriminator(ArchitectureTests):
    family = MLP_DISCRIMINATOR
    cases = ({"widths": (49, 16, 1), "hidden": "leakyrelu", "flatten": True},)


class TestSqueezeNet(ArchitectureTests):
    family = SQUEEZENET
    cases = ({},)
    sizes: ClassVar = {"N": 2, "H": 65, "W": 81}


def test_every_family_is_tested_here():
    tested = {c.family.name for c in ArchitectureTests.__subclasses__()}
    assert tested == {a.name for a in architectures.ARCHITECTURES}


def test_an_unknown_network_is_described():
    state = nn.Sequential(nn.LSTM(3, 4)).state_dict()
    with pytest.raises(LeanganError, match=r"weights such as 0\.weight_ih_l0 \[16, 3\].*cyclegan"):
        architectures.recognise(state)


def test_an_unknown_name_lists_the_known_ones():
    assert architectures.architecture("rrdb") is RRDB
    with pytest.raises(UsageError, match=r"'rrbd'.*rrdb"):
        architectures.architecture("rrbd")


def test_a_classifier_is_no_generator():
    net = nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))
    assert architectures.try_recognise(net.state_dict()) is None


def test_the_families_of_a_part():
    assert DCGAN in architectures.part_architectures("generator")
    assert PATCHGAN in architectures.part_architectures("discriminator")
    assert PATCHGAN not in architectures.part_architectures("generator")
    assert architectures.part_architectures("features") == (SQUEEZENET,)


def test_families_of_other_packages_are_asked_too(monkeypatch):
    foreign = replace(
        RRDB, name="foreign", recognise=lambda state: {} if "foreign.weight" in state else None
    )
    entry = SimpleNamespace(load=lambda: foreign)
    monkeypatch.setattr(architectures, "entry_points", lambda group: [entry])
    architectures.all_architectures.cache_clear()
    try:
        assert architectures.recognise({"foreign.weight": torch.zeros(2)}) == (foreign, {})
        assert architectures.architecture("foreign") is foreign
    finally:
        monkeypatch.undo()
        architectures.all_architectures.cache_clear()


def test_a_known_name_on_an_impossible_shape_is_another_network():
    state = {"conv_first.weight": torch.zeros(()), "conv_last.weight": torch.zeros(())}
    state |= {"body.0.rdb1.conv1.weight": torch.zeros(()), "upconv1.weight": torch.zeros(())}
    assert architectures.try_recognise(state) is None


def test_squeezenet_puts_out_the_layers_of_its_stages():
    net = SQUEEZENET.build().eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        maps = net(x)
        expected = net.features[:5](x)
    assert len(maps) == 7
    assert torch.equal(maps[1], expected)
