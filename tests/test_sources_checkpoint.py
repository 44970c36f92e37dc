"""Weights are found at any nesting, under any prefix, and never fitted by halves."""

import random

import pytest
import torch
from torch import nn

from leangan.architectures.cyclegan import CYCLEGAN
from leangan.architectures.dcgan import DCGAN, DCGAN_DISCRIMINATOR
from leangan.architectures.hifigan import HIFIGAN
from leangan.architectures.mlp import MLP_DISCRIMINATOR
from leangan.architectures.rrdb import RRDB
from leangan.errors import LeanganError, UnsafeFile, UsageError
from leangan.sources.checkpoint import find_state, load_checkpoint, load_weights
from leangan.sources.fill import fill

SIZES = {"width": 8, "growth": 4, "blocks": 2}


def rrdb(seed=0, **arguments):
    torch.manual_seed(seed)
    return RRDB.build(**{**SIZES, **arguments}).eval()


def dcgan(seed=0):
    torch.manual_seed(seed)
    return DCGAN.build(latent=6, widths=(8, 4)).eval()


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


def saved(tmp_path, value, name="net.pth"):
    torch.save(value, tmp_path / name)
    return tmp_path / name


def same(a, b, x=None):
    x = torch.rand(1, 3, 8, 8) if x is None else x
    with torch.no_grad():
        return torch.equal(a(x), b(x))


EMA = [
    lambda a, b: {"params": a, "params_ema": b, "iter": 5},
    lambda a, b: {"state_dict": {"generator": a, "generator_ema": b}},
    lambda a, b: {"state_dict": {**prefixed(a, "generator."), **prefixed(b, "generator_ema.")}},
    lambda a, b: {"G": a, "G_ema": prefixed(b, "module."), "D": {"x": torch.zeros(1)}},
    lambda a, b: {"model": a, "ema": {"shadow": b, "decay": 0.999}},
    lambda a, b: {"g": a, "g_ema": b, "g_optim": {"state": {0: {"exp_avg": torch.zeros(3)}}}},
    lambda a, b: {
        **prefixed(a, "online_model."),
        **prefixed(b, "ema_model."),
        "step": torch.ones(1),
    },
]


@pytest.mark.parametrize("nest", EMA)
def test_the_moving_average_is_taken_and_said(tmp_path, nest):
    plain, ema = rrdb(1), rrdb(2)
    path = saved(tmp_path, nest(plain.state_dict(), ema.state_dict()))
    net, family, arguments, found = load_checkpoint(path)
    assert family is RRDB
    assert arguments["blocks"] == 2
    assert same(net, ema)
    assert not same(net, plain)
    assert "ema" in found.where.lower()
    assert "exponential moving average" in found.notes[0]
    assert not net.training


def test_a_data_parallel_state_dict_loads_bit_for_bit(tmp_path):
    net = rrdb()
    path = saved(tmp_path, nn.DataParallel(net).state_dict())
    loaded, _, _, found = load_checkpoint(path)
    assert same(net, loaded)
    assert "wrappers" in found.notes[0]


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "netG.",
        "generator.",
        "G.",
        "model.",
        "module.model.",
        "net_g.module.",
    ],
)
def test_prefixes_on_all_names(tmp_path, prefix):
    net = rrdb()
    loaded, *_ = load_checkpoint(saved(tmp_path, prefixed(net.state_dict(), prefix)))
    assert same(net, loaded)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "netG.", "model."])
def test_prefixes_on_some_names(tmp_path, prefix):
    net = rrdb()
    state = {
        (prefix + name if name.startswith("body") else name): tensor
        for name, tensor in net.state_dict().items()
    }
    loaded, *_ = load_checkpoint(saved(tmp_path, state))
    assert same(net, loaded)


def test_wrappers_in_the_middle_of_names(tmp_path):
    net = rrdb()
    state = {n.replace("body.", "body.module."): t for n, t in net.state_dict().items()}
    loaded, *_ = load_checkpoint(saved(tmp_path, state))
    assert same(net, loaded)


@pytest.mark.parametrize("lost", ["body.1.rdb2.conv3.bias", "conv_hr.weight", "conv_up2.bias"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_really_missing_key_fails_and_is_named(tmp_path, lost, prefix):
    state = rrdb().state_dict()
    del state[lost]
    with pytest.raises(LeanganError, match=rf"net\.pth.*missing: {lost}"):
        load_checkpoint(saved(tmp_path, prefixed(state, prefix)))


def test_an_unexpected_key_fails_and_is_named(tmp_path):
    state = rrdb().state_dict() | {"attention.weight": torch.zeros(3)}
    with pytest.raises(LeanganError, match=r"unexpected: attention\.weight"):
        load_checkpoint(saved(tmp_path, state))


def test_another_shape_fails_and_is_named(tmp_path):
    state = rrdb().state_dict()
    state["conv_hr.weight"] = torch.zeros(8, 8, 1, 1)
    with pytest.raises(
        LeanganError, match=r"conv_hr\.weight is \[8, 8, 1, 1\], needed \[8, 8, 3, 3\]"
    ):
        load_checkpoint(saved(tmp_path, state))


def test_a_damaged_average_is_not_replaced_in_silence(tmp_path):
    good, damaged = rrdb(1).state_dict(), rrdb(2).state_dict()
    del damaged["conv_hr.bias"]
    with pytest.raises(LeanganError, match=r"conv_hr\.bias"):
        load_checkpoint(saved(tmp_path, {"params": good, "params_ema": damaged}))


def test_depth_is_read_from_the_file(tmp_path):
    net = rrdb(blocks=5)
    loaded, _, arguments, found = load_checkpoint(saved(tmp_path, {"params": net.state_dict()}))
    assert arguments["blocks"] == 5
    assert same(net, loaded)
    assert "blocks 5" in found.notes[-1]


def test_another_depth_than_the_users_class_is_said_in_numbers(tmp_path):
    path = saved(tmp_path, rrdb(blocks=6).state_dict())
    with pytest.raises(LeanganError, match="body has 6 layers in the file and 23 in the network"):
        load_weights(rrdb(blocks=23), path)


def gan():
    torch.manual_seed(3)
    discriminator = DCGAN_DISCRIMINATOR.build(widths=(4, 8)).eval()
    return dcgan(), discriminator


@pytest.mark.parametrize(
    ("g", "d"),
    [
        ("generator", "discriminator"),
        ("netG", "netD"),
        ("G", "D"),
        ("G_ema", "D"),
        ("netG_state_dict", "netD_state_dict"),
        ("gen", "disc"),
        ("model_g", "model_d"),
    ],
)
@pytest.mark.parametrize("flat", [False, True])
def test_both_parts_of_a_whole_gan(tmp_path, g, d, flat):
    generator, discriminator = gan()
    parts = {g: generator.state_dict(), d: discriminator.state_dict()}
    if flat:
        parts = {f"{p}.{n}": t for p, state in parts.items() for n, t in state.items()}
    path = saved(tmp_path, {"epoch": 7, "state_dict": parts})
    net, family, *_ = load_checkpoint(path)
    assert family is DCGAN
    assert same(net, generator, torch.randn(2, 6, 1, 1))
    net, family, *_ = load_checkpoint(path, part="discriminator")
    assert family is DCGAN_DISCRIMINATOR
    assert same(net, discriminator, torch.rand(2, 3, 16, 16))


def test_a_missing_part_is_said(tmp_path):
    generator, discriminator = gan()
    path = saved(tmp_path, {"netD": discriminator.state_dict()})
    with pytest.raises(LeanganError, match="no generator in it; it holds netD"):
        load_checkpoint(path)
    path = saved(tmp_path, {"netG": generator.state_dict()})
    with pytest.raises(LeanganError, match="no discriminator in it; it holds netG"):
        load_checkpoint(path, part="discriminator")


def test_a_bare_discriminator_is_called_one(tmp_path):
    path = saved(tmp_path, MLP_DISCRIMINATOR.build(widths=(49, 8, 1)).state_dict())
    with pytest.raises(LeanganError, match=r"discriminator \(mlp-discriminator\).*--part"):
        load_checkpoint(path)
    assert load_checkpoint(path, part="discriminator")[1] is MLP_DISCRIMINATOR


def test_two_generators_are_listed_and_one_can_be_named(tmp_path):
    nets = [CYCLEGAN.build(width=4, blocks=1).eval() for _ in range(2)]
    path = saved(tmp_path, {"netG_A": nets[0].state_dict(), "netG_B": nets[1].state_dict()})
    with pytest.raises(LeanganError, match=r"several sets of weights.*netG_A, netG_B"):
        load_checkpoint(path)
    net, *_ = load_checkpoint(path, part="netG_B")
    assert same(net, nets[1], torch.rand(1, 3, 8, 8))
    with pytest.raises(LeanganError, match="no netG_C"):
        load_checkpoint(path, part="netG_C")


def test_the_same_weights_twice_are_no_riddle(tmp_path):
    state = rrdb().state_dict()
    net, *_ = load_checkpoint(saved(tmp_path, {"a": state, "b": dict(state)}))
    assert same(net, rrdb())


@pytest.mark.parametrize("prefix", ["", "model_g."])
def test_a_decoder_inside_of_a_larger_network(tmp_path, prefix):
    net = HIFIGAN.build(in_channels=12, width=16, rates=(4, 2), up_kernels=(8, 4), last_bias=False)
    whole = prefixed(net.state_dict(), "dec.") | {"enc_p.emb.weight": torch.zeros(5, 12)}
    whole = prefixed(whole, prefix) | {"model_d.conv.weight": torch.zeros(4)}
    loaded, family, _, found = load_checkpoint(saved(tmp_path, whole))
    assert family is HIFIGAN
    assert found.where == f"{prefix}dec"
    assert same(net.eval(), loaded, torch.randn(1, 12, 9))


def test_half_precision_becomes_float32(tmp_path):
    net = rrdb()
    state = {n: t.half() for n, t in net.state_dict().items()}
    loaded, _, _, found = load_checkpoint(saved(tmp_path, state))
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert same(rrdb_from(state), loaded)
    assert any("float16" in note for note in found.notes)


def rrdb_from(state):
    net = rrdb()
    net.load_state_dict({n: t.float() for n, t in state.items()})
    return net


def test_safetensors(tmp_path):
    from safetensors.torch import save_file

    net = rrdb()
    save_file(prefixed(net.state_dict(), "module."), tmp_path / "net.safetensors")
    assert same(net, load_checkpoint(tmp_path / "net.safetensors")[0])


def test_arguments_that_no_key_tells(tmp_path):
    sizes = {"in_channels": 12, "width": 16, "rates": (4, 2), "up_kernels": (8, 4)}
    net = HIFIGAN.build(**sizes, dilations=((1, 2, 4),) * 3).eval()
    path = saved(tmp_path, net.state_dict())
    x = torch.randn(1, 12, 30)
    loaded, _, _, found = load_checkpoint(path)
    assert not same(net, loaded, x)
    assert "assumed: rates (4, 2), dilations" in found.notes[-1]
    loaded, _, arguments, _ = load_checkpoint(path, arguments={"dilations": ((1, 2, 4),) * 3})
    assert same(net, loaded, x)
    assert arguments["dilations"] == ((1, 2, 4),) * 3
    with pytest.raises(UsageError, match=r"no argument 'dilation'; it has .*dilations"):
        load_checkpoint(path, arguments={"dilation": 3})


def test_batch_norm_translators_come_with_a_caution(tmp_path):
    net = CYCLEGAN.build(width=4, blocks=1, norm="batch")
    path = saved(tmp_path, net.state_dict())
    assert "norm=instance_affine" in load_checkpoint(path)[3].notes[-1]
    loaded, _, _, found = load_checkpoint(path, arguments={"norm": "instance_affine"})
    assert "norm=" not in found.notes[-1]
    x = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.allclose(loaded(x), net.train()(x), atol=1e-5)


def test_arguments_that_make_no_network(tmp_path):
    path = saved(tmp_path, rrdb().state_dict())
    with pytest.raises(UsageError, match="rrdb cannot be built"):
        load_checkpoint(path, arguments={"width": "many"})
    with pytest.raises(LeanganError, match="body has 2 layers in the file and 3 in the network"):
        load_checkpoint(path, arguments={"blocks": 3})


@pytest.mark.parametrize("seed", range(3))
def test_damage_of_any_kind_is_a_sentence(seed):
    rng = random.Random(seed)
    families = [RRDB.build(**SIZES), HIFIGAN.build(width=16), CYCLEGAN.build(width=4), dcgan()]
    for net in families:
        state = net.state_dict()
        for name in rng.sample(list(state), min(8, len(state))):
            if name.endswith("num_batches_tracked"):
                continue
            shape = [rng.randint(1, 5) for _ in range(rng.randint(0, 5))]
            with pytest.raises(LeanganError):
                fill_from(net, {**state, name: torch.zeros(shape)})


def fill_from(net, state):
    found = find_state(state)
    fill(net, found.state, "a file")


def test_an_unknown_network_names_the_file_and_the_way_out(tmp_path):
    path = saved(tmp_path, nn.LSTM(3, 4).state_dict())
    with pytest.raises(LeanganError, match=r"net\.pth: No known network.*file\.py:Class"):
        load_checkpoint(path)


@pytest.mark.parametrize("value", [{}, {"epoch": 3}, [1, 2], {"opt": {0: torch.ones(2)}}])
def test_a_file_without_weights(tmp_path, value):
    with pytest.raises(LeanganError, match="no weights in it"):
        load_checkpoint(saved(tmp_path, value))


def test_a_pickled_network_needs_trust(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 3, 3))
    path = saved(tmp_path, net)
    with pytest.raises(UnsafeFile, match=r"torch\.nn\.modules\.container\.Sequential.*--trust"):
        load_checkpoint(path)
    loaded, family, arguments, found = load_checkpoint(path, trust=True)
    assert family is None
    assert arguments == {}
    assert found.module is loaded
    assert same(net.eval(), loaded)


@pytest.mark.parametrize(
    ("g", "d"), [("generator", "discriminator"), ("netG", "netD"), ("G", "D"), ("G_ema", "D")]
)
def test_a_pickled_gan_gives_either_part(g, d):
    generator, discriminator = gan()
    whole = nn.ModuleDict({d: discriminator, g: generator})
    assert find_state(whole).module is generator
    assert find_state(whole, "discriminator").module is discriminator
    assert find_state({"model": whole}, "discriminator").module is discriminator


def test_a_pickled_gan_prefers_the_average():
    whole = nn.ModuleDict({"G": dcgan(1), "G_ema": dcgan(2), "D": gan()[1]})
    assert find_state(whole).module is whole["G_ema"]


def test_a_pickled_generator_has_no_discriminator():
    with pytest.raises(LeanganError, match="discriminator"):
        find_state(nn.Sequential(nn.Conv2d(3, 3, 3)), "discriminator")


class Own(nn.Module):
    """A class of the user's."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.decoder = nn.Conv2d(4, 3, 3)

    def forward(self, x):
        return self.decoder(self.encoder(x))


@pytest.mark.parametrize(
    "wrap",
    [
        dict,
        lambda s: {"netG": s},
        lambda s: prefixed(s, "module."),
        lambda s: prefixed(s, "net.generator."),
    ],
)
def test_weights_for_the_users_own_class(tmp_path, wrap):
    torch.manual_seed(0)
    source, target = Own().eval(), Own().eval()
    load_weights(target, saved(tmp_path, wrap(source.state_dict())))
    assert same(source, target)


def test_the_users_class_may_be_wrapped_too(tmp_path):
    source, target = Own().eval(), nn.DataParallel(Own()).eval()
    load_weights(target, saved(tmp_path, source.state_dict()))
    assert same(source, target.module)


@pytest.mark.filterwarnings("ignore")
def test_weight_norm_old_names_into_a_class_with_new_ones(tmp_path):
    old = nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 3, 3)))
    new = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 3)))
    load_weights(new, saved(tmp_path, old.state_dict()))
    assert same(old, new)


def test_a_foreign_file_for_the_users_class(tmp_path):
    target = Own()
    before = {n: t.clone() for n, t in target.state_dict().items()}
    with pytest.raises(LeanganError, match="another network than Own"):
        load_weights(target, saved(tmp_path, rrdb().state_dict()))
    state = Own().state_dict()
    del state["decoder.bias"]
    with pytest.raises(LeanganError, match=r"missing: decoder\.bias"):
        load_weights(target, saved(tmp_path, state))
    assert all(torch.equal(t, before[n]) for n, t in target.state_dict().items())
