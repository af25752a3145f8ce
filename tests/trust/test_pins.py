"""The pinned versions against the weaknesses that are known to us: a written check, for machines without a network.

`make audit` asks the advisory database about every pin, where it can be reached.
"""

import pytest
from packaging.version import Version
from tests.test_packaging import PIN_LINES, PINS

# The first version without it, and what it was. Reviewed in November 2026.
WITHOUT = {
    "authlib": ("1.6.5", "CVE-2025-61920"),
    "bleach": ("3.3.0", "CVE-2021-23980"),
    "certifi": ("2024.7.4", "CVE-2024-39689"),
    "cryptography": ("44.0.1", "CVE-2024-12797"),
    "filelock": ("3.20.1", "CVE-2025-68146"),
    "fonttools": ("4.60.2", "CVE-2025-66034"),
    "h11": ("0.16.0", "CVE-2025-43859"),
    "idna": ("3.7", "CVE-2024-3651"),
    "ipython": ("8.10.0", "CVE-2023-24816"),
    "jinja2": ("3.1.6", "CVE-2025-27516"),
    "joblib": ("1.2.0", "CVE-2022-21797"),
    "jupyter-core": ("5.8.1", "CVE-2025-30167"),
    "jupyter-server": ("2.14.1", "CVE-2024-35178"),
    "jupyterlab": ("4.4.8", "CVE-2025-59842"),
    "mistune": ("2.0.3", "CVE-2022-34749"),
    "nbconvert": ("6.5.1", "CVE-2021-32862"),
    "numpy": ("1.22.0", "CVE-2021-34141"),
    "pillow": ("11.3.0", "CVE-2025-48379"),
    "protobuf": ("6.31.1", "CVE-2025-4565"),
    "pyarrow": ("14.0.1", "CVE-2023-47248"),
    "pygments": ("2.15.0", "CVE-2022-40896"),
    "python-multipart": ("0.0.18", "CVE-2024-53981"),
    "pyyaml": ("5.4", "CVE-2020-14343"),
    "requests": ("2.32.4", "CVE-2024-47081"),
    "scikit-learn": ("1.5.0", "CVE-2024-5206"),
    "starlette": ("0.49.1", "CVE-2025-62727"),
    "torch": ("2.8.0", "CVE-2025-32434, CVE-2025-3730"),
    "tornado": ("6.5.0", "CVE-2025-47287"),
    "tqdm": ("4.66.3", "CVE-2024-34062"),
    "transformers": ("4.53.0", "CVE-2025-5197"),
    "urllib3": ("2.6.0", "CVE-2025-66418"),
    "zipp": ("3.19.1", "CVE-2024-5569"),
}


@pytest.mark.parametrize("package", WITHOUT)
def test_no_pin_has_a_weakness_that_we_know(package):
    first, what = WITHOUT[package]
    assert Version(PINS[package]) >= Version(first), f"{what}: raise the pin of {package}"


def test_everything_is_pinned_to_one_version_of_the_package_index():
    """No address, no path, no range: nothing else than what the index's hashes vouch for is ever installed."""
    assert len(PINS) == len(PIN_LINES) > 100
    assert all(version and Version(version) for version in PINS.values())
    assert not any(character in line for line in PIN_LINES for character in "@/ ;*<>")
