"""The page of a pruning: complete, escaped, and honest in its headline."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from report_example import picture

from leangan.report.pruning import headline, render, write_pruning


def facts(**changes):
    size = {"params": 11_378_179, "macs": 49_600_000_000, "zeros": 0.0, "bytes": 45_500_000}
    before = {**size, "file_bytes": 45_600_000, "zip_bytes": 42_300_000}
    after = {**before, "params": 7_900_000, "macs": 34_600_000_000, "file_bytes": 31_000_000}
    return {
        "model": "zoo:cyclegan-vintage",
        "task": "translation",
        "floor": "psnr>=45",
        "plan": {"macs": 0.7},
        "widths": [
            {"group": "model.1", "before": 64, "after": 64},
            {"group": "model.10.<b>", "before": 256, "after": 144},
        ],
        "before": before,
        "after": after,
        "quality": {
            "psnr": {"mean": 40.97, "worst": 40.5, "n": 3},
            "ssim": {"mean": 0.9952, "worst": 0.9945, "n": 3},
        },
        "judged_on": "3 held-out samples",
        "speed": None,
        "tried": [],
        "fixed": [
            {"reason": "reaches the output", "paths": ["c.bias"], "params": 3, "share": 1e-6}
        ],
        "warnings": ["The output is below the floor."],
        "notes": ["a.png: alpha channel dropped."],
        "file": "small.pt2",
    } | changes


def removed(channel, explained, **drawn):
    return {"channel": channel, "explained": explained, **drawn}


def extras():
    png = {"png": picture(40)}
    line = {"line": [0.0, 0.5, 1.0, 0.25]}
    return {
        "maps": [
            {
                "group": "model.10<script>",
                "width": 256,
                "kept": 144,
                "constant": 1,
                "explained": 0.918,
                "shape": "64 x 64",
                "kept_maps": [{"channel": 3, **png}],
                "removed_maps": [
                    removed(7, 0.994, **png, by={"png": picture(90)}),
                    removed(9, None, **png, by=png),
                ],
            },
            {
                "group": "ups.0",
                "width": 8,
                "kept": 4,
                "constant": 0,
                "explained": 0.5,
                "shape": "400",
                "kept_maps": [{"channel": 0, **line}],
                "removed_maps": [removed(1, 0.5, **line, by={"line": [0.1, 0.5, 0.9, 0.3]})],
            },
        ],
        "samples": [
            {"name": "<i>.png", "psnr": 41.0, "reference": picture(1), "output": "http://x"}
        ],
        "steps": [{"name": "prune_channels", "settings": {"by": "redundancy"}}],
        "command": "leangan prune x --macs 0.7 -o small.pt2 && echo '<b>'",
    }


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.images, self.lines = [], [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attrs)["src"])
        self.lines += tag == "polyline"

    def handle_data(self, data):
        self.text.append(data)


def words(page):
    return " ".join(" ".join(page.text).split())


def test_maps_stand_beside_what_explains_them():
    page = Page(render(facts(), extras()))
    assert len(page.images) == 6, "a kept one, two pairs, one sample"
    assert all(source.startswith("data:image/png") for source in page.images)
    assert page.lines == 3, "a kept line; a removed one and what explains it in one frame"
    text = words(page)
    assert "144 of 256 channels kept, maps of 64 x 64." in text
    assert "explain 92% of what the removed maps vary" in text
    assert "1 of these is the same everywhere here" in text
    assert "99% explained" in text
    assert "the same everywhere" in text


def test_everything_from_outside_is_escaped_and_nothing_is_fetched():
    text = render(facts(), extras())
    assert "script" not in Page(text).tags
    assert "model.10&lt;script&gt;" in text
    assert "model.10.&lt;b&gt;" in text
    assert "http://x" not in text
    assert not re.search(r"(src|href)=\"(?!data:)", text)


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "below the task's floor"),
        ({"quality": {"psnr": {"mean": 46.0, "worst": 45.1, "n": 3}}}, "keeps the task's floor"),
        ({"task": None, "floor": None}, "not judged on real inputs"),
    ],
)
def test_the_verdict_is_that_of_the_floor(changes, verdict):
    text = words(Page(render(facts(**changes), {})))
    verdicts = ("below the task's floor", "keeps the task's floor", "not judged on real inputs")
    assert [v for v in verdicts if v in text] == [verdict]


def test_multiply_accumulates_are_never_called_a_speed():
    text = words(Page(render(facts(), {})))
    assert "no promise of speed" in text
    assert "70% of its multiply-accumulates" in headline(facts())
    assert "×" not in text
    latency = {"p50": 55.0, "p90": 56.0, "first": 90.0}
    speed = {
        "runtime": "openvino", "precision": "bf16", "threads": 2, "before_ms": latency,
        "after_ms": latency | {"p50": 40.0}, "speedup": 1.375,
    }  # fmt: skip
    timed = words(Page(render(facts(speed=speed, tried=[{"macs": 0.7, "time": 0.73}]), {})))
    assert "55.0 ms became 40.0 ms, 1.38×" in timed
    assert "in OpenVINO bf16 on 2 threads" in timed
    assert "70% of the MACs took 73% of the time" in timed


def test_zeros_have_a_headline_of_their_own():
    made = facts(plan={"weights": 0.5}, widths=[], fixed=[])
    made["after"] = made["before"] | {"zeros": 0.5}
    assert headline(made).startswith("50% of the weights of zoo:cyclegan-vintage are zero")
    assert "Widths" not in words(Page(render(made, {})))


def test_it_is_written_whole_or_not_at_all(tmp_path):
    path = write_pruning(facts(), extras(), tmp_path / "why.html")
    assert path.read_text(encoding="utf-8") == render(facts(), extras())
    broken = facts()
    del broken["widths"]
    with pytest.raises(Exception, match="widths"):
        write_pruning(broken, {}, tmp_path / "other.html")
    assert [p.name for p in tmp_path.iterdir()] == ["why.html"]
