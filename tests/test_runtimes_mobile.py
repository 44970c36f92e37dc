from leangan.runtimes.executorch_ import ExecuTorch
from leangan.testing.runtimes import RuntimeTestCase


class TestExecuTorch(RuntimeTestCase):
    runtime = ExecuTorch()
