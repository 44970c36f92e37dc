"""What would make a .tflite larger than its weights: steps per output, copies, long names."""

import numpy as np
import pytest
import torch
from task_nets import image_generator, image_port, latent_generator
from torch import nn
from torch.nn import functional as F

from leangan.generator import Port
from leangan.graph.sizes import fix_sizes
from leangan.runtimes.litert_ import LiteRT
from leangan.runtimes.litert_file import operators, unpack
from leangan.techniques.quantize_linear import quantize


@pytest.fixture(autouse=True)
def _need_it():
    if missing := LiteRT().missing():
        pytest.skip(missing)


class Projected(nn.Module):
    """As most networks from noise begin: a map of a latent, then transposed convolutions."""

    def __init__(self, *, slope=0.2, spread=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.slope = slope
        self.first = nn.Linear(20, 16 * 64)
        self.up = nn.ConvTranspose2d(64, 3, 5, 2, 1)
        with torch.no_grad():
            self.first.weight[::100] *= spread

    def forward(self, z):
        x = F.leaky_relu(self.first(z), self.slope).reshape(-1, 64, 4, 4)
        return torch.tanh(self.up(x)[:, :, 1:, 1:])


def quantized(**options):
    z = Port("z", "latent", "NC", (None, 20), (1, 20))
    output = image_port("output", size=8, value_range=(-1.0, 1.0), fixed=True)
    net = latent_generator(Projected(**options), [z], output, [torch.randn(2, 20)])
    made = quantize(net, [net.example(seed=seed) for seed in range(8)])
    return fix_sizes(made)


def steps(path):
    """The number of scales of each 8-bit weight and of what its layer puts out."""
    model = unpack(path.read_bytes())
    tensors, found = model.subgraphs[0].tensors, []
    for op in model.subgraphs[0].operators:
        ends = [tensors[i] for i in (*op.inputs[:2], *op.outputs)]
        if len(op.inputs) > 2 and all(t.type == 9 for t in ends):  # INT8
            found.append([len(t.quantization.scale) for t in ends[1:]])
    return found


def db(generator, artifact):
    x = [generator.example(seed=seed)[0] for seed in range(20, 28)]
    wanted = np.concatenate([generator(z).numpy() for z in x])
    session = LiteRT().open(artifact, 1)
    found = np.concatenate([session.run([z.numpy()])[0] for z in x])
    return 10 * np.log10(np.ptp(wanted) ** 2 / np.square(found - wanted).mean())


@pytest.mark.parametrize("slope", [0.0, 0.2])
def test_a_latents_projection_has_one_step(slope, tmp_path):
    made = quantized(slope=slope)
    artifact = LiteRT().build(made, tmp_path, "int8")
    assert steps(artifact.path)[0] == [1, 1]
    first = operators(artifact.path.read_bytes())[:4]
    assert not {"MUL", "ADD"} & {o.kind for o in first}
    assert db(made, artifact) > 35


def test_but_steps_of_their_own_where_a_few_outputs_are_far_larger(tmp_path):
    made = quantized(spread=200.0)
    artifact = LiteRT().build(made, tmp_path, "int8")
    assert steps(artifact.path)[0][0] == 16 * 64


class Cropped(nn.Module):
    def __init__(self, *places):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.places = nn.Conv2d(3, 3, 3, padding=1), places

    def forward(self, x):
        y = self.conv(x)
        for place in self.places:
            y = y[place]
        return torch.tanh(y)


ROWS, COLUMNS = (..., slice(2, -1), slice(None)), (..., slice(None), slice(3, 9))


@pytest.mark.parametrize("places", [(ROWS, COLUMNS), (COLUMNS, ROWS, ROWS)])
def test_crops_axis_by_axis_are_one_operator(places, tmp_path):
    generator = fix_sizes(image_generator(Cropped(*places), size=16))
    artifact = LiteRT().build(generator, tmp_path, "fp32")
    kinds = [o.kind for o in operators(artifact.path.read_bytes())]
    assert kinds.count("SLICE") + kinds.count("STRIDED_SLICE") == 1
    x = generator.example(seed=3)[0]
    (found,) = LiteRT().open(artifact, 1).run([x.numpy()])
    np.testing.assert_allclose(found, generator(x).numpy(), atol=1e-6)


def test_the_file_holds_nothing_twice_and_nothing_unread(tmp_path):
    made = quantized()
    model = unpack(LiteRT().build(made, tmp_path, "int8").path.read_bytes())
    (graph,) = model.subgraphs
    ends = [*graph.inputs, *graph.outputs]
    used = {int(i) for op in graph.operators for i in (*op.inputs, *op.outputs) if i >= 0}
    assert used | set(ends) == set(range(len(graph.tensors)))
    assert {t.buffer for t in graph.tensors} | {m.buffer for m in model.metadata} == set(
        range(len(model.buffers))
    )
    assert {op.opcodeIndex for op in graph.operators} == set(range(len(model.operatorCodes)))
    alike = [
        (t.type, tuple(t.shape), bytes(model.buffers[t.buffer].data))
        for t in graph.tensors
        if t.buffer and (t.quantization is None or t.quantization.scale is None)
    ]
    assert len(alike) == len(set(alike))
    inner = [t.name.decode() for i, t in enumerate(graph.tensors) if i not in ends]
    assert not [name for name in inner if "/" in name or "." in name]
    assert "Linear_first" in inner
