"""Fast products of fp32 matrices: fp32 all the same, used where they are, and the setting is put back."""

import time
from contextlib import nullcontext

import pytest
import torch

from gdmtl_lib.backbones import devices
from gdmtl_lib.backbones.devices import fast_products, pick_device, pick_precision
from gdmtl_lib.backbones.reference import reference

CPU = torch.device("cpu")
SETTINGS = torch.backends.mkldnn.matmul


SLOW, FAST = {"mkl": 2.0, "onednn": 4.0, "bf16": 4.0}, {"mkl": 2.0, "onednn": 1.9, "bf16": 1.0}


@pytest.fixture
def measured(monkeypatch):
    """What products are made to have taken, forward and in training; oneDNN rounds nothing."""

    def set(forward, training=None):
        monkeypatch.setattr(devices, "products_measured", lambda: {"forward": forward, "training": training or forward})

    monkeypatch.setattr(devices, "_onednn_is_exact", lambda: True)
    return set


@pytest.fixture
def by_onednn(measured):
    measured(FAST)


@pytest.mark.parametrize(
    ("forward", "training", "expected"),
    [
        (FAST, FAST, ("bf16", "bf16")),
        (SLOW, SLOW, ("fp32", "fp32")),
        (FAST, SLOW, ("bf16", "fp32")),
        (SLOW, FAST, ("fp32", "bf16")),
        # An Intel Xeon whose virtual machine shows bf16 and hides AMX: half of fp32's rate.
        ({"mkl": 1 / 161, "bf16": 1 / 84}, {"mkl": 1 / 156, "bf16": 1 / 78}, ("fp32", "fp32")),
        # No bf16; a little faster, which casts and what scatters may cost.
        ({"mkl": 1.0}, {"mkl": 1.0, "bf16": 0.9}, ("fp32", "fp32")),
        # Faster than MKL, but not than oneDNN, which fp32 would take.
        ({"mkl": 2.0, "onednn": 1.0, "bf16": 0.95}, FAST, ("fp32", "bf16")),
    ],
)
def test_auto_takes_bf16_where_it_is_measured_to_be_fast(measured, forward, training, expected):
    measured(forward, training)
    assert (pick_precision("auto", CPU), pick_precision("auto", CPU, training=True)) == expected
    assert [pick_precision(name, CPU) for name in ("fp32", "bf16", "fp16")] == ["fp32", "bf16", "fp16"]


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"bf16": True}, True), ({}, False),
     ({"avx512_f": True, "avx512_bf16": False}, False)],
)  # fmt: skip
def test_only_a_processor_that_has_bf16_is_measured_in_it(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(devices, "_seconds_of", lambda *_: 1.0)
    monkeypatch.setattr(devices, "PROBE_SECONDS", 0)
    assert ("bf16" in devices._measure()["forward"]) == ("bf16" in devices._measure()["training"]) == expected


def test_what_multiplies_is_measured_for_training_apart(measured):
    measured(FAST, SLOW)
    with torch.no_grad():
        assert devices.multiplies_with_onednn(CPU)
    assert not devices.multiplies_with_onednn(CPU)


def test_products_are_measured_once_for_all_processes(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    threads, ask = torch.get_num_threads(), devices.products_measured.__wrapped__
    found = ask()
    assert set(found) == {"forward", "training"} and all("mkl" in ways for ways in found.values())
    assert all(0 < seconds < 1 for ways in found.values() for seconds in ways.values())
    [file] = tmp_path.rglob("*.json")
    assert torch.__version__ in file.name and torch.get_num_threads() == threads
    monkeypatch.setattr(devices, "_measure", lambda: {"forward": SLOW, "training": SLOW})
    assert ask() == found
    for spoiled in ("", "{}", "[1]", '{"forward": 3, "training": 4}'):
        file.write_text(spoiled)
        assert ask() == {"forward": SLOW, "training": SLOW} == ask()


def test_a_home_that_cannot_be_written_is_no_reason_to_stop(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(devices, "_measure", lambda: {"forward": FAST, "training": SLOW})
    assert devices.products_measured.__wrapped__() == {"forward": FAST, "training": SLOW}


def test_measuring_takes_a_fraction_of_a_second_and_leaves_no_trace():
    """In this thread's own time, whatever else the machine does."""
    devices._onednn_is_exact()
    devices._measure()  # what a library does when it is first used
    before, seconds = SETTINGS.fp32_precision, []
    for _ in range(3):  # the quickest: a shared core is slower than its own time says
        start = time.thread_time()
        devices._measure()
        seconds.append(time.thread_time() - start)
    assert min(seconds) < 0.3
    assert SETTINGS.fp32_precision == before and torch.is_grad_enabled()


def test_rounding_is_found_whatever_dtype_torch_takes_by_default(monkeypatch):
    """In float64 nothing is rounded, and nothing would be found."""
    seen = []
    monkeypatch.setattr(devices, "_products_by_onednn", lambda wanted: nullcontext())
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda self, other: seen.append(self.dtype) or torch.mm(self, other))
    torch.set_default_dtype(torch.float64)
    try:
        assert devices._onednn_is_exact.__wrapped__() and set(seen) == {torch.float32}
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_gpu_that_torch_does_not_see_is_no_secret(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(devices, "visible_gpus", lambda: ["0", "1"])
    with pytest.warns(UserWarning, match=r"sees none of this machine's GPUs \(0, 1\), and the CPU computes: install torch"):
        assert pick_device("auto") == CPU
    assert pick_device("cpu") == CPU


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


def test_the_setting_is_put_back(by_onednn):
    before = SETTINGS.fp32_precision
    with fast_products(CPU):
        assert SETTINGS.fp32_precision == "bf16"
    assert SETTINGS.fp32_precision == before
    with pytest.raises(KeyError), fast_products(CPU):
        raise KeyError
    assert SETTINGS.fp32_precision == before


@pytest.mark.parametrize(
    ("ways", "exact", "device"),
    [(SLOW, True, "cpu"), ({"mkl": 1.0}, True, "cpu"), (FAST, False, "cpu"), (FAST, True, "cuda")],
)
def test_elsewhere_nothing_is_changed(measured, monkeypatch, ways, exact, device):
    """Where MKL is faster, where oneDNN would round to bf16, on other devices."""
    measured(ways)
    monkeypatch.setattr(devices, "_onednn_is_exact", lambda: exact)
    before = SETTINGS.fp32_precision
    with fast_products(torch.device(device)):
        assert SETTINGS.fp32_precision == before


def test_it_can_be_switched_off(by_onednn):
    before = SETTINGS.fp32_precision
    with reference("products"), fast_products(CPU):
        assert SETTINGS.fp32_precision == before


def test_asking_the_processor_leaves_no_trace():
    before = SETTINGS.fp32_precision
    assert devices._onednn_is_exact.__wrapped__() in (True, False)
    assert SETTINGS.fp32_precision == before
