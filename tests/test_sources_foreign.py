import pytest
import torch

import leangan as lg
from leangan.errors import LeanganError, UnknownNetwork, UnsafeFile, UsageError
from leangan.sources import restoration
from leangan.testing.runtimes import TinyNet


def scripted(path):
    torch.manual_seed(1)
    net = TinyNet().eval()
    torch.jit.save(torch.jit.script(net), str(path))
    return net


def test_torchscript_is_read_with_trust_only(tmp_path):
    net = scripted(tmp_path / "net.pt")
    with pytest.raises(UnsafeFile, match=r"TorchScript archive.*--trust"):
        lg.load(tmp_path / "net.pt")
    with pytest.raises(UsageError, match=r"net.pt does not tell the shape.*--size"):
        lg.load(tmp_path / "net.pt", trust=True)
    generator = lg.load(tmp_path / "net.pt", trust=True, example_inputs=(1, 3, 32, 32))
    assert generator.signature.inputs[0].shape == (None, 3, None, None)
    assert generator.name == "net"
    x = torch.randn(2, 3, 46, 34)
    with torch.no_grad():
        assert torch.allclose(generator(x), net(x), atol=1e-5)


def test_torchscript_cut_short_is_an_error_of_ours(tmp_path):
    scripted(tmp_path / "net.pt")
    data = (tmp_path / "net.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(LeanganError):
        lg.load(tmp_path / "cut.pt", trust=True, example_inputs=(1, 3, 32, 32))


def test_unknown_weights_say_which_package_knows_more(tmp_path, monkeypatch):
    monkeypatch.setattr(restoration, "available", lambda: False)
    torch.save({"strange.weight": torch.zeros(3, 3, 3, 3)}, tmp_path / "w.pth")
    with pytest.raises(UnknownNetwork, match=r"strange.weight.*leangan\[spandrel\]"):
        lg.load(tmp_path / "w.pth")


def test_networks_of_spandrel_are_recognised(tmp_path):
    pytest.importorskip("spandrel")
    from spandrel.architectures.PLKSR import PLKSR

    torch.manual_seed(0)
    net = PLKSR(dim=16, n_blocks=2, upscaling_factor=2).eval()
    torch.save({"params_ema": net.state_dict()}, tmp_path / "w.pth")
    generator = lg.load(tmp_path / "w.pth")
    assert generator.signature.outputs[0].typical == (1, 3, 128, 128)
    assert generator.history[0].settings["architecture"] == "PLKSR"
    x = torch.rand(1, 3, 20, 24)
    with torch.no_grad():
        assert torch.allclose(generator(x), net(x), atol=1e-5)


def test_what_spandrel_does_beside_the_network_is_kept(tmp_path):
    pytest.importorskip("spandrel")
    from spandrel.architectures.DnCNN import DnCNN

    torch.manual_seed(0)
    net = DnCNN(in_nc=4, out_nc=3, nc=8, nb=17, act_mode="R", mode="FDnCNN").eval()
    torch.save(net.state_dict(), tmp_path / "w.pth")
    generator = lg.load(tmp_path / "w.pth")
    x = torch.rand(1, 3, 20, 24)
    noise = torch.full((1, 1, 20, 24), 15 / 255)
    with torch.no_grad():
        assert torch.allclose(generator(x), net(torch.cat([x, noise], 1)), atol=1e-6)
