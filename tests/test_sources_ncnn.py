"""ncnn files: what they compute, and that damaged ones fail with a sentence."""

import random
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from leangan.errors import LeanganError
from leangan.sources.module import from_module
from leangan.sources.ncnn import read_ncnn
from leangan.sources.ncnn_module import NcnnModule

PARAM = """7767517
11 14
Input            in       0 1 data
Split            split    1 2 data data_0 data_1
Convolution      first    1 1 data_0 a 0=6 1=3 4=1 5=1 6=162 9=2 -23310=1,2.000000e-01
Split            split2   1 2 a a_0 a_1
Convolution      second   1 1 a_0 b 0=6 1=3 2=2 4=2 5=1 6=324
PReLU            prelu    1 1 b c 0=6
Eltwise          sum      2 1 c a_1 d 0=1 -23301=2,2.000000e-01,1.000000e+00
Concat           cat      2 1 d data_1 e
Convolution      last     1 1 e f 0=12 1=1 5=0 6=108
PixelShuffle     shuffle  1 1 f g 0=2
Interp           resize   1 1 g output 0=1 1=2.000000e+00 2=2.000000e+00
"""
SHAPES = {"first": (6, 3, 3, 3), "second": (6, 6, 3, 3), "last": (12, 9, 1, 1)}


def write(folder: Path, *, half: bool = False) -> tuple[Path, dict[str, torch.Tensor]]:
    """The network above with random weights, and these weights."""
    rng = torch.Generator().manual_seed(0)
    weights: dict[str, torch.Tensor] = {}
    data = b""

    def flagged(name: str) -> bytes:
        value = torch.randn(SHAPES[name], generator=rng)
        if half:
            value = value.half().float()
        weights[name] = value
        if not half:
            return struct.pack("<I", 0) + value.numpy().astype("<f4").tobytes()
        raw = value.numpy().astype("<f2").tobytes()
        return struct.pack("<I", 0x01306B47) + raw + b"\0" * (-len(raw) % 4)

    def plain(name: str) -> bytes:
        weights[name] = torch.randn(6, generator=rng)
        return weights[name].numpy().astype("<f4").tobytes()

    data += flagged("first") + plain("first.bias")
    data += flagged("second") + plain("second.bias")
    data += plain("slope") + flagged("last")
    (folder / "net.bin").write_bytes(data)
    (folder / "net.param").write_text(PARAM)
    return folder / "net.param", weights


def expected(x: torch.Tensor, w: dict[str, torch.Tensor]) -> torch.Tensor:
    a = F.leaky_relu(F.conv2d(x, w["first"], w["first.bias"], padding=1), 0.2)
    b = F.prelu(F.conv2d(a, w["second"], w["second.bias"], padding=2, dilation=2), w["slope"])
    e = torch.cat([0.2 * b + a, x], 1)
    return F.interpolate(F.pixel_shuffle(F.conv2d(e, w["last"]), 2), scale_factor=2)


@pytest.mark.parametrize("half", [False, True])
def test_it_computes_what_ncnn_computes(tmp_path: Path, half: bool) -> None:
    param, weights = write(tmp_path, half=half)
    module = NcnnModule(read_ncnn(param, param.with_suffix(".bin")))
    x = torch.randn(2, 3, 9, 11)
    torch.testing.assert_close(module(x), expected(x, weights))


def test_it_exports_with_free_sizes(tmp_path: Path) -> None:
    param, weights = write(tmp_path)
    module = NcnnModule(read_ncnn(param, param.with_suffix(".bin")))
    generator = from_module(module, [torch.rand(1, 3, 16, 16)])
    assert generator.signature.inputs[0].shape == (None, 3, None, None)
    x = torch.randn(3, 3, 13, 21)
    torch.testing.assert_close(generator(x), expected(x, weights), rtol=1e-4, atol=1e-4)


def test_named_outputs_leave_out_what_they_do_not_need(tmp_path: Path) -> None:
    param, _ = write(tmp_path)
    module = NcnnModule(read_ncnn(param, param.with_suffix(".bin")), ["a", "c"])
    a, c = module(torch.randn(1, 3, 8, 8))
    assert a.shape == c.shape == (1, 6, 8, 8)
    kept = {tuple(p.shape) for p in module.parameters()}
    assert SHAPES["last"] not in kept
    assert SHAPES["second"] in kept


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("7767517", "7767518"), "first line"),
        (("11 14", "12 14"), "announces 12 layers"),
        (("PReLU ", "Gloop "), "weights|bytes"),
        (("6=324", "6=325"), "do not make"),
        (("6=324", "6=nan"), "no usable number"),
        (("0=6 1=3 4=1", "0=6000000 1=3 4=1"), "setting 0"),
        (("1=2.000000e+00 2", "1=1e9 2"), "Interp"),
        (("d data_1 e", "d nobody e"), "'nobody'"),
        (("9=2 -23310=1,2.000000e-01", "9=77"), "activation 77"),
        (("9=2 -23310=1,2.000000e-01", "9=2 -23310=2,2.000000e-01"), "another length"),
        (("Concat  ", "Mystery "), "kind Mystery"),
    ],
)
def test_a_wrong_param_is_named(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    param, _ = write(tmp_path)
    param.write_text(PARAM.replace(*change))
    with pytest.raises(LeanganError, match=says):
        NcnnModule(read_ncnn(param, param.with_suffix(".bin")))


def test_wrong_weights_are_named(tmp_path: Path) -> None:
    param, _ = write(tmp_path)
    file = param.with_suffix(".bin")
    data = file.read_bytes()
    file.write_bytes(data[:-5])
    with pytest.raises(LeanganError, match=r"cut short.*'last'"):
        read_ncnn(param, file)
    file.write_bytes(data + b"more")
    with pytest.raises(LeanganError, match="do not belong together"):
        read_ncnn(param, file)
    file.write_bytes(struct.pack("<I", 0x000D4B38) + data[4:])
    with pytest.raises(LeanganError, match="0x000D4B38"):
        read_ncnn(param, file)
    file.write_bytes(data[:4] + np.float32(np.nan).tobytes() + data[8:])
    with pytest.raises(LeanganError, match="not finite"):
        read_ncnn(param, file)
    file.unlink()
    with pytest.raises(LeanganError, match=r"net\.bin"):
        read_ncnn(param, file)


def test_mutated_files_never_crash(tmp_path: Path) -> None:
    """Whatever is changed: a network or a LeanganError, nothing else."""
    param, _ = write(tmp_path)
    file = param.with_suffix(".bin")
    text, data = param.read_bytes(), file.read_bytes()
    rng = random.Random(0)
    refused = 0
    for _ in range(400):
        broken, weights = bytearray(text), bytearray(data)
        for _ in range(rng.choice([1, 1, 2, 5])):
            target = broken if rng.random() < 0.8 else weights
            place = rng.randrange(len(target))
            kind = rng.random()
            if kind < 0.5:
                target[place] = rng.choice(b"0123456789-=., \n\xffexn")
            elif kind < 0.7:
                del target[place : place + rng.randrange(1, 20)]
            elif kind < 0.9:
                target[place:place] = rng.choice([b"9" * 30, b"-", b"1e400", b"\0\0"])
            else:
                del target[place:]
        param.write_bytes(bytes(broken))
        file.write_bytes(bytes(weights))
        try:
            NcnnModule(read_ncnn(param, file))
        except LeanganError:
            refused += 1
    assert refused > 200
