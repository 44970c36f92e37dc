import io

import pytest
from report_example import entry, example
from rich.console import Console

from leangan.report.table import entries_table


def printed(width, entries=None, delivered="openvino int8, 2 layers bf16", floor="psnr>=45"):
    report = example()
    entries = [report["original"], *report["candidates"]] if entries is None else entries
    stream = io.StringIO()
    console = Console(file=stream, width=width, color_system=None)
    console.print(entries_table(entries, delivered, floor, width=width))
    return stream.getvalue()


def test_the_table_fits_and_keeps_what_matters_at_100_columns():
    text = printed(100)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    for needed in ("version", "ms p50", "speed-up", "size", "PSNR dB", "(worst) n 16", "remark"):
        assert needed in text
    assert "34.5 / 36.2" in text
    assert "50.5 (47.9)" in text
    assert "memory" not in text


def test_a_wide_screen_shows_everything():
    text = printed(180)
    for column in ("runtime", "precision", "zip", "int8 share", "memory"):
        assert column in text
    assert "412 MB" in text
    assert "install g++" in text


@pytest.mark.parametrize("width", [80, 100, 180])
def test_the_delivered_line_is_the_only_one_marked(width):
    assert printed(width).count("delivered") == 1


def test_sample_numbers_that_differ_are_told_per_line():
    quality = {"psnr": {"mean": 40.0, "worst": 39.0, "n": 7}}
    text = printed(120, [entry("a"), entry("b", quality=quality)], None, None)
    assert "45.0 (42.4) 16" in text
    assert "40.0 (39.0) 7" in text


def test_plain_output_has_no_control_characters():
    assert "\x1b" not in printed(120)


def test_names_with_markup_or_newlines_are_shown_as_they_are():
    text = printed(120, [entry("[red]a\n[/red]")], None, None)
    assert "[red]a [/red]" in text


def test_columns_nobody_filled_are_left_out():
    text = printed(180, [entry("a", peak_memory_bytes=None, quality={})], None, None)
    assert "memory" not in text
    assert "quality" not in text
