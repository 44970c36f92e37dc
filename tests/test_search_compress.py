"""The main job from end to end, on a network small enough to do it in seconds."""

from __future__ import annotations

import functools
import json
import subprocess
import sys

import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image
from task_nets import Smooth, image_generator, pair_net
from torch import nn

import leangan as lg
from leangan import runtimes, tasks
from leangan.errors import LeanganError, UsageError
from leangan.graph.cost import macs
from leangan.measure.image import psnr
from leangan.measure.latency import Timing, paired
from leangan.report.json_report import SCHEMA_FILE
from leangan.runtimes import openvino_probe
from leangan.search import lab, pipeline, result
from leangan.search.candidate import Candidate
from leangan.search.compare import open_model
from leangan.search.lab import Lab
from leangan.search.precision_plan import apply_plan, read_plan
from leangan.search.recipe import read as read_recipe
from leangan.tasks.images import from_port, read_image, to_port
from leangan.tasks.pictures import flat_samples
from leangan.techniques.scheme import FLOAT

compress = functools.partial(lg.compress, threads=1, limit=6)


def prefer_8_bits(workers, **_):
    """Times as they are on large networks: what is delivered must not hang on a tiny one's."""
    ms = [1.0 if w.artifact.precision.startswith("int8") else 10.0 for w in workers]
    return [Timing(((t, t), (t, t)), 2 * t, True) for t in ms]


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lab, "paired", prefer_8_bits)
        yield patch


@pytest.fixture(scope="module")
def net():
    return image_generator(Smooth(), size=32)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    y, x = np.mgrid[0:48, 0:56] / 56
    for i in range(6):
        picture = np.stack([x, y, (x * y + i / 6) % 1], 2)
        Image.fromarray((255 * picture).astype("uint8")).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def searched(patch, net, photos, tmp_path_factory):
    """OpenVINO, with a floor that 8 bits reach."""
    out = tmp_path_factory.mktemp("searched") / "out"
    told = []
    report = compress(
        net, photos, out, keep="psnr>=30", on=["openvino"], command="leangan compress ...",
        progress=lambda message, done=None, total=None: told.append(message),
    )  # fmt: skip
    return report, out, told


@pytest.fixture(scope="module")
def repeated(patch, net, photos, searched, tmp_path_factory):
    """The recipe of that, with a floor that nothing reaches."""
    out = tmp_path_factory.mktemp("repeated") / "out"
    recipe = searched[1] / "recipe.yaml"
    return compress(net, photos, out, keep="psnr>=200", recipe=recipe, on=["torch"]), out


class Unquantizable(nn.Module):
    """No weight of a layer in it is stored."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor([0.5, 0.75, 1.0]).reshape(3, 1, 1))

    def forward(self, x):
        return torch.sigmoid(nn.functional.avg_pool2d(x * self.gain, 3, 1, 1))


@pytest.fixture(scope="module")
def elsewhere(net, photos, tmp_path_factory):
    """ONNX Runtime and PyTorch, really timed."""
    out = tmp_path_factory.mktemp("elsewhere") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lab, "paired", functools.partial(paired, rounds=2))
        # More than low precisions reach, so that what is delivered is known beforehand.
        return compress(net, photos, out, keep="psnr>=80", on=["onnxruntime", "torch"]), out


@pytest.fixture
def quick_original(monkeypatch):
    """In ONNX Runtime, whose process starts in a tenth of PyTorch's time."""

    def quick(generator, *rest):
        original = Candidate("original", "onnxruntime", "fp32", generator, plain=True)
        return Lab(generator, *rest, original)

    monkeypatch.setattr(pipeline, "Lab", quick)


@pytest.fixture(scope="module")
def plain(patch, photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("plain") / "out"
    generator = image_generator(Unquantizable(), size=32)
    return compress(generator, photos, out, on=["onnxruntime"]), out


def written(folder):
    return sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())


REPORTS = {"report.json", "report.html", "card.md", "recipe.yaml", "generator.pt2"}


@pytest.mark.parametrize("name", ["searched", "repeated", "elsewhere", "plain"])
def test_report_json_keeps_its_schema_and_the_files_exist(name, request):
    report, out, *_ = request.getfixturevalue(name)
    facts = json.loads((out / "report.json").read_text())
    jsonschema.validate(facts, json.loads(SCHEMA_FILE.read_text()))
    assert facts == report.to_json()
    assert set(written(out)) >= REPORTS
    kept = [c["file"] for c in facts["candidates"] if c["file"]]
    assert len(kept) == 1
    assert (out / kept[0]).is_file()
    assert not [c["error"] for c in facts["candidates"] if c["error"]]
    names = [c["name"] for c in facts["candidates"]]
    assert len(set(names)) == len(names)


def test_what_is_delivered_is_the_fastest_that_keeps_the_floor(searched):
    report, _, _ = searched
    delivered = report.delivered
    assert delivered["precision"].startswith("int8")
    assert delivered in report.facts["candidates"]
    assert delivered["quality"]["psnr"]["mean"] >= 30
    assert delivered["quality"]["psnr"]["n"] == 2
    assert delivered["speedup"] == 10
    assert report.facts["original"]["speedup"] == 1
    assert report.facts["original"]["size_bytes"] > delivered["size_bytes"]
    assert report.facts["floor"] == "psnr>=30"
    assert report.facts["task"] == "translation"
    assert "Smooth" in str(report)


def test_float_forms_are_tried_too(searched):
    assert "openvino fp32" in [c["name"] for c in searched[0].facts["candidates"]]


def test_progress_is_told(searched):
    told = searched[2]
    assert told[0] == "Loading the model"
    assert "Calibrating 8 bits" in told


def test_generator_pt2_is_what_is_delivered(searched, net, photos):
    """Its graph rounds as the deployed file does, and says how it came to be."""
    report, out, _ = searched
    small = lg.load(out / "generator.pt2")
    assert "quantize_linear" in [s.name for s in small.history]
    assert small.params == net.params
    pictures = [s.inputs[0] for s in tasks.infer(net).data(net, photos, limit=6).held_out]
    floor = report.delivered["quality"]["psnr"]["worst"]
    assert min(psnr(net(x), small(x)) for x in pictures) > floor - 6


def test_the_result_opens_in_a_fresh_process(searched, net, photos, tmp_path):
    """With `leangan run`, at sizes that were never measured."""
    _, out, _ = searched
    code = "import sys; from leangan.cli.main import main; raise SystemExit(main(sys.argv[1:]))"
    words = ["run", str(out), str(photos / "0.png"), "-o", str(tmp_path / "made")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    picture = read_image(photos / "0.png").rgb
    made = read_image(tmp_path / "made" / "0.png").rgb
    assert made.shape == picture.shape
    port = net.signature.inputs[0]
    expected = from_port(net(to_port(picture, port)), net.signature.outputs[0])[0]
    assert psnr(expected[None], made[None]) > 30


def test_a_result_is_opened_by_folder_or_file(searched):
    report, out, _ = searched
    found = open_model(out)
    assert found.name == "out"
    assert found.artifact.path == out / report.delivered["file"]
    assert open_model(out / report.delivered["file"]).artifact == found.artifact


def test_a_recipe_gives_the_same_bytes(searched, repeated):
    (first,), (again,) = (sorted(out.glob("model/*.bin")) for out in (searched[1], repeated[1]))
    assert first.read_bytes() == again.read_bytes()
    assert read_recipe(searched[1] / "recipe.yaml") == read_recipe(repeated[1] / "recipe.yaml")
    assert len(repeated[0].facts["candidates"]) == 1


def test_the_plan_of_a_quantized_delivery_gives_it_again(searched, net, photos):
    out = searched[1]
    plan = read_plan(out / "plan.yaml")
    delivered = lg.load(out / "generator.pt2")
    assert set(plan.layers) == {"a", "b", "c"}
    assert plan.layers == delivered.history[-1].settings["words"]
    samples = tasks.infer(net).data(net, photos, limit=6, seed=0).calibration
    inputs = [s.inputs for s in (*samples, *flat_samples(net))]
    again, first = (
        dict(g.program.named_buffers()) for g in (apply_plan(net, inputs, plan), delivered)
    )
    codes = [n for n in first if n.endswith("_int8")]
    assert codes
    assert all(torch.equal(first[n], again[n]) for n in codes)


@pytest.mark.usefixtures("patch", "quick_original")
@pytest.mark.parametrize(("clipped", "bits"), [(True, "w7"), (False, "w8")])
def test_weights_are_narrower_where_kernels_clip_their_sums(
    net, photos, tmp_path, monkeypatch, clipped, bits
):
    monkeypatch.setattr(openvino_probe, "saturates", lambda: clipped)
    report = compress(net, photos, tmp_path / "out", keep="psnr>=30", on=["openvino"])
    words = read_plan(tmp_path / "out" / "plan.yaml").layers.values()
    assert {word[:2] for word in words if word != FLOAT} == {bits}
    assert any("Weights have 7 bits" in note for note in report.facts["notes"]) is clipped


def test_a_float_delivery_has_no_plan_nor_keeps_an_old_one(
    plain, patch, photos, tmp_path, monkeypatch
):
    """And tells what its file leaves to slower kernels."""
    monkeypatch.setattr(runtimes, "coverage", lambda artifact: [f"Not all {artifact.path.suffix}."])
    assert "plan.yaml" not in written(plain[1])
    (tmp_path / "plan.yaml").write_text("of an earlier result")
    recipe = plain[1] / "recipe.yaml"
    generator = image_generator(Unquantizable(), size=32)
    report = compress(generator, photos, tmp_path, recipe=recipe)
    assert "report.json" in written(tmp_path)
    assert "plan.yaml" not in written(tmp_path)
    told = f"{report.facts['candidates'][0]['name']}: Not all .onnx."
    assert told in report.facts["notes"]
    assert all(told in (tmp_path / name).read_text() for name in ("card.md", "report.html"))


def test_prune_code_and_train_is_one_recipe(patch, net, photos, tmp_path):
    recipe = tmp_path / "deep.yaml"
    recipe.write_text(
        "schema: 1\nruntime: openvino\nprecision: fp32\nprune: {weights: 0.5}\ncodebook: 4\n"
        "finetune: {steps: 20, batch: 4, lr: 2e-3, precision: fp32, examples: 32}\n"
    )
    out = tmp_path / "out"
    compress(net, photos, out, recipe=recipe, keep="psnr>=15")
    made = lg.load(out / "generator.pt2")
    names = [step.name for step in made.history]
    assert names == ["prune_weights", "finetune", "quantize_codebook", "finetune"]
    weights = [w for w in made.program.state_dict.values() if w.dim() == 4]
    assert all(len(w.unique()) <= 16 * len(w) for w in weights)
    assert sum(int((w == 0).sum()) for w in weights) >= 0.45 * sum(w.numel() for w in weights)
    again = read_recipe(out / "recipe.yaml")
    assert (again.codebook, again.finetune["steps"]) == (4, 20)
    # A second time nothing is trained anew, and the result is the same.
    compress(net, photos, out, recipe=recipe, keep="psnr>=15")
    repeated = lg.load(out / "generator.pt2").program.state_dict
    assert all(torch.equal(w, repeated[n]) for n, w in made.program.state_dict.items())


def test_a_recipe_may_begin_with_a_student(patch, net, photos, tmp_path):
    recipe = tmp_path / "thin.yaml"
    recipe.write_text(
        "schema: 1\nruntime: openvino\nprecision: fp32\nstudent: low-rank:0.6\n"
        "finetune: {steps: 5, batch: 4, precision: fp32, examples: 16}\n"
    )
    out = tmp_path / "out"
    report = compress(net, photos, out, recipe=recipe, keep="psnr>=10")
    made = lg.load(out / "generator.pt2")
    assert [step.name for step in made.history][-2:] == ["low_rank", "finetune"]
    assert read_recipe(out / "recipe.yaml").student == "low-rank:0.6"
    (tried,) = report.facts["candidates"]
    assert tried["name"] == "openvino fp32, low-rank:0.6"
    assert tried["macs"] < 0.9 * macs(net)
    with pytest.raises(UsageError, match="makes a student, and"):
        compress(lg.quantize(net, lg.calibrate(net, [net.example()])), photos, out, recipe=recipe)


@pytest.mark.parametrize(("keep", "pruned"), [("psnr>=20", True), ("psnr>=70", False)])
def test_with_time_a_trained_form_is_tried_and_can_be_made_again(
    patch, net, photos, tmp_path, keep, pruned
):
    out = tmp_path / "out"
    report = compress(net, photos, out, keep=keep, on=["openvino"], seconds=6.0)
    trained = [c for c in report.facts["candidates"] if c["name"].endswith("trained")]
    assert len(trained) == 1
    assert ("half the MACs" in trained[0]["name"]) == pruned
    assert trained[0]["error"] is None
    assert (out / "training" / "quantized" / "run.json").exists()
    if report.delivered and report.delivered["name"] == trained[0]["name"]:
        recipe = read_recipe(out / "recipe.yaml")
        assert recipe.finetune == {"seconds": 3.0 if pruned else 6.0}
        assert (recipe.prune is not None) == pruned


def test_nothing_reaches_the_floor_and_the_best_is_written(repeated):
    report, out = repeated
    assert report.delivered is None
    assert json.loads((out / "report.json").read_text())["delivered"] is None
    assert set(written(out)) >= REPORTS | {"model/generator.xml", "model/generator.bin"}


def test_onnx_runtime_delivers_an_onnx_file(elsewhere, net):
    import onnxruntime

    report, out = elsewhere
    assert {c["runtime"] for c in report.facts["candidates"]} <= {"onnxruntime", "torch"}
    tried = [c for c in report.facts["candidates"] if c["runtime"] == "onnxruntime"]
    assert {c["precision"] for c in tried} >= {"fp32", "int8"}
    assert all(c["latency_ms"]["p50"] > 0 for c in report.facts["candidates"])
    assert report.delivered["name"] == "onnxruntime fp32"
    session = onnxruntime.InferenceSession(str(out / report.delivered["file"]))
    (x,) = net.example({"H": 40, "W": 24})
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert psnr(net(x), torch.from_numpy(y)) > 80


@pytest.mark.usefixtures("patch", "quick_original")
@pytest.mark.parametrize(
    ("on", "searched"),
    [
        (["torch", "onnxruntime"], ["onnxruntime"]),
        (["onnxruntime", "openvino"], ["openvino"]),
        (["torch"], []),
    ],
)
def test_rewrites_are_searched_in_one_runtime_whichever_there_is(
    photos, tmp_path, monkeypatch, on, searched
):
    seen = []

    def look(lab, candidate):
        seen.append(candidate.runtime)
        return candidate

    monkeypatch.setattr(pipeline, "rewrites_that_pay", look)
    compress(image_generator(Unquantizable(), size=32), photos, tmp_path / "out", on=on)
    assert seen == searched


def test_without_a_layer_for_8_bits_a_float_form_is_delivered(plain):
    report, out = plain
    assert report.delivered["precision"] == "fp32"
    assert report.delivered["quality"]["psnr"]["mean"] > 80
    recipe = read_recipe(out / "recipe.yaml")
    assert (recipe.quantize, recipe.layers) == (False, {})


def test_a_failing_run_leaves_an_existing_result_alone(
    patch, photos, plain, monkeypatch, quick_original
):
    _, out = plain
    before = {name: (out / name).read_bytes() for name in written(out)}

    def fail(*_):
        raise LeanganError("the pen broke")

    monkeypatch.setattr(result, "write_html", fail)
    with pytest.raises(LeanganError, match="pen broke"):
        compress(image_generator(Unquantizable(), size=32), photos, out, on=["onnxruntime"])
    assert {name: (out / name).read_bytes() for name in written(out)} == before
    assert [p.name for p in out.parent.iterdir()] == [out.name]


@pytest.mark.parametrize("keep", ["psnr=40", "psnr>=much", "best"])
def test_a_malformed_floor_is_refused_before_any_work(net, photos, tmp_path, keep):
    told = []
    with pytest.raises(UsageError, match="quality floor"):
        compress(net, photos, tmp_path / "out", keep=keep, progress=lambda *a: told.append(a))
    assert told == []
    assert not (tmp_path / "out").exists()


def test_a_metric_that_nobody_measures_is_refused_before_searching(
    net, photos, tmp_path, quick_original
):
    told = []
    with pytest.raises(UsageError, match=r"'pnsr' is not measured.*psnr, ssim.*speedup, smaller"):
        compress(
            net, photos, tmp_path / "out", keep="ssim>=0.9,pnsr>=40",
            progress=lambda message, *_: told.append(message),
        )  # fmt: skip
    assert not [message for message in told if message.startswith("Trying")]
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_used_is_refused_and_nothing_written(net, photos, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="tensorrt"):
        compress(net, photos, out, on=["tensorrt"])
    with pytest.raises(LeanganError, match="nowhere"):
        compress(net, tmp_path / "nowhere", out)
    with pytest.raises(UsageError, match="cannot be read as a recipe"):
        compress(net, photos, out, recipe=tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="--task"):
        compress(pair_net(), None, out)
    assert not out.exists()
