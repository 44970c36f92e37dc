"""The fastest that keeps what was asked for, and what is written when none does."""

from __future__ import annotations

import pytest
from report_example import entry

from leangan.errors import UsageError
from leangan.search.choose import choose

ORIGINAL = {**entry("original", "torch", "fp32"), "size_bytes": 1000}


def made(name, speedup, size_bytes=500, error=None, **means):
    quality = {m: {"mean": v, "worst": v, "n": 4} for m, v in means.items()}
    return {
        **entry(name), "speedup": speedup, "size_bytes": size_bytes, "error": error,
        "quality": quality,
    }  # fmt: skip


def names(candidates, floor):
    return tuple(e and e["name"] for e in choose(ORIGINAL, candidates, floor))


def test_the_fastest_above_the_floor_is_delivered():
    candidates = [made("slow", 2, psnr=60), made("fast", 4, psnr=41), made("bad", 9, psnr=30)]
    assert names(candidates, "psnr>=40") == ("fast", "fast")


def test_of_two_as_fast_the_better_is_delivered():
    candidates = [made("a hair faster", 4.0, psnr=41), made("better", 3.85, psnr=55)]
    assert names(candidates, "psnr>=40")[0] == "better"


def test_beyond_a_tie_speed_decides():
    candidates = [made("faster", 4.0, psnr=41), made("better", 3.7, psnr=55)]
    assert names(candidates, "psnr>=40")[0] == "faster"


def test_a_tie_is_broken_by_the_metric_that_was_asked_for():
    candidates = [
        made("sharp", 4.0, psnr=50, ssim=0.980),
        made("alike", 4.0, psnr=45, ssim=0.999),
    ]
    assert names(candidates, "ssim>=0.9,psnr>=40")[0] == "alike"
    assert names(candidates, "psnr>=40,ssim>=0.9")[0] == "sharp"


def test_of_a_distance_less_is_better():
    candidates = [made("near", 4.0, perceptual=0.01), made("far", 4.0, perceptual=0.02)]
    assert names(candidates, "perceptual<=0.05")[0] == "near"
    assert names(candidates, "perceptual<=0.005") == (None, "near")


def test_an_identical_output_meets_every_floor_and_wins_ties():
    candidates = [made("near", 4.0, psnr=90), made("identical", 4.0, psnr=None)]
    assert names(candidates, "psnr>=40")[0] == "identical"


def test_what_failed_or_was_never_timed_is_never_taken():
    candidates = [
        made("failed", 9, error="it broke", psnr=99),
        made("untimed", None, psnr=99),
        made("sound", 1.5, psnr=50),
    ]
    assert names(candidates, "psnr>=40") == ("sound", "sound")
    assert names(candidates[:2], "psnr>=40") == (None, None)


def test_a_metric_that_was_not_measured_is_not_met():
    assert names([made("one", 3, psnr=50)], "psnr>=40,ssim>=0.9") == (None, "one")


def test_nothing_reaches_the_quality():
    candidates = [made("slow", 2, psnr=60), made("fast", 4, psnr=41)]
    # Nothing is good enough, so what comes closest is worth writing.
    assert names(candidates, "psnr>=200") == (None, "slow")


def test_speed_can_be_asked_for():
    candidates = [made("good", 2, psnr=60), made("bad", 4, psnr=30)]
    assert names(candidates, "psnr>=40,speedup>=2") == ("good", "good")
    # What keeps the quality is written rather than what is fast enough.
    assert names(candidates, "psnr>=40,speedup>=3") == (None, "good")


def test_size_can_be_asked_for():
    big, small = made("big", 4, 600, psnr=50), made("small", 3, 250, psnr=50)
    assert names([big, small], "psnr>=40,smaller>=4")[0] == "small"
    assert names([big, small], "psnr>=40,smaller>=5") == (None, "big")


def test_what_is_delivered_is_what_is_written():
    """Also where something faster keeps the quality and misses the size."""
    big, small = made("big", 4, 600, psnr=50), made("small", 3, 250, psnr=50)
    delivered, best = choose(ORIGINAL, [big, small], "psnr>=40,smaller>=4")
    assert delivered is best is small


def test_without_a_floor_the_fastest_is_delivered():
    assert names([made("a", 2, psnr=10), made("b", 3, psnr=5)], "") == ("b", "b")


def test_nothing_was_tried():
    assert choose(ORIGINAL, [], "psnr>=40") == (None, None)


def test_a_malformed_floor_is_refused():
    with pytest.raises(UsageError, match="quality floor"):
        choose(ORIGINAL, [], "psnr=40")
