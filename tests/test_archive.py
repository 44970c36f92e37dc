"""A file must open in a process that knows nothing, and a hostile one must not open at all."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import zipfile

import pytest
import torch
from torch import nn

import leangan as lg
from leangan.archive import open_archive, save
from leangan.errors import LeanganError, UnsafeFile
from leangan.techniques.scheme import Scheme


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))
    return lg.load(
        module,
        example_inputs=torch.rand(1, 3, 16, 16),
        ranges={"input": (0, 1), "output": (0, 1)},
        task="translation",
    )


@pytest.fixture(scope="module")
def saved(generator, tmp_path_factory):
    return save(generator, tmp_path_factory.mktemp("archive") / "g.pt2")


def changed(saved, tmp_path, member, edit):
    """A copy of the archive in which one member's bytes went through `edit`; added if absent."""
    path = tmp_path / "hostile.pt2"
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(path, "w") as new:
        names = old.namelist()
        found = next((n for n in names if n.split("/", 1)[1] == member), None)
        for name in names:
            data = old.read(name)
            new.writestr(name, edit(data) if name == found else data)
        if found is None:
            new.writestr(f"{names[0].split('/')[0]}/{member}", edit(b""))
    return path


def edited_graph(saved, tmp_path, edit):
    def apply(data):
        model = json.loads(data)
        edit(model)
        return json.dumps(model).encode()

    return changed(saved, tmp_path, "models/model.json", apply)


def first_call(model):
    nodes = model["graph_module"]["graph"]["nodes"]
    return next(n for n in nodes if n["target"].startswith("torch.ops"))


def test_everything_comes_back(generator, saved):
    found = open_archive(saved)
    assert found.signature == generator.signature
    assert (found.task, found.name, found.history) == (
        generator.task,
        generator.name,
        generator.history,
    )
    (x,) = generator.example({"N": 2, "H": 21, "W": 18})
    assert torch.equal(found(x), generator(x))


def test_opens_in_a_fresh_process(saved, generator):
    (x,) = generator.example({"H": 17, "W": 24}, seed=3)
    code = (
        "import sys, torch, leangan as lg; g = lg.load(sys.argv[1]);"
        "(x,) = g.example({'H': 17, 'W': 24}, seed=3); print(float(g(x).double().sum()))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(saved)], capture_output=True, text=True, check=True
    )
    assert float(run.stdout) == pytest.approx(float(generator(x).double().sum()), abs=1e-4)


def test_saving_does_not_write_pickles(saved):
    with zipfile.ZipFile(saved) as archive:
        for name in archive.namelist():
            assert not archive.read(name).startswith((b"\x80\x02", b"PK")), name


def test_pickled_sample_inputs_are_refused(saved, tmp_path):
    buffer = io.BytesIO()
    torch.save(((torch.rand(1),), {}), buffer)
    path = changed(saved, tmp_path, "data/sample_inputs/model.pt", lambda _: buffer.getvalue())
    with pytest.raises(UnsafeFile, match="sample inputs"):
        open_archive(path)


def test_pickled_weights_are_refused(saved, tmp_path):
    def edit(data):
        config = json.loads(data)
        next(iter(config["config"].values()))["use_pickle"] = True
        return json.dumps(config).encode()

    path = changed(saved, tmp_path, "data/weights/model_weights_config.json", edit)
    with pytest.raises(UnsafeFile, match="pickle"):
        open_archive(path)


def test_compiled_code_is_refused(saved, tmp_path):
    path = changed(saved, tmp_path, "data/aotinductor/model/model.so", lambda _: b"\x7fELF")
    with pytest.raises(UnsafeFile, match=r"model\.so"):
        open_archive(path)


@pytest.mark.parametrize(
    "target",
    [
        "torch.hub.load",
        "torch.serialization.os.system",
        "torch.ops.load_library",
        "math.__loader__",
    ],
)
def test_operators_out_of_the_list_are_refused(saved, tmp_path, target):
    path = edited_graph(saved, tmp_path, lambda m: first_call(m).update(target=target))
    with pytest.raises(UnsafeFile, match="operator"):
        open_archive(path)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch owned')",
        "Symbol('s0').__class__",
        "eval('1')",
        "Symbol('s0', positive=True)[0]",
        "lambda: 1",
        "exec",
        "(exit)(0)",
    ],
)
def test_size_expressions_that_are_code_are_refused(saved, tmp_path, text, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def edit(model):
        values = model["graph_module"]["graph"]["tensor_values"]
        sizes = next(v["sizes"] for v in values.values() if any("as_expr" in s for s in v["sizes"]))
        next(s for s in sizes if "as_expr" in s)["as_expr"]["expr_str"] = text

    path = edited_graph(saved, tmp_path, edit)
    with pytest.raises(LeanganError):
        open_archive(path)
    assert not (tmp_path / "owned").exists()


def test_guard_code_is_refused(saved, tmp_path):
    path = edited_graph(saved, tmp_path, lambda m: m.update(guards_code=["print(1)"]))
    with pytest.raises(UnsafeFile, match="guard code"):
        open_archive(path)


def test_a_plain_pickle_named_pt2_is_no_archive(tmp_path):
    path = tmp_path / "x.pt2"
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(LeanganError):
        open_archive(path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_files_are_named(saved, tmp_path, share):
    path = tmp_path / "cut.pt2"
    data = saved.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(LeanganError, match=r"cut\.pt2"):
        open_archive(path)


def test_another_suffix_is_refused(generator, tmp_path):
    with pytest.raises(LeanganError, match=r"\.pt2"):
        save(generator, tmp_path / "g.pth")
    assert list(tmp_path.iterdir()) == []


def test_training_a_copy_leaves_the_generator_alone(generator):
    (x,) = generator.example()
    before = generator(x)
    module = generator.module()
    with torch.no_grad():
        for p in module.parameters():
            p.add_(1)
    assert torch.equal(generator(x), before)
    assert not torch.equal(module(x), before)


def test_codes_of_few_bits_take_few_bits(tmp_path):
    torch.manual_seed(0)
    net = lg.load(
        torch.nn.Conv2d(64, 64, 3), example_inputs=[torch.rand(1, 64, 8, 8)], task="arrays"
    )
    sizes = {}
    for bits in (3, 4, 8):
        small = lg.quantize(net, [net.example()], scheme=Scheme(weight_bits=bits))
        again = open_archive(save(small, tmp_path / f"{bits}.pt2"))
        assert torch.equal(again(*net.example()), small(*net.example()))
        sizes[bits] = (tmp_path / f"{bits}.pt2").stat().st_size
    weights = 64 * 64 * 9
    assert sizes[8] - sizes[4] > 0.4 * weights
    assert sizes[4] - sizes[3] > 0.08 * weights
