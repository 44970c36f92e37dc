from leangan.runtimes.onnxruntime_ import ONNXRuntime
from leangan.runtimes.openvino_ import OpenVINO
from leangan.runtimes.torch_ import Torch
from leangan.testing.runtimes import RuntimeTestCase


class TestOpenVINO(RuntimeTestCase):
    runtime = OpenVINO()


class TestONNXRuntime(RuntimeTestCase):
    runtime = ONNXRuntime()


class TestTorch(RuntimeTestCase):
    runtime = Torch()
    int8 = False
