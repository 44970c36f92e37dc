from report_example import entry, example

from leangan.report.card import card

SIGNATURE = {
    "inputs": [
        {
            "name": "input",
            "kind": "image",
            "layout": "NCHW",
            "shape": [None, 3, None, None],
            "typical": [1, 3, 256, 256],
            "range": [-1, 1],
            "multiple": [1, 1, 4, 4],
        }
    ],
    "outputs": [
        {
            "name": "output",
            "kind": "image",
            "layout": "NCHW",
            "shape": [None, 3, None, None],
            "typical": [1, 3, 256, 256],
            "range": None,
            "multiple": [],
        }
    ],
}


def test_the_card_says_what_goes_in_and_how_to_run_it():
    text = card(example(), {"signature": SIGNATURE, "licence": "MIT", "command": "leangan x"})
    assert "runs 11.6× as fast as the original" in text
    assert (
        "- `input`: image, float32 [batch any; channels 3; height any, a multiple of 4; "
        "width any, a multiple of 4], values from -1 to 1. Pad other sizes"
    ) in text
    assert "- `output`: image, float32 [batch any; channels 3; height any; width any], " in text
    assert '"INFERENCE_PRECISION_HINT": "bf16"' in text
    assert 'compile_model("model.xml"' in text
    assert "leangan run . photo.jpg" in text
    assert "Licence of the weights: MIT" in text
    assert "50.5 dB (worst 47.9, n 16) | delivered |" in text
    assert "alpha channel dropped" in text


def test_python_in_the_card_is_valid_even_for_awkward_file_names():
    report = example()
    report["delivered"] = entry("a", "onnxruntime", "int8", file='odd "name"\n.onnx')
    blocks = card(report, {}).split("```python\n")[1:]
    assert len(blocks) == 2
    for block in blocks:
        compile(block.split("```")[0], "card", "exec")


def test_the_card_of_a_failure_does_not_praise():
    report = example() | {"delivered": None}
    report["candidates"][0] = report["candidates"][0] | {"file": "best.xml"}
    text = card(report, {})
    assert "**No faster version with a PSNR of at least 45 dB was found.**" in text
    assert "the best that was found: torch inductor fp32" in text


def test_names_cannot_break_the_table_or_inject_html():
    bad = "a|b\n<img src=x>`*"
    report = example() | {"candidates": [entry(bad)], "notes": [bad], "model": bad}
    text = card(report, {})
    assert "<img" not in text
    row = next(line for line in text.splitlines() if line.startswith("| a\\|b"))
    assert row.replace("\\|", "").count("|") == 8


def test_a_command_with_a_fence_in_it_stays_inside():
    text = card(example(), {"command": "leangan\n```\n# not a heading"})
    assert "````sh\nleangan\n```\n# not a heading\n````" in text
