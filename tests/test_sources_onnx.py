import contextlib
import io
import random
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import leangan as lg
from leangan.errors import LeanganError, UsageError
from leangan.graph.capture import quiet
from leangan.runtimes.onnx_file import write_onnx
from leangan.sources import onnx_file
from leangan.sources.base import Request
from leangan.sources.onnx_file import load
from leangan.sources.onnx_model import read_graph
from leangan.sources.onnx_module import OnnxModule
from leangan.testing.runtimes import TinyNet, tiny_generator, tiny_int8_generator

RNG = np.random.default_rng(0)


def model(nodes, shapes, constants=(), outputs=("y",), opset=17, kind=TensorProto.FLOAT):
    inputs = [helper.make_tensor_value_info(n, kind, s) for n, s in shapes.items()]
    results = [onnx.ValueInfoProto(name=n) for n in outputs]
    for value in results:
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    stored = [numpy_helper.from_array(np.asarray(v), n) for n, v in dict(constants).items()]
    graph = helper.make_graph(nodes, "g", inputs, results, stored)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 8
    return made


def both(proto, *arrays):
    """What OnnxModule and ONNX Runtime make of the same input."""
    module = OnnxModule(read_graph(proto, "m.onnx"), "m.onnx")
    with torch.no_grad():
        mine = module(*(torch.from_numpy(a) for a in arrays))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    feed = dict(zip((i.name for i in session.get_inputs()), arrays, strict=True))
    return mine.numpy(), session.run(None, feed)[0]


def f32(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*values):
    return np.array(values, np.int64)


# name, operator, its attributes, shape of x, constants behind x, opset
OPERATORS = [
    ("conv-uneven", "Conv", {"pads": [0, 1, 2, 1]}, (1, 3, 8, 9), {"w": f32(4, 3, 3, 3)}, 17),
    ("conv-same", "Conv", {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, (1, 3, 8, 9),
     {"w": f32(4, 3, 3, 4)}, 17),
    ("conv-same-lower", "Conv", {"auto_pad": "SAME_LOWER"}, (1, 3, 8, 9),
     {"w": f32(4, 3, 2, 2)}, 17),
    ("conv-grouped", "Conv", {"group": 2, "dilations": [2]}, (1, 4, 12), {"w": f32(6, 2, 3)}, 17),
    ("transposed", "ConvTranspose", {"strides": [2, 2], "pads": [1, 1, 1, 1],
     "output_padding": [1, 1]}, (2, 3, 5, 6), {"w": f32(3, 4, 3, 3), "b": f32(4)}, 17),
    ("transposed-uneven", "ConvTranspose", {"strides": [2, 2], "pads": [0, 1, 1, 0]}, (1, 3, 5, 6),
     {"w": f32(3, 4, 4, 4)}, 17),
    ("transposed-same", "ConvTranspose", {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
     (1, 3, 5, 6), {"w": f32(3, 4, 3, 3)}, 17),
    ("transposed-shape", "ConvTranspose", {"strides": [2, 2], "output_shape": [10, 12]},
     (1, 3, 5, 6), {"w": f32(3, 4, 3, 3)}, 17),
    ("batch-norm", "BatchNormalization", {"epsilon": 1e-3}, (2, 3, 4, 4),
     {"s": f32(3), "b": f32(3), "m": f32(3), "v": np.abs(f32(3)) + 1}, 15),
    ("instance-norm", "InstanceNormalization", {}, (2, 3, 8, 8), {"s": f32(3), "b": f32(3)}, 17),
    ("layer-norm", "LayerNormalization", {}, (2, 5, 8), {"s": f32(8), "b": f32(8)}, 17),
    ("group-norm", "GroupNormalization", {"num_groups": 2}, (2, 4, 5, 5),
     {"s": f32(4), "b": f32(4)}, 21),
    ("prelu", "PRelu", {}, (1, 3, 4, 4), {"s": f32(3, 1, 1)}, 17),
    ("prelu-batch", "PRelu", {}, (1, 3, 4, 4), {"s": f32(1, 3, 1, 1)}, 17),
    ("prelu-places", "PRelu", {}, (1, 3, 4, 5), {"s": f32(5)}, 17),
    ("gemm", "Gemm", {"alpha": 0.5, "beta": 2.0}, (2, 5), {"w": f32(5, 4), "b": f32(4)}, 17),
    ("gemm-turned", "Gemm", {"transB": 1}, (2, 5), {"w": f32(4, 5), "b": f32(1)}, 17),
    ("matmul", "MatMul", {}, (2, 3, 5), {"w": f32(5, 4)}, 17),
    ("softmax-old", "Softmax", {}, (2, 3, 4), {}, 11),
    ("softmax", "Softmax", {"axis": 1}, (2, 3, 4), {}, 17),
    ("clip-old", "Clip", {"min": -0.5, "max": 0.25}, (2, 3), {}, 9),
    ("clip", "Clip", {}, (2, 3), {"lo": np.float32(-0.5)}, 17),
    ("pad-old", "Pad", {"mode": "reflect", "pads": [0, 0, 1, 2, 0, 0, 2, 1]}, (1, 2, 5, 6), {}, 9),
    ("pad", "Pad", {"mode": "edge"}, (1, 2, 5, 6), {"p": ints(0, 0, 1, 2, 0, 0, 2, 1)}, 17),
    ("pad-value", "Pad", {}, (1, 2, 5), {"p": ints(0, 1, 0, 0, -1, 2), "v": np.float32(3)}, 17),
    ("pad-nhwc", "Pad", {"mode": "reflect"}, (1, 5, 6, 2), {"p": ints(0, 1, 2, 0, 0, 2, 1, 0)}, 17),
    ("pad-wrap", "Pad", {"mode": "wrap"}, (1, 2, 5, 6), {"p": ints(0, 0, 1, 2, 0, 0, 2, 1)}, 19),
    ("upsample", "Upsample", {"mode": "nearest"}, (1, 2, 3, 4),
     {"s": np.float32([1, 1, 2, 3])}, 9),
    ("resize-10", "Resize", {"mode": "nearest"}, (1, 2, 3, 4), {"s": np.float32([1, 1, 2, 2])}, 10),
    ("nearest-default", "Resize", {"mode": "nearest"}, (1, 2, 3, 4),
     {"r": f32(0), "s": np.float32([1, 1, 2, 2])}, 13),
    ("nearest-floor", "Resize", {"mode": "nearest", "nearest_mode": "floor",
     "coordinate_transformation_mode": "asymmetric"}, (1, 2, 3, 4),
     {"r": f32(0), "s": np.float32([1, 1, 1.5, 3])}, 13),
    ("nearest-nhwc", "Resize", {"mode": "nearest"}, (1, 3, 4, 2),
     {"r": f32(0), "s": np.float32([1, 2, 2, 1])}, 13),
    ("linear", "Resize", {"mode": "linear"}, (1, 2, 6, 7),
     {"r": f32(0), "s": np.float32([1, 1, 2, 2])}, 13),
    ("linear-corners", "Resize", {"mode": "linear",
     "coordinate_transformation_mode": "align_corners"}, (1, 2, 6, 7),
     {"r": f32(0), "s": f32(0), "z": ints(1, 2, 12, 11)}, 13),
    ("cubic", "Resize", {"mode": "cubic"}, (1, 2, 6, 7),
     {"r": f32(0), "s": np.float32([1, 1, 2, 2])}, 13),
    ("depth-crd", "DepthToSpace", {"blocksize": 2, "mode": "CRD"}, (1, 8, 3, 4), {}, 13),
    ("depth-dcr", "DepthToSpace", {"blocksize": 2}, (1, 12, 3, 4), {}, 13),
    ("space", "SpaceToDepth", {"blocksize": 2}, (1, 3, 4, 6), {}, 13),
    ("max-pool", "MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]},
     (1, 2, 7, 8), {}, 17),
    ("mean-pool", "AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2]}, (1, 2, 6, 8), {}, 17),
    ("mean-pool-counted", "AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1],
     "count_include_pad": 1}, (1, 2, 6, 8), {}, 17),
    ("global-mean", "GlobalAveragePool", {}, (2, 3, 4, 5), {}, 17),
    ("mean-old", "ReduceMean", {"axes": [2, 3], "keepdims": 0}, (2, 3, 4, 5), {}, 11),
    ("mean", "ReduceMean", {}, (2, 3, 4, 5), {"a": ints(-1)}, 18),
    ("l2", "ReduceL2", {"axes": [1]}, (2, 3, 4), {}, 13),
    ("slice-old", "Slice", {"starts": [1], "ends": [-1], "axes": [2]}, (2, 3, 6), {}, 9),
    ("slice-back", "Slice", {}, (2, 6),
     {"s": ints(-1), "e": ints(-(2**63) + 1), "a": ints(1), "t": ints(-1)}, 13),
    ("gather", "Gather", {"axis": 1}, (2, 5, 3), {"i": ints(4, 0, -2)}, 13),
    ("gather-one", "Gather", {"axis": 1}, (2, 5, 3), {"i": np.int64(-1)}, 13),
    ("tile", "Tile", {}, (2, 3), {"r": ints(2, 3)}, 13),
    ("expand", "Expand", {}, (3, 1), {"s": ints(2, 1, 4)}, 13),
    ("reshape", "Reshape", {}, (2, 3, 4), {"s": ints(0, -1)}, 13),
    ("squeeze-old", "Squeeze", {"axes": [1]}, (2, 1, 4), {}, 11),
    ("unsqueeze", "Unsqueeze", {}, (2, 4), {"a": ints(-1, 1)}, 13),
    ("flatten", "Flatten", {"axis": 2}, (2, 3, 4, 5), {}, 13),
    ("transpose", "Transpose", {}, (2, 3, 4), {}, 13),
    ("divide", "Div", {}, (2, 3, 4), {"d": f32(3, 1) + 4}, 13),
    ("power", "Pow", {}, (2, 3), {"p": np.float32(2)}, 13),
    ("hard-sigmoid", "HardSigmoid", {"alpha": 0.25}, (2, 9), {}, 17),
    ("gelu", "Gelu", {"approximate": "tanh"}, (2, 9), {}, 20),
    ("einsum", "Einsum", {"equation": "bij,jk->bik"}, (2, 3, 4), {"w": f32(4, 5)}, 13),
    *[(kind.lower(), kind, {}, (3, 7), {}, 17) for kind in (
        "Abs", "Ceil", "Cos", "Elu", "Erf", "Exp", "Floor", "HardSwish", "LeakyRelu", "Neg",
        "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign",
        "Tanh")],
]  # fmt: skip


@pytest.mark.parametrize("case", OPERATORS, ids=[c[0] for c in OPERATORS])
def test_operators_compute_what_onnx_runtime_does(case):
    _, kind, attributes, shape, constants, opset = case
    node = helper.make_node(kind, ["x", *constants], ["y"], **attributes)
    mine, theirs = both(model([node], {"x": shape}, constants, opset=opset), f32(*shape))
    assert mine.shape == theirs.shape
    assert np.allclose(mine, theirs, atol=2e-5, rtol=1e-4)


def exported(net, path, *, dynamo, opset, x):
    say = io.StringIO()
    with quiet(), contextlib.redirect_stdout(say), contextlib.redirect_stderr(say):
        if dynamo:
            free = ({0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO},)
            torch.onnx.export(net, (x,), path, dynamo=True, opset_version=opset,
                              dynamic_shapes=free, external_data=False)  # fmt: skip
        else:
            torch.onnx.export(net, (x,), path, dynamo=False, opset_version=opset,
                              input_names=["x"],
                              dynamic_axes={"x": {0: "n", 2: "h", 3: "w"}})  # fmt: skip


def test_same_padding_follows_a_free_size(tmp_path):
    node = helper.make_node("Conv", ["x", "w"], ["y"], auto_pad="SAME_UPPER", strides=[2, 2])
    proto = model([node], {"x": [1, 3, "h", "v"]}, {"w": f32(4, 3, 4, 4)})
    onnx.save(proto, tmp_path / "g.onnx")
    generator = lg.load(tmp_path / "g.onnx")
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    for size in (8, 12), (20, 6):
        x = f32(1, 3, *size)
        expected = session.run(None, {"x": x})[0]
        np.testing.assert_allclose(generator(torch.from_numpy(x)), expected, atol=1e-5)


@pytest.mark.parametrize(("dynamo", "opset"), [(True, 18), (False, 9), (False, 17)])
def test_both_exporters_of_pytorch_come_back_equal_with_free_sizes(tmp_path, dynamo, opset):
    torch.manual_seed(1)
    net = TinyNet().eval()
    exported(net, str(tmp_path / "n.onnx"), dynamo=dynamo, opset=opset, x=torch.randn(2, 3, 32, 36))
    generator = lg.load(tmp_path / "n.onnx")
    assert generator.signature.inputs[0].shape == (None, 3, None, None)
    assert generator.signature.outputs[0].range == (-1.0, 1.0)
    x = torch.randn(3, 3, 46, 34)
    with torch.no_grad():
        assert torch.allclose(generator(x), net(x), atol=1e-5)
    (compared,) = (s.measured for s in generator.history if s.name == "read_onnx")
    assert compared["difference_to_onnxruntime"] < 1e-5
    # Opset 9 has no operator for it, and spells it out.
    assert [n for n in generator.program.graph.nodes if "pixel_shuffle" in str(n.target)]


def test_what_we_wrote_is_read_back_to_the_same_graph(tmp_path):
    ours = tiny_generator()
    again = lg.load(write_onnx(ours, tmp_path / "g.onnx"))
    x = ours.example({"N": 2, "H": 40, "W": 36})[0]
    assert torch.equal(ours(x), again(x))
    kinds = [[str(n.target) for n in g.program.graph.nodes if n.op == "call_function"]
             for g in (ours, again)]  # fmt: skip
    assert [k for k in kinds[1] if "conv" in k] == [k for k in kinds[0] if "conv" in k]


def test_8_bits_stay_8_bits(tmp_path):
    ours = tiny_int8_generator()
    again = lg.load(write_onnx(ours, tmp_path / "q.onnx"))
    assert again.quantized
    assert any(b.dtype == torch.int8 for b in again.program.buffers())
    x = ours.example({"H": 40, "W": 36})[0]
    assert torch.equal(ours(x), again(x))


def test_weights_in_unsigned_8_bits_become_signed(tmp_path):
    codes = RNG.integers(0, 255, (4, 3, 3, 3)).astype(np.uint8)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=0),
        helper.make_node("Conv", ["xd", "wd"], ["y"]),
    ]
    stored = {"s": np.float32(0.02), "z": np.uint8(120), "w": codes,
              "ws": np.abs(f32(4)) / 50 + 0.01, "wz": np.uint8([128, 120, 128, 130])}  # fmt: skip
    proto = model(nodes, {"x": (1, 3, 8, 8)}, stored)
    mine, theirs = both(proto, f32(1, 3, 8, 8))
    assert np.allclose(mine, theirs, atol=1e-4)


def test_a_part_is_cut_out_by_the_names_of_values(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["middle"]),
        helper.make_node("Relu", ["middle"], ["r"]),
        helper.make_node("Conv", ["r", "b"], ["late"]),
        helper.make_node("Tanh", ["late"], ["y"]),
    ]
    proto = model(nodes, {"x": (None, 3, None, None)}, {"a": f32(4, 3, 1, 1), "b": f32(2, 4, 3, 3)})
    onnx.save_model(proto, str(tmp_path / "m.onnx"))
    part = lg.load(tmp_path / "m.onnx", starts=["middle"], ends=["late"])
    assert part.signature.inputs[0].shape == (None, 4, None, None)
    assert [p.name for p in part.signature.inputs] == ["middle"]
    assert part.signature.outputs[0].shape[1] == 2
    with pytest.raises(UsageError, match="no value 'midle'; near it are middle"):
        lg.load(tmp_path / "m.onnx", starts=["midle"])
    with pytest.raises(UsageError, match="late also depends on x"):
        lg.load(tmp_path / "m.onnx", starts=["y"], ends=["late"])


def test_pictures_of_tensorflow_come_in_nchw(tmp_path):
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["t", "w"], ["c"]),
        helper.make_node("Tanh", ["c"], ["z"]),
        helper.make_node("Transpose", ["z"], ["y"], perm=[0, 2, 3, 1]),
    ]
    proto = model(nodes, {"x": (None, None, None, 3)}, {"w": f32(3, 3, 1, 1)})
    onnx.save_model(proto, str(tmp_path / "m.onnx"))
    generator = lg.load(tmp_path / "m.onnx")
    port = generator.signature.inputs[0]
    assert (port.name, port.kind, port.shape) == ("x", "image", (None, 3, None, None))
    assert generator.signature.outputs[0].shape == (None, 3, None, None)
    assert not [n for n in generator.program.graph.nodes if "permute" in str(n.target)]
    x = f32(1, 5, 6, 3)
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    mine = generator(torch.from_numpy(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    assert np.allclose(mine.numpy(), session.run(None, {"x": x})[0], atol=1e-5)


def test_weights_may_have_names_that_are_no_paths(tmp_path):
    """As Paddle2ONNX writes them: a norm that is folded needs a bias beside `conv.w_0`."""
    nodes = [
        helper.make_node("Conv", ["x", "conv.w_0"], ["c"], name="p2o.Conv.0"),
        helper.make_node("BatchNormalization", ["c", *(f"bn.w_{i}" for i in range(4))], ["n"]),
        helper.make_node("Relu", ["n"], ["y"]),
    ]
    weights = {"conv.w_0": f32(4, 3, 3, 3), **{f"bn.w_{i}": f32(4) ** 2 + 1 for i in range(4)}}
    proto = model(nodes, {"x": (None, 3, None, None)}, weights)
    onnx.save(proto, tmp_path / "m.onnx")
    generator = lg.load(tmp_path / "m.onnx")
    assert not [n for n in generator.program.graph.nodes if "norm" in str(n.target)]
    x = f32(1, 3, 9, 8)
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    mine = generator(torch.from_numpy(x)).numpy()
    assert np.allclose(mine, session.run(None, {"x": x})[0], atol=1e-5)


def test_a_sigmoid_that_puts_out_nearly_nothing_is_read(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["c"], ["y"]),
    ]
    weights = {"w": 0.1 * f32(1, 3, 3, 3), "b": np.float32([-13])}
    onnx.save(model(nodes, {"x": (None, 3, None, None)}, weights), tmp_path / "m.onnx")
    (output,) = lg.load(tmp_path / "m.onnx").outputs(torch.randn(1, 3, 64, 64))
    assert 0 < float(output.max()) < 1e-4


def test_an_operator_that_is_not_read_is_named(tmp_path):
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("NonZero", ["r"], ["y"], "nz"),
    ]
    onnx.save_model(model(nodes, {"x": (1, 3)}), str(tmp_path / "m.onnx"))
    with pytest.raises(LeanganError, match="operator NonZero 'nz' is not read yet"):
        lg.load(tmp_path / "m.onnx")


def test_a_branch_whose_condition_is_known_is_taken():
    then = helper.make_graph([helper.make_node("Neg", ["x"], ["t"])], "then", [],
                             [onnx.ValueInfoProto(name="t")])  # fmt: skip
    other = helper.make_graph([helper.make_node("Abs", ["x"], ["e"])], "else", [],
                              [onnx.ValueInfoProto(name="e")])  # fmt: skip
    node = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    mine, theirs = both(model([node], {"x": (2, 3)}, {"c": np.array(True)}), f32(2, 3))
    assert np.array_equal(mine, theirs)


def test_labels_come_as_floats_and_are_whole_inside(tmp_path):
    nodes = [helper.make_node("Gather", ["table", "label"], ["y"])]
    proto = model(nodes, {"label": (None,)}, {"table": f32(10, 6)}, kind=TensorProto.INT64)
    onnx.save_model(proto, str(tmp_path / "m.onnx"))
    generator = lg.load(tmp_path / "m.onnx", ranges={"label": (0, 9)})
    assert generator.signature.inputs[0].kind == "label"
    (compared,) = (s.measured for s in generator.history if s.name == "read_onnx")
    assert compared["difference_to_onnxruntime"] == 0
    table = numpy_helper.to_array(proto.graph.initializer[0])
    assert np.array_equal(generator(torch.tensor([3.0, 7.0])).numpy(), table[[3, 7]])


def beside(path, location):
    """A model whose weight lies in another file."""
    proto = model([helper.make_node("Conv", ["x", "w"], ["y"])], {"x": (None, 3, None, None)},
                  {"w": f32(4, 3, 3, 3)})  # fmt: skip
    tensor = proto.graph.initializer[0]
    data = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("length", str(len(data)))):
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(proto.SerializeToString())
    return data


def test_weights_that_lie_beside_the_file_are_read(tmp_path):
    (tmp_path / "w.bin").write_bytes(beside(tmp_path / "m.onnx", "w.bin"))
    assert lg.load(tmp_path / "m.onnx").params == 108
    (tmp_path / "w.bin").write_bytes(b"1234")
    with pytest.raises(LeanganError, match="cut short"):
        lg.load(tmp_path / "m.onnx")


@pytest.mark.parametrize("location", ["../w.bin", "/etc/passwd", "link"])
def test_weights_outside_of_the_folder_are_refused(tmp_path, location):
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(beside(folder / "m.onnx", location))
    (folder / "link").symlink_to(tmp_path / "w.bin")
    with pytest.raises(LeanganError, match="not in its folder"):
        lg.load(folder / "m.onnx")


@pytest.mark.parametrize("content", [b"", b"not a model at all", b"\x08\x08\x12"])
def test_what_is_no_model_is_one_sentence(tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(LeanganError, match=r"empty|no ONNX file") as caught:
        lg.load(tmp_path / "m.onnx")
    assert len(str(caught.value).splitlines()) == 1


def mutated(data, rng):
    """A few bytes changed, a piece cut out or doubled, or the end cut off."""
    data = bytearray(data)
    way = rng.randrange(4)
    place = rng.randrange(len(data))
    if way == 0:
        for _ in range(rng.randrange(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif way == 1:
        del data[place : place + rng.randrange(1, 64)]
    elif way == 2:
        data[place:place] = data[place : place + rng.randrange(1, 64)]
    else:
        del data[place:]
    return bytes(data)


def test_damaged_files_are_errors_of_ours_or_models(tmp_path, monkeypatch):
    """Never another exception, never a crash, never a file written."""
    # What follows costs a second for each that is read, and never sees the file.
    monkeypatch.setattr(onnx_file, "from_module", lambda *_, **__: tiny_generator())
    monkeypatch.setattr(onnx_file, "_compared", lambda generator, *_: generator)
    proto = onnx.load(str(write_onnx(tiny_generator(), tmp_path / "g.onnx")))
    for tensor in proto.graph.initializer:  # so that most mutations hit the structure
        if tensor.dims and len(tensor.raw_data) > 4096:
            del tensor.dims[:]
            tensor.dims.extend([1])
            tensor.raw_data = tensor.raw_data[:4]
    data = proto.SerializeToString()
    whole = (tmp_path / "g.onnx").read_bytes()
    rng = random.Random(0)
    path = Path(tmp_path / "m.onnx")
    refused = 0
    for number in range(400):
        path.write_bytes(mutated(data if number % 2 else whole, rng))
        try:
            load(path, Request())
        except LeanganError:
            refused += 1
    assert refused > 100
    assert {p.name for p in tmp_path.iterdir()} == {"g.onnx", "m.onnx"}


def test_a_module_with_any_number_of_inputs_is_captured():
    class Sum(nn.Module):
        def forward(self, *inputs):
            return torch.tanh(inputs[0] + inputs[1])

    generator = lg.load(Sum(), example_inputs=[(1, 3, 8, 8), (1, 3, 8, 8)])
    assert [p.shape for p in generator.signature.inputs] == [(None, 3, None, None)] * 2
