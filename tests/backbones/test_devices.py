"""Fast products of fp32 matrices: fp32 all the same, used where they are, and the setting is put back."""

import pytest
import torch

from gdmtl_lib.backbones import devices
from gdmtl_lib.backbones.devices import fast_products
from gdmtl_lib.backbones.reference import reference

CPU = torch.device("cpu")
SETTINGS = torch.backends.mkldnn.matmul


@pytest.fixture
def on_amd(monkeypatch):
    monkeypatch.setattr(devices, "_cpu_name", lambda: "AMD EPYC")
    monkeypatch.setattr(devices, "_onednn_is_exact", lambda: True)


def test_products_are_fp32_whatever_multiplies_them():
    """On the processor at hand: against fp64, no worse than fp32 is; in bf16 the error would be a thousand times that."""
    left, right = torch.randn(2, 300, 300, generator=torch.Generator().manual_seed(0))
    with fast_products(CPU):
        found = left @ right
    error = (found.double() - left.double() @ right.double()).abs().max()
    assert error < 1e-4
    assert (left.bfloat16() @ right.bfloat16() - found).abs().max() > 100 * error


def test_gradients_are_those_of_plain_products():
    found, expected = (torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_() for _ in "ab")
    with fast_products(CPU):
        (found @ found).tanh().sum().backward()
    (expected @ expected).tanh().sum().backward()
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-5)


def test_the_setting_is_put_back(on_amd):
    before = SETTINGS.fp32_precision
    with fast_products(CPU):
        assert SETTINGS.fp32_precision == "bf16"
    assert SETTINGS.fp32_precision == before
    with pytest.raises(KeyError), fast_products(CPU):
        raise KeyError
    assert SETTINGS.fp32_precision == before


@pytest.mark.parametrize(
    ("name", "exact", "device"),
    [("Intel(R) Xeon(R)", True, "cpu"), ("", True, "cpu"), ("AMD EPYC", False, "cpu"), ("AMD EPYC", True, "cuda")],
)
def test_elsewhere_nothing_is_changed(monkeypatch, name, exact, device):
    """Other processors, those that would round to bf16, other devices."""
    monkeypatch.setattr(devices, "_cpu_name", lambda: name)
    monkeypatch.setattr(devices, "_onednn_is_exact", lambda: exact)
    before = SETTINGS.fp32_precision
    with fast_products(torch.device(device)):
        assert SETTINGS.fp32_precision == before


def test_it_can_be_switched_off(on_amd):
    before = SETTINGS.fp32_precision
    with reference("products"), fast_products(CPU):
        assert SETTINGS.fp32_precision == before


def test_asking_the_processor_leaves_no_trace():
    before = SETTINGS.fp32_precision
    assert devices._onednn_is_exact.__wrapped__() in (True, False)
    assert SETTINGS.fp32_precision == before
