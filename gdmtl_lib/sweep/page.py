"""The page of a config: every figure and table in its results folder, and links to the executed notebooks."""

import json
import os
import re
from pathlib import Path
from urllib.parse import quote

import jinja2
import pandas as pd

from gdmtl_lib.data.files import write_lines
from gdmtl_lib.systems import FIRST_STAGE, LABELS

# In which order names are shown that begin so; the rest follows by the alphabet.
ORDER = (
    "effectiveness", "differences", "seeds", "score_distributions", "win_tie_loss", "query_deltas", "query_extremes",
    "rank_shifts", "categories", "training_size", "loss_weighting", "transfer", "shared_information_needs",
    "architectures", "intervals", "cost", "attention_masks", "mixed_mask", "expansion", "mlm_ablation", "attention",
    "collection", "candidate",
)  # fmt: skip
ROWS_SHOWN = 15


def write_page(folder: str | os.PathLike) -> Path:
    """Write `index.html` into a config's results folder, of what lies there now. Returns its path."""
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    notebooks = [
        *sorted((folder / "notebooks").glob("*.ipynb")), *_homes(folder, config, "*.ipynb"),
        *sorted((folder / "studies").glob("*/*/*/seed*/*.ipynb")),
    ]  # fmt: skip
    template = jinja2.Environment(autoescape=True).from_string(Path(__file__).with_name("page.html").read_text("utf-8"))
    text = template.render(
        config=config,
        facts=_facts(config),
        tables=[_table(folder, path) for path in _drawn(folder, "tables", "csv")],
        drawn=[_part(folder, path, ".pdf") for path in _drawn(folder, "figures", "png")],
        trainings=[_part(folder, path, ".pdf") for path in _homes(folder, config, "*.png")],
        notebooks=[{"url": _url(folder, path), "name": path.relative_to(folder)} for path in notebooks],
    )
    page = folder / "index.html"
    write_lines(page, [text + "\n"])
    return page


def _facts(config: dict) -> dict[str, object]:
    facts = {
        "collection": config["collection"],
        "trained on": config["train_split"] + (f", in {config['folds']} rotations by session" if config.get("folds") else ""),
        "measured on": ", ".join(f"{split} (relevant from grade {level})" for split, level in config["splits"].items()),
        "systems": ", ".join(LABELS[system] for system in [FIRST_STAGE, *config["systems"]]),
        "seeds": ", ".join(map(str, config["seeds"])),
        "candidates a query": config["depth"],
    }
    if first_stage := config.get("first_stage"):
        facts["BM25"] = ", ".join(f"{name} {value}" for name, value in first_stage.items())
    return facts


def _table(folder: Path, path: Path) -> dict:
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    rows = [[_shortened(value) for value in row] for row in table.head(ROWS_SHOWN).itertuples(index=False)]
    more = f"{len(table) - ROWS_SHOWN:,}" if len(table) > ROWS_SHOWN else ""
    return _part(folder, path, ".tex") | {"columns": list(table.columns), "rows": rows, "more": more}


def _shortened(value: str) -> str:
    """A number with three decimals where it has more."""
    if not re.fullmatch(r"-?\d+\.\d{4,}(e[+-]?\d+)?", value):
        return value
    number = float(value)
    return f"{number:.3f}" if abs(number) >= 0.0005 else f"{number:.1e}"


def _homes(folder: Path, config: dict, pattern: str) -> list[Path]:
    """Files of the config's trainings, system by system; of folds, rotation by rotation."""
    return [
        path
        for system in config["systems"]
        for seed in config["seeds"]
        for place in ("", "folds/*/")
        for path in sorted(folder.glob(f"{place}{system}/seed{seed}/{pattern}"))
    ]


def _drawn(folder: Path, part: str, kind: str) -> list[Path]:
    """The figures or tables of a config, and after them those of the rotations whose models were looked into."""

    def place(path: Path):
        return next((i for i, start in enumerate(ORDER) if path.name.startswith(start)), len(ORDER)), path.name

    return [path for at in ("", "folds/*/") for path in sorted(folder.glob(f"{at}{part}/*.{kind}"), key=place)]


def _part(folder: Path, path: Path, other: str) -> dict:
    """What the page says of a figure or table: its title, its link and those to its forms, `other` among them."""
    name, *split = path.stem.split(".")
    title = name.replace("_", " ").capitalize() + "".join(f": {part}" for part in split)  # effectiveness.dev: Effectiveness: dev
    *_, system, seed, _ = ("", *path.relative_to(folder).parts)
    if system in LABELS:
        title = f"{LABELS[system]}, {seed.replace('seed', 'seed ')}"
    if rotation := re.match(r"folds/(\d+)/", path.relative_to(folder).as_posix()):
        title += f", rotation {rotation[1]}"
    forms = [form for form in (path, path.with_suffix(other)) if form.exists()]
    links = [{"url": _url(folder, form), "name": form.suffix[1:].upper()} for form in forms]
    return {"title": title, "url": _url(folder, path), "links": links}


def _url(folder: Path, path: Path) -> str:
    return quote(str(path.relative_to(folder)))
