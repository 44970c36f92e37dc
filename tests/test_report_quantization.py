"""The page of a quantization: complete, escaped, with drawings that say what they show."""

from __future__ import annotations

import json
import re

import jsonschema
import pytest
from report_example import example
from report_example import extras as report_extras
from task_nets import Smooth, image_generator
from test_report_html import Page

import leangan as lg
from leangan.cli.inspect import _layers_table, _lines, describe
from leangan.report import html
from leangan.report.json_report import SCHEMA_FILE, finite
from leangan.report.levels import draw, in_words
from leangan.report.quantization import advice, headline, render, write_quantization
from leangan.search.quantize_report import write_quantization_page
from leangan.tasks import infer
from leangan.tasks.base import Sample
from leangan.techniques.describe_quantized import describe_layers, summarize
from leangan.techniques.quantize_linear import quantize

NOISE = {"unit": "step", "low": -127.5, "high": 127.5, "counts": [1, 20, 300, 20, 1],
         "rounded": False, "rows": [[[float(v), 2] for v in range(-127, 128)]]}  # fmt: skip
BOOKS = {"unit": "value", "low": -0.5, "high": 0.4, "counts": [0, 8, 30, 4],
         "rounded": False, "rows": [[[-0.3, 10], [0.0, 20], [0.2, 4]]] * 4}  # fmt: skip


def layer(name, **changes):
    return {
        "name": name, "op": "conv2d", "precision": "w8a8", "activation_bits": 8, "per": "channel",
        "steps": 64, "levels": 255, "params": 342, "bytes": 400, "macs": 1000, "bytes_share": 0.5,
        "macs_share": 0.5, "weight_db": 38.0, "output_db": 52.0, "histogram": NOISE,
    } | changes  # fmt: skip


def coded(name, **changes):
    return layer(
        name, precision="codebook 4", activation_bits=None, per="codebook", steps=4, levels=16,
        weight_db=17.0, output_db=None, histogram=BOOKS, **changes,
    )  # fmt: skip


def facts(**changes):
    return {
        "model": "nets/srgan.pth",
        "task": "super-resolution",
        "floor": "psnr>=40",
        "before": {"file_bytes": 3_000_000},
        "after": {"file_bytes": 750_000},
        "quality": {"psnr": {"mean": 45.2, "worst": 43.9, "n": 5}},
        "judged_on": "5 held-out samples",
        "warnings": ["<b>careful</b>"],
        "notes": [],
        "file": "int8.pt2",
    } | changes


def extras(*layers, **changes):
    summary = {
        "words": "2 layers w8a8", "precisions": {"w8a8": len(layers)}, "integer_share": 1.0,
        "weight_bits": 8.1, "worst": [w["name"] for w in layers[:3]],
    } | changes  # fmt: skip
    return {"summary": summary, "layers": list(layers), "command": "leangan quantize '<i>'"}


def test_the_page_tells_files_quality_layers_and_what_they_mean():
    text = Page(render(facts(), extras(layer("a<script>"), layer("b")))).words
    assert "srgan.pth has 100% of its multiply-accumulates in 8-bit integers" in text
    assert "in a file 4.0× smaller, at a PSNR of 45.2 dB" in text
    assert "750 kB was 3.0 MB" in text
    assert "worst 43.9 dB of 5" in text
    assert "keeps the task's floor" in text
    assert "at 20 dB by a tenth of their size" in text
    assert "64 steps, one per channel, for 255 levels" in text
    assert "weights at 38.0 dB, output at 52.0 dB; 50.0% of the MACs" in text


def test_everything_from_outside_is_escaped_and_nothing_is_fetched():
    text = render(facts(model="<script>x"), extras(layer('"><script>alert(1)'), coded("<i>")))
    page = Page(text)
    assert "script" not in {tag for tag, _ in page.tags}
    assert "&lt;b&gt;careful" in text
    assert not re.search(r"url\(|@import|href=|src=\"(?!data:)", text)


def test_without_output_noise_its_column_is_left_out():
    text = Page(render(facts(), extras(coded("a"), weight_bits=4.2, integer_share=0))).words
    assert "The weights of srgan.pth take 4.2 bits each" in text
    assert "4 codebooks of 16 levels" in text
    assert " output " not in text.split("share of MACs")[0].split("precision")[-1]
    assert "coarse weights are where to look first" in text


def test_float_layers_stand_in_the_table_and_have_no_drawing():
    left = layer(
        "kept", precision="float", activation_bits=None, per=None, steps=0, levels=0,
        weight_db=None, output_db=None, histogram=None,
    )  # fmt: skip
    page = Page(render(facts(), extras(layer("a"), left)))
    assert "kept conv2d float" in page.words
    assert sum(tag == "svg" for tag, _ in page.tags) == 1


def test_the_costliest_and_the_largest_layers_are_open_and_all_others_folded():
    layers = [layer(f"l{i}", macs=i) for i in range(12)]
    page = Page(render(facts(), extras(*layers)))
    assert sum(tag == "svg" for tag, _ in page.tags) == 12
    open_part = page.words.split("Weights and their levels")[1].split("6 more layers")
    assert len(open_part) == 2
    for name in ("l0", "l1", "l2", "l11", "l10", "l9"):
        assert f"{name} w8a8" in open_part[0]
    assert "l5 w8a8" in open_part[1]


def ticks(drawing):
    (path,) = re.findall(r'class="level" d="([^"]*)"', drawing)
    return path.count("M")


def test_of_many_even_steps_every_sixteenth_is_drawn():
    assert ticks(str(draw("a", layer("a")))) == 15 + 2
    few = NOISE | {"low": -7.5, "high": 7.5, "rows": [[[float(v), 2] for v in range(-7, 8)]]}
    drawing = str(draw("a", layer("a", levels=15, histogram=few)))
    assert ticks(drawing) == 15
    assert 'class="through"' in drawing


def test_levels_of_codebooks_stand_in_rows_as_high_as_they_are_taken():
    drawing = str(draw("a", coded("a")))
    assert drawing.count('class="level"') == 4
    heights = [float(h) for h in re.findall(r"v-([\d.]+)", drawing)[:3]]
    assert heights[1] > heights[0] > heights[2]


def test_a_drawing_can_be_read_aloud():
    said = in_words("body.0", coded("body.0"))
    assert said == (
        "Histogram of the weights of body.0: from -0.5 to 0.4, nine of ten between -0.275 and 0.4. "
        "4 codebooks of 16 levels."
    )
    assert said in str(draw("body.0", coded("body.0")))
    assert "rounded weights" in in_words("a", layer("a", histogram=NOISE | {"rounded": True}))


def test_advice_names_cheap_layers_that_make_most_of_the_error():
    cheap = layer("head", output_db=46.0, macs_share=0.01)
    rest = [layer(f"b{i}", output_db=60.0, macs_share=0.33) for i in range(3)]
    (said,) = advice(facts(), [cheap, *rest])
    assert said.startswith("head makes 89% of the error at 1.0% of the multiply-accumulates")
    assert "9.7 dB closer" in said
    costly = layer("head", output_db=46.0, macs_share=0.6)
    assert advice(facts(), [costly, *rest]) == [], "leaving it float would cost the speed"


def test_advice_offers_a_bit_less_only_far_above_the_floor():
    few = [layer("a", levels=15), layer("b", levels=15)]
    far = facts(quality={"psnr": {"mean": 49.0, "worst": 48.0, "n": 5}})
    assert any("one bit less" in s for s in advice(far, few))
    assert not any("one bit less" in s for s in advice(facts(), few))
    below = facts(quality={"psnr": {"mean": 30.0, "worst": 48.0, "n": 5}})
    assert not any("one bit less" in s for s in advice(below, few))


def test_without_a_task_nothing_is_promised():
    made = facts(task=None, floor=None, quality={"snr": {"mean": None, "worst": None, "n": 4}})
    text = Page(render(made, extras(layer("a")))).words
    assert "not judged on real inputs" in text
    assert "identical" in headline(made, extras(layer("a"))["summary"])


def test_it_is_written_whole_or_not_at_all(tmp_path):
    path = write_quantization(facts(), extras(layer("a")), tmp_path / "q.html")
    assert path.read_text("utf-8") == render(facts(), extras(layer("a")))
    with pytest.raises(Exception, match="quality"):
        write_quantization({"model": "x"}, extras(layer("a")), tmp_path / "other.html")
    assert [p.name for p in tmp_path.iterdir()] == ["q.html"]


def test_the_report_of_compress_has_the_section_where_something_is_quantized():
    quantization = {k: v for k, v in extras(layer("a"), coded("b")).items() if k != "command"}
    with_it = Page(html.render(example(), report_extras() | {"quantization": quantization})).words
    assert "Weights and their levels 2 layers w8a8." in with_it
    assert "4 codebooks of 16 levels" in with_it
    assert "Weights and their levels" not in Page(html.render(example(), report_extras())).words


@pytest.fixture(scope="module")
def net():
    return image_generator(Smooth(), factor=1)


@pytest.fixture(scope="module")
def inputs(net):
    return [net.example({"H": 16, "W": 18}, seed=i) for i in range(2)]


def test_a_page_of_a_real_network_with_pictures(net, inputs, tmp_path):
    made = quantize(net, inputs, keep_float=["c"])
    layers = describe_layers(made, net)
    samples = [Sample("one.png", inputs[0])]
    path = write_quantization_page(
        facts(), layers, made, net, tmp_path / "q.html", task=infer(net), samples=samples
    )
    page = Page(path.read_text("utf-8"))
    assert sum(tag == "img" for tag, _ in page.tags) == 4
    assert "one.png" in page.words
    assert "quantized output" in page.words
    bare = write_quantization_page(facts(), layers, made, net, tmp_path / "bare.html")
    assert "Samples" not in Page(bare.read_text("utf-8")).words


def test_the_section_of_report_json_keeps_the_schema(net, inputs):
    layers = describe_layers(quantize(net, inputs, keep_float=["c"]), net)
    section = {**summarize(layers), "layers": [w.to_json() for w in layers]}
    schema = json.loads(SCHEMA_FILE.read_text("utf-8"))
    jsonschema.validate(finite(example() | {"quantization": section}), schema)
    jsonschema.validate(example() | {"quantization": None}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(example() | {"quantization": {"words": "x"}}, schema)


def test_inspect_tells_precisions_and_worst_layers(net, inputs):
    made = describe(quantize(net, inputs, keep_float=["c"]))
    lines = _lines(made)
    assert any(line.startswith("quantized: 2 layers w8a8, 1 float; ") for line in lines)
    assert sum(line.startswith("worst") for line in lines) == 2
    assert not any("can run in 8 bits" in line for line in lines), "that was chosen already"
    assert [w["precision"] for w in made["layers"]] == ["w8a8", "w8a8", "float"]
    assert "precision" in [c.header for c in _layers_table(made, every=True).columns]
    books = describe(lg.codebook(net, 4))
    assert "3 layers codebook 4; all computed in float" in " ".join(_lines(books))


def test_inspect_tells_nothing_new_of_a_float_generator(net):
    made = describe(net)
    assert made["quantization"] is None
    assert not any("quantized" in line or line.startswith("worst") for line in _lines(made))
    assert "precision" not in [c.header for c in _layers_table(made, every=True).columns]
