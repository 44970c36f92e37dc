from leangan.runtimes.executorch_ import ExecuTorch
from leangan.runtimes.ncnn_ import Ncnn
from leangan.testing.runtimes import RuntimeTestCase


class TestExecuTorch(RuntimeTestCase):
    runtime = ExecuTorch()


class TestNcnn(RuntimeTestCase):
    runtime = Ncnn()
    int8 = False
