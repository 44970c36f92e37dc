"""load(): every way in, and one sentence for each mistake."""

from pathlib import Path

import pytest
import torch
from torch import nn

from leangan.errors import LeanganError, UnsafeFile, UsageError
from leangan.sources import load

CODE = """
import helper
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4, depth=1):
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(3 if i == 0 else width, width, 3, padding=1) for i in range(depth)),
            nn.Conv2d(width, 3, 1),
        )

    def forward(self, picture):
        return torch.tanh(self.layers(picture)) * helper.FACTOR

def make():
    return Net(8)

NUMBER = 3
"""


class GAN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.netG = nn.Conv2d(3, 3, 3, padding=1)
        self.netD = nn.Sequential(nn.Conv2d(3, 1, 4, 2, 1), nn.Sigmoid())


@pytest.fixture
def code(tmp_path: Path) -> Path:
    (tmp_path / "helper.py").write_text("FACTOR = 2.0\n")
    (tmp_path / "net.py").write_text(CODE)
    return tmp_path / "net.py"


def test_a_live_module_is_normalised(tmp_path: Path) -> None:
    norm = nn.BatchNorm2d(4)
    norm.running_mean.uniform_(-1, 1)
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), norm, nn.ReLU(inplace=True)).eval()
    generator = load(module, example_inputs=[1, 3, 32, 32])
    assert not any("batch_norm" in str(n.target) for n in generator.program.graph.nodes)
    x = torch.randn(2, 3, 17, 23)
    torch.testing.assert_close(generator(x), module(x), rtol=1e-4, atol=1e-5)
    assert not module.training
    assert module[2].inplace


def test_what_the_user_says_wins() -> None:
    module = nn.Conv2d(3, 3, 3, padding=1)
    generator = load(
        module,
        example_inputs=torch.randn(1, 3, 32, 32),
        task="translation",
        ranges={"input": (-1, 1)},
        kinds={"output": "mask"},
    )
    assert generator.signature.inputs[0].range == (-1.0, 1.0)
    assert generator.signature.outputs[0].kind == "mask"
    assert generator.task == "translation"


def test_parts_of_a_whole_gan() -> None:
    gan = GAN()
    x = torch.randn(1, 3, 32, 32)
    assert load(gan, example_inputs=x)(x).shape == (1, 3, 32, 32)
    assert load(gan, example_inputs=x, part="discriminator")(x).shape == (1, 1, 16, 16)
    with pytest.raises(UsageError, match="no discriminator"):
        load(gan.netG, example_inputs=x, part="discriminator")


def test_own_file_goes_round(tmp_path: Path) -> None:
    module = nn.Conv2d(3, 3, 3, padding=1)
    first = load(module, example_inputs=[1, 3, 32, 32])
    again = load(first.save(tmp_path / "g.pt2"), ranges={"input": (0, 1)}, task="translation")
    x = torch.randn(1, 3, 15, 31)
    assert torch.equal(first(x), again(x))
    assert again.signature.inputs[0].range == (0.0, 1.0)
    assert again.task == "translation"
    with pytest.raises(UsageError, match="no discriminator"):
        load(tmp_path / "g.pt2", part="discriminator")


def test_a_foreign_exported_program(tmp_path: Path) -> None:
    module = nn.Conv2d(3, 3, 3, padding=1)
    x = torch.randn(2, 3, 8, 9)
    batch = {"input": {0: torch.export.Dim.AUTO}}
    program = torch.export.export(module, (x,), dynamic_shapes=batch)
    torch.export.save(program, tmp_path / "with.pt2")
    with pytest.raises(UnsafeFile, match="--trust"):
        load(tmp_path / "with.pt2")
    generator = load(tmp_path / "with.pt2", trust=True)
    torch.testing.assert_close(generator(x), module(x))
    program.example_inputs = None
    program._guards_code = []
    torch.export.save(program, tmp_path / "without.pt2")
    with pytest.raises(UsageError, match="--size"):
        load(tmp_path / "without.pt2")
    again = load(tmp_path / "without.pt2", example_inputs=[1, 3, 8, 9])
    torch.testing.assert_close(again(x), module(x))


def test_a_class_with_arguments_and_weights(code: Path, tmp_path: Path) -> None:
    plain = load(f"{code}:Net", example_inputs=[1, 3, 32, 32], arguments={"width": 6, "depth": 2})
    assert plain.params == (3 * 9 + 1) * 6 + (6 * 9 + 1) * 6 + (6 + 1) * 3
    assert plain.signature.inputs[0].name == "picture"
    state = {
        f"layers.{i}.{n}": torch.randn(s)
        for i, n, s in (
            (0, "weight", (8, 3, 3, 3)),
            (0, "bias", (8,)),
            (1, "weight", (3, 8, 1, 1)),
            (1, "bias", (3,)),
        )
    }
    file = tmp_path / "w.pth"
    torch.save({"params_ema": {f"module.{k}": v for k, v in state.items()}}, file)
    generator = load(f"{code}:make", weights=file, example_inputs=[1, 3, 32, 32])
    x = torch.randn(1, 3, 20, 20)
    hidden = nn.functional.conv2d(x, state["layers.0.weight"], state["layers.0.bias"], padding=1)
    wanted = nn.functional.conv2d(hidden, state["layers.1.weight"], state["layers.1.bias"])
    torch.testing.assert_close(generator(x), torch.tanh(wanted) * 2)


def test_missing_weights_are_named(code: Path, tmp_path: Path) -> None:
    weight = {"layers.0.weight": torch.randn(8, 3, 3, 3), "layers.0.bias": torch.randn(8)}
    torch.save({**weight, "layers.1.weight": torch.randn(3, 8, 1, 1)}, tmp_path / "w.pth")
    with pytest.raises(LeanganError, match=r"layers\.1\.bias"):
        load(f"{code}:make", weights=tmp_path / "w.pth", example_inputs=[1, 3, 32, 32])


@pytest.mark.parametrize(
    ("name", "settings", "error"),
    [
        ("Nett", {}, "has no 'Nett'; its modules are Net"),
        ("NUMBER", {}, "cannot be made"),
        ("Net", {"arguments": {"wide": 3}}, "wide"),
        ("Net", {}, "needs example inputs"),
        ("Net", {"example_inputs": [1, 4, 32, 32]}, "does not run on inputs of shape"),
        ("Net", {"example_inputs": [1, -3, 32]}, "is no shape"),
        ("Net", {"weights": "nowhere.pth"}, "There is no file nowhere.pth"),
    ],
)
def test_mistakes_with_a_class(code: Path, name: str, settings: dict, error: str) -> None:
    with pytest.raises(LeanganError, match=error):
        load(f"{code}:{name}", **settings)


def test_code_that_fails_says_where(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(LeanganError, match=r"bad\.py fails when imported: ModuleNotFoundError"):
        load(f"{tmp_path / 'bad.py'}:Net")
    with pytest.raises(UsageError, match="There is no file"):
        load(f"{tmp_path / 'none.py'}:Net")


def test_mistakes_with_paths(tmp_path: Path) -> None:
    (tmp_path / "generator.pth").write_text("this is a page about a generator\n")
    with pytest.raises(UsageError, match=r"near it lie generator\.pth"):
        load(tmp_path / "generatr.pth")
    with pytest.raises(UsageError, match="is a folder; name the model file"):
        load(tmp_path)
    with pytest.raises(LeanganError, match="no weights file"):
        load(tmp_path / "generator.pth")
    with pytest.raises(UsageError, match="zoo:dcgan-faces"):
        load("dcgan-faces")
    with pytest.raises(UsageError, match="The zoo has no 'nothing'"):
        load("zoo:nothing")
    (tmp_path / "empty.pt").touch()
    with pytest.raises(LeanganError, match="is empty"):
        load(tmp_path / "empty.pt")
    with pytest.raises(UsageError, match="int is nothing that can be loaded"):
        load(3)


@pytest.mark.parametrize(
    ("name", "kind"), [("a.mlmodel", "Core ML"), ("a.TFLITE", "TensorFlow Lite")]
)
def test_formats_that_are_not_read_yet(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / name).write_bytes(b"something")
    with pytest.raises(LeanganError, match=f"is a {kind} model, which this version does not read"):
        load(tmp_path / name)


def test_code_is_for_keras(tmp_path: Path) -> None:
    (tmp_path / "layers.py").touch()
    torch.save({"a.weight": torch.randn(5, 5)}, tmp_path / "w.pth")
    with pytest.raises(UsageError, match="--code is for models of Keras"):
        load(tmp_path / "w.pth", code=tmp_path / "layers.py")


@pytest.mark.parametrize("keep", [0.2, 0.6, 0.97])
def test_truncated_files(tmp_path: Path, keep: float) -> None:
    generator = load(nn.Conv2d(3, 3, 3, padding=1), example_inputs=[1, 3, 32, 32])
    whole = generator.save(tmp_path / "g.pt2").read_bytes()
    (tmp_path / "cut.pt2").write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(LeanganError, match=r"cut\.pt2"):
        load(tmp_path / "cut.pt2")
    torch.save({"a.weight": torch.randn(50, 50)}, tmp_path / "w.pth")
    whole = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(LeanganError, match=r"cut\.pth"):
        load(tmp_path / "cut.pth")


def test_weights_beside_a_checkpoint_are_refused(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.randn(5, 5)}, tmp_path / "w.pth")
    with pytest.raises(UsageError, match="--weights belongs to"):
        load(tmp_path / "w.pth", weights=tmp_path / "w.pth")
