"""What people type wrong: one sentence, the right exit code, no traceback, nothing left behind."""

import errno
import os
import subprocess
import sys
import types

import pytest

from leangan.cli.main import main
from leangan.errors import BackendMissing, QualityNotReached, UsageError


def leangan(*arguments, cwd):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "leangan.cli.main", *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def sentence(done):
    """The one line of the error; everything before it is progress."""
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    *progress, line = done.stderr.splitlines()
    assert line.startswith("Error: ")
    assert not any(text.startswith("Error") for text in progress)
    return line


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "notes.pth").write_text("these are no weights\n")
    return tmp_path


def test_a_missing_model_file(folder):
    done = leangan("inspect", "netG.pth", cwd=folder)
    assert done.returncode == 2
    assert "There is no file netG.pth" in sentence(done)


def test_a_text_file_named_pth(folder):
    done = leangan("inspect", "notes.pth", cwd=folder)
    assert done.returncode != 0
    assert "notes.pth" in sentence(done)


def test_an_unknown_zoo_name_names_those_that_there_are(folder):
    done = leangan("inspect", "zoo:cyclegan-vintge", cwd=folder)
    assert done.returncode == 2
    assert "cyclegan-vintage" in sentence(done)


def test_a_zoo_name_that_resembles_nothing_lists_them_all(folder):
    from leangan import zoo

    with pytest.raises(UsageError, match=r"it has .*dcgan-faces"):
        zoo.entry("biggan")
    with pytest.raises(UsageError, match=r"did you mean dcgan-faces\?"):
        zoo.entry("dcgan")


def test_python_code_without_its_class(folder, capfd):
    (folder / "net.py").write_text("")
    assert main(["inspect", str(folder / "net.py")]) == 2
    assert "net.py:Generator" in capfd.readouterr().err


def test_missing_files_are_compared_by_their_stems(folder, capfd):
    (folder / "netG.pth").write_text("x")
    assert main(["inspect", str(folder / "xyz.pth")]) == 2
    assert "near it" not in capfd.readouterr().err
    assert main(["inspect", str(folder / "netg.pth")]) == 2
    assert "near it lie netG.pth" in capfd.readouterr().err


def test_a_class_without_shapes_is_told_the_option_that_there_is(folder, capfd):
    (folder / "net.py").write_text("import torch\n\nclass Net(torch.nn.ReLU):\n    pass\n")
    assert main(["inspect", f"{folder / 'net.py'}:Net"]) == 2
    assert "--size 1x3x256x256" in capfd.readouterr().err


def test_what_cannot_be_exported_prints_no_graph(folder, capfd):
    (folder / "net.py").write_text(
        "import torch\n\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x + 1 if x.sum() > 0 else x\n"
    )
    assert main(["-q", "inspect", f"{folder / 'net.py'}:Net", "--size", "2x3"]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert "cannot be turned into a graph" in line


@pytest.mark.parametrize("command", ["compress", "export", "run"])
def test_an_output_that_cannot_be_written_is_refused_before_any_work(folder, command, capfd):
    (folder / "file").write_text("mine")
    more = ["--to", "torch"] if command == "export" else []
    for out in ("file", "file/inside"):
        assert main([command, "zoo:no-such", *more, "-o", str(folder / out)]) == 2
        assert "is a file; -o needs a folder." in capfd.readouterr().err
    assert (folder / "file").read_text() == "mine"


def test_an_output_folder_without_permission_is_refused(folder, monkeypatch, capfd):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert main(["compress", "zoo:no-such", "-o", str(folder / "out")]) == 2
    assert "Nothing may be written in" in capfd.readouterr().err


def test_an_empty_data_folder(folder):
    (folder / "net.py").write_text(
        "import torch\n\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv = torch.nn.Conv2d(3, 3, 3, padding=1)\n\n"
        "    def forward(self, image):\n"
        "        return torch.tanh(self.conv(image))\n"
    )
    options = ("--size", "1x3x32x32", "--range", "image=-1,1", "--kind", "image=image")
    more = ("--kind", "output=image", "--task", "translation", "--dry-run", "--trust")
    done = leangan(
        "compress", "net.py:Net", "--data", "data", "-o", "out", *options, *more, cwd=folder
    )
    assert done.returncode != 0
    assert "data" in sentence(done)
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compress", "x.pth", "-o", "out", "--on", "openvin"], "did you mean 'openvino'?"),
        (["compress", "x.pth", "-o", "out", "--on", ","], "names no runtime"),
        (["compress", "x.pth", "-o", "out", "--range", "x=1"], "NAME=LO,HI"),
        (["compress", "x.pth", "-o", "out", "--range", "x=1,-1"], "NAME=LO,HI"),
        (["compress", "x.pth", "-o", "out", "--range", "x=a,b"], "NAME=LO,HI"),
        (["compress", "x.pth", "-o", "out", "--kind", "image"], "NAME=KIND"),
        (["compress", "x.pth", "-o", "out", "--keep", "psnr>40"], "metric>=number"),
        (["compress", "x.pth", "-o", "out", "--keep", ","], "--keep is empty"),
        (["compress", "x.pth", "-o", "out", "--size", "3x0"], "batch first"),
        (["compress", "x.pth", "-o", "out", "--args", "{"], "must be JSON"),
        (["compress", "x.pth", "-o", "out", "--args", "[1]"], "no JSON object"),
        (["compress", "x.pth", "-o", "out", "--weights", "no.pth"], "no.pth"),
        (["compress", "x.pth", "-o", "out", "--recipe", "no.yaml"], "no.yaml"),
        (["compress", "x.pth", "-o", "full"], "holds other things"),
        (["compress", "x.pth", "-o", "full/file.txt"], "is a file"),
        (["compress", "x.pth"], "Missing option"),
        (["compress", "x.pth", "-o", "out", "--threads", "0"], "threads"),
        (["export", "x.pth", "--to", "openvino,torch", "-o", "out"], "takes one runtime"),
        (["run", "x.pth", "no.png", "-o", "out"], "There is no file no.png"),
        (["run", "x.pth", "full/file.txt", "-o", "out.jpg"], "written as .png"),
        (["nothing"], "No such command"),
        (["inspect", "x.pth", "--lairs"], "--lairs"),
    ],
)
def test_a_request_that_makes_no_sense(tmp_path, monkeypatch, capfd, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file.txt").touch()
    assert main(arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("Error: ")
    assert words in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def failing(monkeypatch, error):
    """Let `compress` fail with `error`."""

    def compress(*arguments, **keywords):
        raise error

    fake = types.ModuleType("leangan.search.pipeline")
    fake.compress = compress
    monkeypatch.setitem(sys.modules, "leangan.search.pipeline", fake)
    import leangan.search

    monkeypatch.setattr(leangan.search, "pipeline", fake, raising=False)
    return ["compress", "x.pth", "-o", "out"]


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "Interrupted; nothing was left half-written."),
        (QualityNotReached("No candidate met it."), 3, "Error: No candidate met it."),
        (BackendMissing("Type: pip install x"), 4, "pip install x"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "No room left on the disk"),
        (MemoryError(), 1, "Not enough memory"),
        (ZeroDivisionError("odd\nthing"), 1, "ZeroDivisionError: odd. leangan did not expect this"),
    ],
)
def test_every_failure_is_one_sentence(tmp_path, monkeypatch, capfd, error, code, words):
    monkeypatch.chdir(tmp_path)
    assert main(failing(monkeypatch, error)) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert words in err
    assert err.count("\n") == 1
    assert "Traceback" not in err


@pytest.mark.parametrize("place", [0, 1, 4])
def test_debug_shows_the_traceback_wherever_it_stands(tmp_path, monkeypatch, capfd, place):
    monkeypatch.chdir(tmp_path)
    arguments = failing(monkeypatch, ZeroDivisionError("odd"))
    arguments.insert(place, "--debug")
    assert main(arguments) == 1
    assert "Traceback" in capfd.readouterr().err


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    command = f"{sys.executable} -m leangan.cli.main zoo --json | head -c 1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    assert done.stdout == "{"
