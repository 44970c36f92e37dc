"""Files are read without running them, and each kind of wrong file gets its sentence."""

import argparse
import pickle
import subprocess
import sys
import tarfile

import pytest
import torch
from torch import nn

from leangan.errors import LeanganError, UnsafeFile
from leangan.sources.tensors import read_tensors

WEIGHTS = {"a.weight": torch.arange(6.0)}


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("zipped", [True, False])
def test_present_and_older_formats(tmp_path, zipped):
    path = tmp_path / "net.pth"
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=zipped)
    assert torch.equal(read_tensors(path)["a.weight"], WEIGHTS["a.weight"])


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("value", "name"),
    [
        (nn.Sequential(nn.Conv2d(3, 3, 3)), "Sequential"),
        ({**WEIGHTS, "options": argparse.Namespace(lr=1)}, "argparse.Namespace"),
    ],
)
def test_what_needs_code_is_refused_in_one_sentence(tmp_path, value, name, zipped):
    path = tmp_path / "net.pth"
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafeFile) as error:
        read_tensors(path)
    message = str(error.value)
    assert name in message
    assert "--trust" in message
    assert "\n" not in message
    assert message.count(". ") == 0
    assert isinstance(read_tensors(path, trust=True), type(value))


def test_nothing_of_a_refused_file_runs(tmp_path):
    path, proof = tmp_path / "net.pth", tmp_path / "proof"
    torch.save({**WEIGHTS, "x": Evil(proof)}, path)
    with pytest.raises(UnsafeFile):
        read_tensors(path)
    assert not proof.exists()


def test_a_missing_class_is_named_even_with_trust(tmp_path):
    path = tmp_path / "net.pth"
    torch.save({"x": argparse.Namespace()}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"argparse\nNamespace", b"nowhere1\nNamespace"))
    with pytest.raises(LeanganError, match=r"nowhere1.*PYTHONPATH"):
        read_tensors(path, trust=True)


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_file(tmp_path, share, zipped, trust):
    path = tmp_path / "net.pth"
    torch.save({"a": torch.zeros(500)}, path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(LeanganError, match=r"net\.pth is damaged") as error:
        read_tensors(path, trust)
    assert "\n" not in str(error.value)


def test_a_truncated_safetensors_file(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "net.safetensors"
    save_file(WEIGHTS, path)
    assert torch.equal(read_tensors(path)["a.weight"], WEIGHTS["a.weight"])
    path.rename(tmp_path / "net.bin")
    assert torch.equal(read_tensors(tmp_path / "net.bin")["a.weight"], WEIGHTS["a.weight"])
    path.write_bytes((tmp_path / "net.bin").read_bytes()[:-4])
    with pytest.raises(LeanganError, match="damaged or cut short"):
        read_tensors(path)


def test_other_things_named_pth(tmp_path):
    text, empty, numbers = (tmp_path / n for n in ("text.pth", "empty.pth", "pickle.pth"))
    text.write_text("<html>404</html>")
    empty.write_bytes(b"")
    numbers.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(LeanganError, match=r"text\.pth is no weights file"):
        read_tensors(text)
    with pytest.raises(LeanganError, match=r"empty\.pth is empty"):
        read_tensors(empty)
    with pytest.raises(LeanganError, match="damaged, cut short, or no weights file"):
        read_tensors(numbers)
    with pytest.raises(LeanganError, match="is a folder"):
        read_tensors(tmp_path)
    with pytest.raises(LeanganError, match=r"no file .*gone\.pth"):
        read_tensors(tmp_path / "gone.pth")


@pytest.mark.filterwarnings("ignore")
def test_torchscript_is_named(tmp_path):
    path = tmp_path / "net.pt"
    torch.jit.script(nn.Conv2d(3, 3, 3)).save(path)
    for trust in (False, True):
        with pytest.raises(LeanganError, match=r"TorchScript archive.*state_dict"):
            read_tensors(path, trust)


def test_the_oldest_format_needs_trust(tmp_path):
    path = tmp_path / "net.pth"
    for name in ("sys_info", "pickle", "storages", "tensors"):
        (tmp_path / name).write_bytes(pickle.dumps({}, protocol=2))
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            archive.add(tmp_path / name, name)
    with pytest.raises(UnsafeFile, match="oldest format"):
        read_tensors(path)


def test_a_trusted_pickle_finds_its_class_in_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "my_nets.py").write_text("import torch\n\nclass Net(torch.nn.ReLU):\n    pass\n")
    save = "import torch, my_nets; torch.save(my_nets.Net(), 'net.pth')"
    subprocess.run([sys.executable, "-c", save], cwd=tmp_path, check=True)
    with pytest.raises(LeanganError, match="cannot be imported here"):
        read_tensors(tmp_path / "net.pth", trust=True)
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert type(read_tensors(tmp_path / "net.pth", trust=True)).__name__ == "Net"
    assert sys.path == before
