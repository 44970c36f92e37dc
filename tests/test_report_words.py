import pytest
from report_example import entry, example

from leangan.errors import UsageError
from leangan.report import words


@pytest.mark.parametrize("floor", ["psnr", "psnr>40", "psnr>=", "psnr>=forty", ">=40", "psnr=40"])
def test_a_wrong_floor_is_refused_and_quoted(floor):
    with pytest.raises(UsageError, match="metric>=number"):
        words.conditions(floor)


def test_a_floor_with_several_metrics_must_hold_in_all():
    floor = "psnr>=40, perceptual<=0.01"
    assert words.above_floor(entry("a", psnr=41), floor)
    assert not words.above_floor(entry("a", psnr=39), floor)
    assert not words.above_floor(entry("a", psnr=41), "psnr>=40,perceptual<=0.001")
    assert not words.above_floor(entry("a"), "snr>=10")  # not measured


def test_a_floor_may_ask_for_speed_too():
    assert words.above_floor(entry("a", speedup=3), "psnr>=40,speedup>=2,smaller>=9")
    assert not words.above_floor(entry("a", speedup=3), "psnr>=40,speedup>=4")
    assert words.floor_words("speedup>=2") == "speed-up of at least 2"


def test_identical_output_meets_any_lower_bound():
    same = entry("a", quality={"psnr": {"mean": None, "worst": None, "n": 4}})
    assert words.above_floor(same, "psnr>=1000")
    assert words.quality_words(same, "psnr") == "identical (n 4)"


def test_remarks_say_all_that_is_wrong():
    slow = entry("a", psnr=10, slower_than_float=True)
    assert words.remark(slow, None, "psnr>=40") == "below the floor, slower than float"
    assert words.remark(entry("a"), "a", "psnr>=40") == "delivered"
    assert words.remark(entry("a", error="no\ncompiler"), None, None) == "failed: no compiler"
    assert words.remark(entry("b"), "a", "psnr>=40") == ""
    assert words.remark(entry("b", latency_ms=None), None, None) == "not timed: a simulator"


def test_a_condition_that_no_column_shows_is_named():
    lossy = entry("a", psnr=44) | {
        "quality": {"psnr": {"mean": 44.0}, "psnr_y_lost": {"mean": 0.43}}
    }
    floor = "psnr>=40,psnr_y_lost<=0.1"
    assert words.remark(lossy, None, floor) == ("below the floor: PSNR-Y lost against ground truth")


@pytest.mark.parametrize(
    ("metric", "value", "said"),
    [
        ("psnr", 50.46, "50.5 dB"),
        ("psnr_y_lost", 0.043, "0.04 dB"),
        ("psnr_y_lost", -0.001, "0.00 dB"),
        ("ssim", 0.98, "0.98"),
        ("psnr", None, "identical"),
    ],
)
def test_values_are_said_as_finely_as_they_matter(metric, value, said):
    assert words.metric_value(metric, value) == said


def test_the_headline_gives_speed_size_and_quality():
    assert words.headline(example()) == (
        "In OpenVINO int8+bf16, zoo:cyclegan-vintage runs 11.6× as fast as the original and is "
        "3.9× smaller, at 50.5 dB to its own output."
    )


def test_the_headline_leaves_folders_out():
    assert ", netG.pth runs " in words.headline(example() | {"model": "../deep/netG.pth"})


def test_the_headline_admits_failure():
    report = example() | {"delivered": None}
    assert words.headline(report) == "No faster version with a PSNR of at least 45 dB was found."


def test_a_model_that_did_not_shrink_is_not_called_smaller():
    report = example()
    report["delivered"] = entry("a", size_bytes=report["original"]["size_bytes"])
    assert "smaller" not in words.headline(report)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.23, "0.230"), (5.412, "5.41"), (34.54, "34.5"), (399.4, "399"), (None, "")],
)
def test_milliseconds_keep_three_digits(value, text):
    assert words.milliseconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 B"), (999, "999 B"), (11.66e6, "11.7 MB"), (45e9, "45.0 GB")]
)
def test_sizes_are_decimal(value, text):
    assert words.size(value) == text
