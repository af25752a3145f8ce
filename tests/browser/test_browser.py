"""JupyterLab in a real browser: 01, 06 and 12 to 14 are run from their first cell to their last, and what they show
follows the controls."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

pytestmark = pytest.mark.browser
PROJECT = Path(__file__).parents[2]
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
            if server.poll() is not None:
                pytest.fail(f"JupyterLab ended before it answered:\n{(folder / 'log').read_text()}")
            try:
                urllib.request.urlopen(f"{address}/api/status?token=test", timeout=5)
                break
            except OSError:
                time.sleep(0.5)
        else:
            log = (folder / "log").read_text()
            pytest.fail(f"waited two minutes for JupyterLab to answer at {address}:\n{log}")
        yield address, folder
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture()
def page(browser):
    page = browser.new_page(viewport={"width": 1500, "height": 1400})
    yield page
    page.close()


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """A timeout inside says what was waited for."""
    from playwright.sync_api import TimeoutError as PlaywrightTimeout

    try:
        yield
    except PlaywrightTimeout as error:
        pytest.fail(f"waited in vain for {what}: {error}")


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
    """Open a notebook and run all of its cells, without an error and without a warning."""
    with waiting(f"JupyterLab to open {notebook}"):
        page.goto(f"{address}/lab/tree/{notebook}?reset&token=test")
        page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=120 * SECONDS)
    with waiting(f"the kernel of {notebook} to be idle"):
        page.locator("#jp-main-statusbar >> text=/Python 3.*Idle/").wait_for(timeout=120 * SECONDS)
    with waiting("the menu's Run All Cells"):
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    errors = page.locator("[data-mime-type='application/vnd.jupyter.error']")
    last = page.locator(".jp-CodeCell").last.locator(".jp-InputPrompt", has_text=re.compile(r"\[\d+\]"))
    with waiting(f"the last cell of {notebook} to have run, or for an error"):
        last.or_(errors).first.wait_for(timeout=timeout, state="attached")
    assert errors.count() == 0, errors.first.inner_text()
    warnings = page.locator("[data-mime-type='application/vnd.jupyter.stderr']")
    assert warnings.count() == 0, warnings.first.inner_text()
    page.locator(".jp-Notebook .jp-Cell").first.evaluate("cell => cell.scrollIntoView({block: 'start'})")
    pictures = page.locator(".jp-Notebook .jp-OutputArea img")  # of 13, whose results are texts, there is none
    injected = page.locator(".jp-CodeCell").nth(1).bounding_box()["height"]  # which nobody has who opens it by hand
    first = pictures.first.bounding_box()["y"] - injected if pictures.count() else 0
    assert first < 650, f"the first picture begins at {first}: not on the first screen of a laptop, 900 pixels high"


def follows(picture, act, what: str) -> None:
    """Wait until a picture becomes another one in answer to an act: its bytes, in the page, are not what they were."""
    before = drawn(picture)
    with waiting(f"the control of {what}"):
        act()
    for _ in range(100):
        if drawn(picture) != before:
            return
        time.sleep(0.1)
    pytest.fail(f"waited ten seconds for another picture after {what}: it stayed as it was")


def drawn(picture) -> str:
    """The bytes of an image as its address holds them, or what is written where there is none, once it shows."""
    with waiting("the picture"):
        picture.wait_for(timeout=20 * SECONDS)
        image = picture.locator("img")
        return picture.inner_html() if image.count() == 0 else image.get_attribute("src")


def test_01_pictures_follow_what_is_dragged_and_typed(lab, page, tmp_path):
    address, folder = lab
    notebook = with_parameters(folder, "01_attention_masks", results_dir=str(tmp_path), examples=2)
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    run_all(page, address, notebook, timeout=300 * SECONDS)

    explorers = page.locator(".jp-OutputArea-output .widget-vbox")
    explorers.first.scroll_into_view_if_needed()
    assert explorers.count() == 2
    for index, sliders in ((0, ["step"]), (1, ["step", "layer", "head"])):
        explorer = explorers.nth(index)
        explorer.scroll_into_view_if_needed()
        picture = explorer.locator(".widget-html-content:has(img)")
        for name in sliders:
            handle = slider(explorer, name)
            follows(picture, partial(handle.press, "ArrowRight"), f"{name} moved")
        explorer.get_by_label("query").fill("what is molten rock called")
        follows(picture, partial(explorer.get_by_label("query").press, "Enter"), "another query")
        assert "“what” attends to" in picture.inner_text()
        explorer.get_by_label("passage").fill("Magma is molten rock below the ground. " * 60)
        follows(picture, partial(explorer.get_by_label("passage").press, "Tab"), "a passage of 256 tokens")
        assert int(re.search(r"attends to (\d+) tokens", explorer.inner_text())[1]) >= 256
        follows(picture, partial(explorer.get_by_label("mask").select_option, "causal"), "another mask")
    assert (tmp_path / "figures" / "mixed_mask.png").is_file()
    assert {url for url in requests if not re.match(rf"{address}|ws://127|data:|blob:", url)} == set()


def test_06_pictures_follow_what_is_clicked_and_typed(lab, page, tmp_path, write_random_results):
    address, folder = lab
    write_random_results(tmp_path, {"bert": (0,), "gdmtl": (0,)}, ["dev"])
    notebook = with_parameters(folder, "06_win_tie_loss", results_dir=str(tmp_path))
    run_all(page, address, notebook, timeout=120 * SECONDS)

    explorer = page.locator(".jp-OutputArea-output .widget-vbox")
    explorer.scroll_into_view_if_needed()
    view = explorer.locator(".widget-html-content:has(img)")
    assert view.locator("img").evaluate("image => image.complete && image.naturalWidth > 300")
    # The text itself: what JupyterLab has scrolled away has no text that is rendered.
    assert "Query 1 of 170, \u201c" in view.text_content()
    follows(view, partial(slider(explorer, "query").press, "ArrowRight"), "query moved")
    assert "Query 2 of 170, \u201c" in view.text_content()
    follows(view, explorer.get_by_role("button", name="next query").click, "a click on next query")
    assert "Query 3 of 170, \u201c" in view.text_content()
    follows(view, partial(slider(explorer, "tolerance").press, "PageUp"), "tolerance moved")
    follows(view, partial(explorer.get_by_label("measure").select_option, "NDCG@10"), "another measure")
    follows(view, partial(explorer.get_by_label("after").select_option, "BERT"), "another pair")
    follows(view, partial(explorer.get_by_label("after").select_option, "GDMTL"), "the pair from before")
    explorer.get_by_label("containing").fill("moon")
    follows(view, partial(explorer.get_by_label("containing").press, "Enter"), "a word typed")
    query = re.search(r"Query \d+ of \d+, \u201c(.*?)\u201d", view.text_content())[1]
    assert "moon" in query.lower()
    assert (tmp_path / "figures" / "query_deltas.dev.png").is_file()


@pytest.fixture
def results(tmp_path, toy_bert_folder, write_random_results) -> Path:
    """Random runs of cast's turns, and beside them checkpoints of toys that have learned nothing."""
    from gdmtl_lib.pretrained import build_model

    write_random_results(tmp_path, {"bm25": (None,), "bert": (0,), "gdmtl": (0,)}, ["cast"])
    for seed, system in enumerate(("bert", "gdmtl")):
        model = build_model(system, checkpoint=toy_bert_folder, seed=seed)
        model.save_pretrained(tmp_path / system / "seed0" / "checkpoint")
    return tmp_path


def run_on_cast(lab, page, results: Path, name: str, **parameters):
    """Run a notebook on the random results; what there is to play with, in order."""
    address, folder = lab
    given = {"results_dir": str(results), "split": "cast", "relevance_level": 2}
    run_all(page, address, with_parameters(folder, name, **given, **parameters), timeout=120 * SECONDS)
    explorers = page.locator(".jp-OutputArea-output .widget-vbox")
    explorers.first.scroll_into_view_if_needed()
    return explorers


def test_12_the_picture_and_its_sentence_follow_the_cascade(lab, page, results):
    [explorer] = run_on_cast(lab, page, results, "12_query_likelihood", cascade_depths=[2, 5], cost_queries=1).all()
    view = explorer.locator(".widget-html-content:has(img)")
    choice = explorer.get_by_label("best k")
    assert choice.locator("option").all_inner_texts() == ["all", "2", "5"]
    assert "cascade" not in view.inner_text()
    follows(view, partial(choice.select_option, "5"), "the best five")
    assert re.search(r"cascade, best 5: MRR@10 0\.\d{3} against the ranking head's", view.inner_text())
    follows(view, partial(choice.select_option, "all"), "all ways")


def test_13_the_passage_follows_what_is_dragged_and_typed(lab, page, results):
    few = {"systems": ["gdmtl"], "passages_read": 12, "most_passages": 1, "max_tokens": 4}
    [explorer] = run_on_cast(lab, page, results, "13_generated_queries", **few).all()
    view = explorer.locator(".widget-html-content").last
    assert "Passage 1 of 12: " in view.inner_text()
    assert all(writer in view.inner_text() for writer in ("real query", "GDMTL"))
    follows(view, partial(slider(explorer, "passage").press, "ArrowRight"), "passage moved")
    assert "Passage 2 of 12: " in view.inner_text()
    word = max(re.findall(r"[a-z]+", view.inner_text().partition("written by")[0]), key=len)
    explorer.get_by_label("containing").fill(word)
    follows(view, partial(explorer.get_by_label("containing").press, "Enter"), "a word typed")
    found = re.search(r"Passage \d+ of (\d+): (.*)", view.inner_text())
    assert int(found[1]) < 12 and word in found[2].lower()


def test_14_heads_and_attributions_follow_the_controls(lab, page, results):
    rows = [(step, "query_generation", layer, 0.1) for step in (0, 40) for layer in ("embeddings", "encoder 1")]
    logged = pd.DataFrame(rows, columns=["step", "task", "layer", "cosine"])
    logged.to_csv(results / "gdmtl" / "seed0" / "gradients.csv", index=False)
    few = {"examples": 3, "heads_shown": 1, "attribution_pairs": 2, "attribution_steps": 8}
    heads, attributions = run_on_cast(lab, page, results, "14_what_changes_inside", **few).all()
    for explorer, names in ((heads, ("pair", "layer", "head")), (attributions, ("pair",))):
        explorer.scroll_into_view_if_needed()
        view = explorer.locator(".widget-html-content:has(img)")
        for name in names:
            handle = slider(explorer, name)
            at_end = handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemax")
            follows(view, partial(handle.press, "ArrowLeft" if at_end else "ArrowRight"), f"{name} moved")


def slider(explorer, name: str):
    """The handle of a slider, which the arrow keys move."""
    return explorer.locator(f".widget-slider:has-text('{name}') .noUi-handle").first
