"""JupyterLab in a real browser: 01 is run from its first cell to its last, and its pictures follow the
controls."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from functools import partial
from pathlib import Path

import pytest

pytestmark = pytest.mark.browser
PROJECT = Path(__file__).parents[1]
SECONDS = 1000  # playwright counts in milliseconds


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab of its own over an empty folder, without the user's settings; its address and the
    folder."""
    folder = tmp_path_factory.mktemp("lab")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Nobody is there to answer whether news are wanted.
    settings = folder / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    homes = {"JUPYTERLAB_SETTINGS_DIR": str(folder / "settings")}
    homes |= {f"JUPYTER_{name}_DIR": str(folder / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        f"--port={port}",
    ]
    command += [
        f"--ServerApp.root_dir={folder}",
        "--IdentityProvider.token=test",
        "--ServerApp.port_retries=0",
    ]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            command, cwd=folder, env=os.environ | homes | {"PYTHONPATH": str(PROJECT)},
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            assert server.poll() is None, (folder / "log").read_text()
            try:
                urllib.request.urlopen(f"{address}/api/status?token=test", timeout=5)
                break
            except OSError:
                time.sleep(0.5)
        yield address, folder
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)


@pytest.fixture()
def page():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": 1500, "height": 1400})
        browser.close()


def with_parameters(folder: Path, name: str, **parameters) -> str:
    """A copy of a notebook with a cell of parameters, as papermill injects it; its name."""
    notebook = json.loads((PROJECT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    place = next(
        i for i, cell in enumerate(notebook["cells"]) if "parameters" in cell["metadata"].get("tags", [])
    )
    lines = ["# Parameters", *(f"{key} = {value!r}" for key, value in parameters.items())]
    injected = {"cell_type": "code", "execution_count": None, "id": "injected", "metadata": {}, "outputs": []}
    notebook["cells"].insert(place + 1, injected | {"source": "\n".join(lines)})
    (folder / f"{name}.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    return f"{name}.ipynb"


def run_all(page, address: str, notebook: str, timeout: float) -> None:
    """Open a notebook and run all of its cells; the last one has a number then."""
    page.goto(f"{address}/lab/tree/{notebook}?reset&token=test")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=120 * SECONDS)
    page.locator("#jp-main-statusbar >> text=/Python 3.*Idle/").wait_for(timeout=120 * SECONDS)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.locator(".jp-CodeCell").last.locator(".jp-InputPrompt", has_text=re.compile(r"\[\d+\]")).wait_for(
        timeout=timeout, state="attached"
    )


def follows(picture, act) -> None:
    """Whether a picture becomes another one in answer to an act."""
    before = picture.inner_html()
    act()
    for _ in range(100):
        if picture.inner_html() != before:
            return
        time.sleep(0.1)
    raise AssertionError("the picture stayed as it was")


def test_01_pictures_follow_what_is_dragged_and_typed(lab, page, tmp_path):
    address, folder = lab
    notebook = with_parameters(folder, "01_attention_masks", results_dir=str(tmp_path), examples=2)
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    run_all(page, address, notebook, timeout=300 * SECONDS)
    assert page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.error']").count() == 0

    explorers = page.locator(".jp-OutputArea-output .widget-vbox")
    explorers.first.scroll_into_view_if_needed()
    assert explorers.count() == 2
    for index, sliders in ((0, ["step"]), (1, ["step", "layer", "head"])):
        explorer = explorers.nth(index)
        explorer.scroll_into_view_if_needed()
        picture = explorer.locator(".widget-html:has(svg) .widget-html-content")
        for name in sliders:
            handle = explorer.locator(f".widget-slider:has-text('{name}') .noUi-handle").first

            follows(picture, partial(handle.press, "ArrowRight"))
        explorer.get_by_label("query").fill("what is molten rock called")
        follows(picture, partial(explorer.get_by_label("query").press, "Enter"))
        assert "called" in picture.inner_text()
        follows(picture, partial(explorer.get_by_label("mask").select_option, "causal"))
    assert (tmp_path / "figures" / "mixed_mask.png").is_file()
    assert {url for url in requests if not re.match(rf"{address}|ws://127|data:|blob:", url)} == set()
