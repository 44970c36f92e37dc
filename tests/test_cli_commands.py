"""The commands themselves, with a pipeline that only remembers what it was asked."""

import json
import subprocess
import sys
import types

import pytest
from report_example import entry, example

from leangan import __version__, runtimes
from leangan.cli.main import main


class Pipeline(types.ModuleType):
    """Stands in for leangan.search.pipeline and leangan.search.compare."""

    def __init__(self):
        super().__init__("leangan.search.pipeline")
        self.report = example()
        self.asked = None

    def compress(self, source, data, out, *, progress, **options):
        print("chatter of a library")
        progress("Measuring", 1, 2)
        self.asked = (source, data, out, options)
        return types.SimpleNamespace(to_json=lambda: self.report)

    def evaluate(self, a, b, data, *, progress, **options):
        self.asked = (a, b, data, options)
        quality = {"psnr": {"mean": 50.5, "worst": 47.9, "n": 16}}
        return {"a": entry(a, quality={}), "b": entry(b, quality={}), "quality": quality}

    def bench(self, model, on, *, progress, **options):
        self.asked = (model, on, options)
        return {"entries": [entry("torch fp32", "torch", "fp32"), entry("openvino bf16")]}


@pytest.fixture
def pipeline(monkeypatch, tmp_path):
    import leangan.search

    fake = Pipeline()
    monkeypatch.setitem(sys.modules, "leangan.search.pipeline", fake)
    monkeypatch.setitem(sys.modules, "leangan.search.compare", fake)
    monkeypatch.setattr(leangan.search, "pipeline", fake, raising=False)
    monkeypatch.chdir(tmp_path)
    return fake


def test_help_needs_neither_torch_nor_other_heavy_packages():
    code = (
        "import sys\n"
        "from leangan.cli.main import main\n"
        "assert main(['--help']) == 0\n"
        "assert main(['compress', '--help']) == 0\n"
        "heavy = {'torch', 'numpy', 'PIL', 'onnx', 'onnxruntime', 'openvino', 'jinja2', 'yaml'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Commands:" in done.stdout
    assert "--keep" in done.stdout


def test_every_command_has_json_and_examples(capfd):
    for name in ("inspect", "compress", "evaluate", "run", "bench", "export", "doctor", "zoo"):
        assert main([name, "--help"]) == 0
        text = capfd.readouterr().out
        assert "--json" in text
        assert f"  leangan {name}" in text


def test_version(capfd):
    assert main(["--version"]) == 0
    assert capfd.readouterr().out == f"leangan {__version__}\n"


def test_no_arguments_show_the_help(capfd):
    assert main([]) == 2
    assert "Commands:" in capfd.readouterr().err


def test_compress_hands_everything_on(pipeline, tmp_path, capfd):
    (tmp_path / "w.pth").touch()
    arguments = ["compress", "net.py:G", "--data", "photos", "-o", "out", "--keep", "psnr>=45"]
    arguments += ["--keep", "ssim>=0.9", "--on", "openvino, torch", "--threads", "2", "--seed", "7"]
    arguments += ["--limit", "9", "--range", "x=-1,1", "--kind", "x=image", "--trust"]
    arguments += ["--args", '{"depth": 9}', "--weights", "w.pth", "--size", "1x3x8x8"]
    assert main(arguments) == 0
    source, data, out, options = pipeline.asked
    assert (source, str(data), str(out)) == ("net.py:G", "photos", "out")
    assert options["keep"] == "psnr>=45,ssim>=0.9"
    assert options["on"] == ("openvino", "torch")
    assert (options["threads"], options["seed"], options["limit"]) == (2, 7, 9)
    assert options["ranges"] == {"x": (-1.0, 1.0)}
    assert options["kinds"] == {"x": "image"}
    assert options["arguments"] == {"depth": 9}
    assert options["example_inputs"] == ((1, 3, 8, 8),)
    assert options["trust"] is True


def test_what_was_not_said_is_left_to_the_pipeline(pipeline):
    assert main(["compress", "x.pth", "-o", "out"]) == 0
    options = pipeline.asked[3]
    assert options["keep"] is None
    assert options["on"] is None
    assert options["limit"] is None
    assert options["command"] == "leangan compress x.pth -o out"
    assert not {"ranges", "kinds", "arguments", "weights", "example_inputs", "task"} & set(options)


def test_compress_ends_with_the_table_and_where_the_report_is(pipeline, capfd):
    assert main(["compress", "x.pth", "-o", "out"]) == 0
    out, err = capfd.readouterr()
    assert "50.5 (47.9)" in out
    assert "runs 11.6× as fast as the original" in out
    assert out.rstrip().endswith("Report: out/report.html")
    assert err == "Measuring\n"


def test_json_is_all_that_stands_on_stdout(pipeline, capfd):
    assert main(["compress", "x.pth", "-o", "out", "--json"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out) == pipeline.report
    assert "chatter" in err


def test_nothing_delivered_is_exit_code_3_and_the_best_is_named(pipeline, capfd):
    pipeline.report["delivered"] = None
    assert main(["compress", "x.pth", "-o", "out", "--json"]) == 3
    assert json.loads(capfd.readouterr().out)["delivered"] is None
    assert main(["compress", "x.pth", "-o", "out"]) == 3
    out = capfd.readouterr().out
    assert "No faster version with a PSNR of at least 45 dB was found." in out
    assert "The best that was found is openvino int8, 2 layers bf16, in out/model.xml." in out


def test_quiet_says_nothing_and_verbose_counts(pipeline, capfd):
    main(["compress", "x.pth", "-o", "out", "-q"])
    assert capfd.readouterr().err == ""
    main(["-v", "compress", "x.pth", "-o", "out"])
    assert capfd.readouterr().err == "Measuring (1/2)\n"


def test_an_earlier_result_may_be_overwritten_and_force_allows_the_rest(pipeline, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    assert main(["compress", "x.pth", "-o", "out"]) == 2
    assert pipeline.asked is None
    assert main(["compress", "x.pth", "-o", "out", "--force"]) == 0
    (tmp_path / "out" / "report.json").write_text("{}")
    assert main(["compress", "x.pth", "-o", "out"]) == 0


def test_evaluate_prints_two_lines_and_the_quality(pipeline, capfd):
    assert main(["evaluate", "a", "b", "--data", "d", "--threads", "1"]) == 0
    assert "PSNR: 50.5 dB (worst 47.9, n 16)" in capfd.readouterr().out
    assert main(["evaluate", "a", "b", "--json"]) == 0
    assert set(json.loads(capfd.readouterr().out)) == {"a", "b", "quality"}


def test_bench_prints_a_table(pipeline, capfd):
    assert main(["bench", "a", "--on", "openvino"]) == 0
    assert pipeline.asked[1] == ("openvino",)
    assert "openvino bf16" in capfd.readouterr().out
    assert main(["bench", "a", "--on", "openvino,onnxruntime", "--on", "torch"]) == 0
    assert pipeline.asked[1] == ("openvino", "onnxruntime", "torch")
    assert main(["bench", "a", "--on", "all"]) == 0
    assert {"torch", "torch-inductor", "openvino"} <= {*pipeline.asked[1]}
    assert all(runtimes.get(n).runs_here and runtimes.get(n).timed for n in pipeline.asked[1])


def test_colour_is_never_sent_into_a_pipe(pipeline, capfd, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    main(["compress", "x.pth", "-o", "out"])
    out, err = capfd.readouterr()
    assert "\x1b" not in out + err


def test_zoo_lists_licence_and_size(capfd):
    assert main(["zoo", "--json"]) == 0
    entries = json.loads(capfd.readouterr().out)["entries"]
    by_name = {e["name"]: e for e in entries}
    assert by_name["cyclegan-vintage"]["licence"] == "MIT"
    assert by_name["cyclegan-vintage"]["size_bytes"] > 1e6
    assert main(["zoo"]) == 0
    out = capfd.readouterr().out
    assert all(name in out for name in by_name)
