"""Commands that open a model, on a tiny one."""

import json

import pytest
import torch
from PIL import Image
from report_example import entry, example

import leangan.sources
from leangan.cli.main import main


class Enlarge(torch.nn.Module):
    """Twice as large, pixel by pixel, through a convolution and a PixelShuffle."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 12, 3, padding=1)
        torch.nn.init.zeros_(self.conv.weight)
        torch.nn.init.zeros_(self.conv.bias)
        for out in range(12):
            self.conv.weight.data[out, out // 4, 1, 1] = 1

    def forward(self, image):
        return torch.nn.functional.pixel_shuffle(self.conv(image), 2)


class FromNoise(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.up = torch.nn.ConvTranspose2d(8, 3, 4)

    def forward(self, z):
        return torch.sigmoid(self.up(z))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    enlarge = leangan.sources.load(
        Enlarge(),
        example_inputs=(1, 3, 16, 16),
        kinds={"image": "image", "output": "image"},
        ranges={"image": (0, 1), "output": (0, 1)},
        task="super-resolution",
    )
    enlarge.save(folder / "enlarge.pt2")
    noise = leangan.sources.load(
        FromNoise(),
        example_inputs=(1, 8, 1, 1),
        kinds={"z": "latent", "output": "image"},
        ranges={"output": (0, 1)},
        task="synthesis",
    )
    noise.save(folder / "noise.pt2")
    return folder


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for index, shade in enumerate((40, 200)):
        Image.new("RGB", (10, 7), (shade, 90, 255)).save(tmp_path / "photos" / f"{index}.png")
    return tmp_path / "photos"


def result_of(capfd):
    return json.loads(capfd.readouterr().out)


def test_inspect_counts_and_warns(models, capfd):
    assert main(["inspect", str(models / "enlarge.pt2"), "--json"]) == 0
    facts = result_of(capfd)
    assert facts["params"] == 3 * 12 * 9 + 12
    assert facts["macs"] == 16 * 16 * 3 * 12 * 9
    assert facts["gains"]["quantizable_share"] == 1.0
    assert [layer["op"] for layer in facts["layers"]] == ["conv2d"]
    assert facts["inputs"][0]["range"] == [0, 1]
    assert facts["hazards"] == []


def test_inspect_asks_for_what_is_not_known(tmp_path, capfd):
    generator = leangan.sources.load(Enlarge(), example_inputs=(1, 3, 16, 16))
    generator.save(tmp_path / "g.pt2")
    assert main(["inspect", str(tmp_path / "g.pt2")]) == 0
    out = capfd.readouterr().out
    assert "hazard" in out
    assert "--task" in out


def test_inspect_warns_of_statistics_over_the_whole_picture(tmp_path, capfd):
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3), torch.nn.InstanceNorm2d(3))
    leangan.sources.load(net, example_inputs=(1, 3, 16, 16)).save(tmp_path / "g.pt2")
    assert main(["inspect", str(tmp_path / "g.pt2"), "--json"]) == 0
    facts = result_of(capfd)
    assert facts["receptive_field"] is None
    assert any("cannot be run in tiles" in hazard for hazard in facts["hazards"])


def test_run_writes_one_picture_for_each(models, photos, capfd):
    assert main(["run", str(models / "enlarge.pt2"), "photos", "-o", "big", "--json"]) == 0
    written = result_of(capfd)["written"]
    assert [w["path"] for w in written] == ["big/0.png", "big/1.png"]
    picture = Image.open(photos.parent / "big" / "1.png")
    assert picture.size == (20, 14)
    assert picture.getpixel((3, 3)) == (200, 90, 255)


def test_run_writes_one_file_where_one_is_named(models, photos, capfd):
    assert main(["run", str(models / "enlarge.pt2"), "photos/0.png", "-o", "new/big.png"]) == 0
    assert capfd.readouterr().out == "new/big.png\n"
    assert [p.name for p in (photos.parent / "new").iterdir()] == ["big.png"]


def test_several_pictures_do_not_go_into_one_file(models, photos, capfd):
    assert main(["run", str(models / "enlarge.pt2"), "photos", "-o", "big.png"]) == 2
    assert "name a folder" in capfd.readouterr().err
    assert not (photos.parent / "big.png").exists()


def test_run_makes_pictures_from_noise_again_and_again_the_same(models, photos):
    model = str(models / "noise.pt2")
    assert main(["run", model, "-o", "many", "--count", "3", "--seed", "5"]) == 0
    assert main(["run", model, "-o", "one.png", "--seed", "7"]) == 0
    many = photos.parent / "many"
    assert sorted(p.name for p in many.iterdir()) == ["0005.png", "0006.png", "0007.png"]
    assert (many / "0007.png").read_bytes() == (photos.parent / "one.png").read_bytes()
    assert (many / "0006.png").read_bytes() != (many / "0007.png").read_bytes()


@pytest.mark.parametrize(
    ("name", "files", "words"),
    [("noise.pt2", ["photos"], "takes noise"), ("enlarge.pt2", [], "Name pictures")],
)
def test_run_says_when_files_are_missing_or_too_many(models, photos, capfd, name, files, words):
    assert main(["run", str(models / name), *files, "-o", "out"]) == 2
    assert words in capfd.readouterr().err


@pytest.fixture
def compressed(models, photos):
    """A folder as compress leaves it."""
    out = photos.parent / "out"
    assert (
        main(["export", str(models / "enlarge.pt2"), "--to", "onnxruntime", "-o", "out/model"]) == 0
    )
    report = example()
    (file,) = (out / "model").glob("*.onnx")
    made = entry("ort", "onnxruntime", "fp32", file=f"model/{file.name}")
    report |= {"delivered": made, "candidates": [made]}
    (out / "report.json").write_text(json.dumps(report))
    (out / "generator.pt2").write_bytes((models / "enlarge.pt2").read_bytes())
    return out


def test_run_takes_what_compress_left_by_folder_and_by_file(compressed, photos, capfd):
    (file,) = (compressed / "model").glob("*.onnx")
    capfd.readouterr()
    for model, to in ((compressed, "a.png"), (file, "b.png")):
        assert main(["run", str(model), "photos/1.png", "-o", to]) == 0
        assert Image.open(photos.parent / to).getpixel((3, 3)) == (200, 90, 255)


def test_run_names_what_is_missing_in_a_folder(compressed, photos, capfd):
    (file,) = (compressed / "model").glob("*.onnx")
    file.unlink()
    assert main(["run", str(compressed), "photos", "-o", "x"]) == 1
    assert "is missing, though the report lists it" in capfd.readouterr().err
    (compressed / "generator.pt2").unlink()
    assert main(["run", str(compressed), "photos", "-o", "x"]) == 2
    assert "no generator.pt2 in it" in capfd.readouterr().err


def test_a_lone_deployable_file_is_refused_in_a_sentence(compressed, photos, capfd):
    (file,) = (compressed / "model").glob("*.onnx")
    lone = photos.parent / "lone" / "x" / "y" / "z" / file.name
    lone.parent.mkdir(parents=True)
    file.rename(lone)
    assert main(["run", str(lone), "photos", "-o", "x"]) == 1
    assert "does not say what its inputs mean" in capfd.readouterr().err


def test_export_refuses_a_precision_that_the_runtime_lacks(models, photos, capfd):
    arguments = ["export", str(models / "enlarge.pt2"), "--to", "onnxruntime", "-o", "x"]
    assert main([*arguments, "--precision", "bf61"]) == 2
    assert "in bf61 on this machine; choose from fp32" in capfd.readouterr().err
    assert not (photos.parent / "x").exists()


def test_dry_run_tells_the_plan_and_writes_nothing(models, photos, capfd):
    for index in range(2, 9):
        Image.new("RGB", (64, 48), (index, index, index)).save(photos / f"{index}.png")
    arguments = ["compress", str(models / "enlarge.pt2"), "--data", "photos", "-o", "new"]
    arguments += ["--on", "onnxruntime", "--dry-run"]
    assert main([*arguments, "--json"]) == 0
    plan = result_of(capfd)
    assert plan["task"] == "super-resolution"
    assert plan["floor"].startswith("psnr>=")
    assert plan["runtimes"] == {"onnxruntime": ["fp32", "int8"]}
    assert plan["most_held_out"] >= 1
    assert main(arguments) == 0
    assert "onnxruntime: fp32, int8" in capfd.readouterr().out
    assert not (photos.parent / "new").exists()
