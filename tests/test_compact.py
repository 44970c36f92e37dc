"""Weights in fewer bytes: bit for bit the same, really smaller, and hostile files are refused."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

import leangan as lg
from leangan import compact
from leangan.errors import LeanganError
from leangan.techniques.prune_weights import prune_weights


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1))
    return lg.load(net, example_inputs=torch.rand(1, 3, 16, 16))


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_sparse_is_exact_and_smaller(share, dtype):
    rng = np.random.default_rng(0)
    values = rng.normal(size=1001).astype(dtype)
    values[: int(share * 1001)] = 0
    values[-1] = -0.0  # has bits, and keeps them
    raw = values.tobytes()
    name, payload = compact.encode(raw, values.itemsize)
    assert len(payload) < len(raw)
    assert compact.decode(name, payload, 1001, values.itemsize) == raw


def test_dense_bytes_stay_as_they_are():
    assert (
        compact.encode(np.random.default_rng(0).normal(size=999).astype("f4").tobytes(), 4) is None
    )
    assert compact.encode(b"", 4) is None


@pytest.mark.parametrize(("share", "at_most"), [(0.5, 0.56), (0.9, 0.16)])
def test_files_shrink_with_the_zeros(generator, tmp_path, share, at_most):
    pruned = prune_weights(generator, share)
    size = {}
    for name, one in (("dense", generator), ("sparse", pruned)):
        with zipfile.ZipFile(one.save(tmp_path / f"{name}.pt2")) as archive:
            size[name] = sum(
                i.file_size
                for i in archive.infolist()
                if i.filename.rsplit("/", 1)[1][:6] == "weight"
            )
    assert size["sparse"] < at_most * size["dense"]
    opened = lg.load(tmp_path / "sparse.pt2")
    for name, weight in pruned.program.state_dict.items():
        assert torch.equal(weight, opened.program.state_dict[name])


def test_opens_in_a_fresh_process(generator, tmp_path):
    path = prune_weights(generator, 0.5).save(tmp_path / "g.pt2")
    code = (
        f"import leangan as lg; g = lg.load({str(path)!r}); "
        "print(sum(float(o.sum()) for o in g.outputs(*g.example())))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    opened = lg.load(path)
    assert float(said.stdout) == pytest.approx(
        sum(float(o.sum()) for o in opened.outputs(*opened.example())), rel=1e-5
    )


def test_a_dense_file_is_as_torch_writes_it(generator, tmp_path):
    with zipfile.ZipFile(generator.save(tmp_path / "g.pt2")) as archive:
        assert not [n for n in archive.namelist() if "/compact/" in n]


def hostile(generator, tmp_path, change):
    """A sparse file whose compact members went through `change(name, bytes)`."""
    path, bad = prune_weights(generator, 0.5).save(tmp_path / "g.pt2"), tmp_path / "bad.pt2"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(bad, "w") as new:
        for name in old.namelist():
            place, data = name, old.read(name)
            if "/compact/" in name:
                place, data = change(name, data)
            new.writestr(place, data)
    return bad


@pytest.mark.parametrize(
    "change",
    [
        lambda name, data: (name, data[:-4]),
        lambda name, data: (name, data + b"\0\0\0\0"),
        lambda name, data: (name, b"\xff" + data[1:]),
        lambda name, data: (name, b""),
        lambda name, data: (name.replace("sparse", "other"), data),
        lambda name, data: (name.replace("weight_", "weight_9"), data),
    ],
)
def test_damaged_payloads_are_refused(generator, tmp_path, change):
    with pytest.raises(LeanganError, match="damaged"):
        lg.load(hostile(generator, tmp_path, change))


def test_a_huge_shape_is_refused_before_memory_is_taken(generator, tmp_path):
    path, bad = prune_weights(generator, 0.5).save(tmp_path / "g.pt2"), tmp_path / "bad.pt2"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(bad, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("_weights_config.json"):
                config = json.loads(data)
                for payload in config["config"].values():
                    payload["tensor_meta"]["sizes"][0]["as_int"] = 2**50
                data = json.dumps(config).encode()
            new.writestr(name, data)
    with pytest.raises(LeanganError, match="damaged"):
        lg.load(bad)


def test_a_weight_stored_twice_is_refused(generator, tmp_path):
    bad = hostile(generator, tmp_path, lambda name, data: (name, data))
    with zipfile.ZipFile(bad, "a") as archive:
        name = next(n for n in archive.namelist() if "/compact/" in n)
        archive.writestr(name.replace("compact/sparse", "weights"), b"\0" * 16)
    with pytest.raises(LeanganError, match="twice"):
        lg.load(bad)
