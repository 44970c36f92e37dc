import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from leangan.errors import LeanganError
from leangan.generator import Generator, Port, Signature
from leangan.graph.capture import capture
from leangan.runtimes import Artifact
from leangan.runtimes.check import agree, round_up, three_sizes


def port(layout="NCHW", shape=(None, 3, None, None), typical=(1, 3, 64, 64), multiple=()):
    return Port("image", "image", layout, shape, typical, (-1.0, 1.0), multiple)


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    program = capture(nn.Conv2d(3, 3, 3, padding=1), [torch.randn(2, 3, 20, 24)], [[0, 2, 3]])
    return Generator(program, Signature((port(),), (port(),)))


class Answers:
    """Stands in for a worker: the generator's own answer, changed."""

    def __init__(self, generator, change):
        self.generator, self.change, self.seen = generator, change, []

    def run(self, inputs):
        self.seen.append(inputs[0].shape)
        outputs = self.generator.outputs(*(torch.from_numpy(x) for x in inputs))
        return [self.change(o.numpy()) for o in outputs]


def check(generator, change, precision="fp32", sizes=None):
    artifact = Artifact("some", precision, (Path("model.bin"),))
    worker = Answers(generator, change)
    return agree(generator, artifact, worker, sizes), worker


def test_equal_outputs_agree_at_three_sizes_one_odd(generator):
    found, worker = check(generator, lambda o: o)
    assert len(set(worker.seen)) == 3
    assert any(h % 2 and w % 2 for _, _, h, w in worker.seen)
    assert any(h != w for _, _, h, w in worker.seen)
    assert len({n for n, _, _, _ in worker.seen}) > 1
    assert [a.largest_difference for a in found] == [0, 0, 0]
    assert all(math.isinf(a.db) for a in found)


@pytest.mark.parametrize(
    ("change", "precision", "message"),
    [
        (lambda o: o[..., :-1], "fp32", r"N 1, H 64, W 64 gives outputs of shape"),
        (lambda o: o[:, ::-1], "fp32", "differs from the generator by"),
        (lambda o: o + 0.01, "fp32", "differs from the generator by"),
        (lambda o: o * np.float32("nan"), "bf16", "not finite"),
        (lambda o: o / 0, "int8", "not finite"),
        (lambda o: o[..., ::-1], "bf16", "dB only, which bf16 does not"),
        (lambda o: o * 0, "int8+bf16", "dB only"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_wrong_outputs_are_refused(generator, change, precision, message):
    with pytest.raises(LeanganError, match=message):
        check(generator, change, precision)


def test_rounding_is_no_difference_however_small_the_range():
    torch.manual_seed(0)
    nearly_nothing = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Sigmoid())
    nn.init.constant_(nearly_nothing[0].bias, -18)  # of the sigmoid 1e-8
    program = capture(nearly_nothing, [torch.randn(2, 3, 20, 24)], [[0, 2, 3]])
    generator = Generator(program, Signature((port(),), (port(),)))
    found, _ = check(generator, lambda o: o[..., ::-1].copy())
    assert max(a.largest_difference for a in found) > 0.1  # of its range, and said so
    with pytest.raises(LeanganError, match="differs from the generator by"):
        check(generator, lambda o: o + np.float32(1e-6))


def test_missing_output_is_refused(generator):
    class None_(Answers):
        def run(self, inputs):
            return []

    artifact = Artifact("some", "fp32", (Path("model.bin"),))
    with pytest.raises(LeanganError, match="shape"):
        agree(generator, artifact, None_(generator, None))


def test_low_precision_may_differ_a_little(generator):
    found, _ = check(generator, lambda o: o + 0.01 * float(np.ptp(o)), "bf16")
    assert [round(a.db) for a in found] == [40, 40, 40]
    assert found[0].largest_difference == pytest.approx(0.01, rel=1e-3)


def test_failure_names_the_size(generator):
    class Odd(Answers):
        def run(self, inputs):
            if inputs[0].shape[2] % 2:
                raise LeanganError("some fp32 failed: 33 is no multiple of 2.")
            return super().run(inputs)

    artifact = Artifact("some", "fp32", (Path("model.bin"),))
    with pytest.raises(LeanganError, match=r"model.bin .* at N 1, H \d+, W \d+ does not run"):
        agree(generator, artifact, Odd(generator, lambda o: o))


def test_sizes_follow_multiples(generator):
    signature = Signature((port(multiple=(1, 1, 4, 8)),), (port(),))
    strict = Generator(generator.program, signature)
    assert round_up(strict, {"N": 1, "H": 13, "W": 16}) == {"N": 1, "H": 16, "W": 16}
    _, worker = check(strict, lambda o: o, sizes=[{"N": 1, "H": 13, "W": 13}])
    assert worker.seen == [(1, 3, 16, 16)]


def test_latents_and_fixed_sizes_stay(generator):
    latent = port("NCHW", (None, 100, None, None), (16, 100, 1, 1))
    sizes = three_sizes(Generator(generator.program, Signature((latent,), ())))
    assert all(s["H"] == s["W"] == 1 for s in sizes)
    assert len({s["N"] for s in sizes}) == 3
    fixed = port(shape=(1, 3, 64, 64))
    assert three_sizes(Generator(generator.program, Signature((fixed,), ()))) == [{}]
