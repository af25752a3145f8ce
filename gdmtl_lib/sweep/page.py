"""The page of a config: every figure and table in its results folder, and links to the executed notebooks."""

import html
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from gdmtl_lib.data.trec import write_lines
from gdmtl_lib.systems import FIRST_STAGE, LABELS

# In which order names are shown that begin so; the rest follows by the alphabet.
ORDER = (
    "effectiveness", "differences", "seeds", "score_distributions", "win_tie_loss", "query_deltas", "query_extremes",
    "rank_shifts", "categories", "training_size", "loss_weighting", "transfer", "shared_information_needs",
    "architectures", "intervals", "cost", "attention_masks", "mixed_mask", "expansion", "mlm_ablation", "attention",
    "collection", "candidate",
)  # fmt: skip
ROWS_SHOWN = 15

_STYLE = """
body { max-width: 68rem; margin: 3rem auto; padding: 0 1.5rem; color: #222; background: #fff;
       font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.9rem; margin-bottom: .2rem; }
h2 { margin: 3rem 0 1rem; padding-bottom: .3rem; border-bottom: 1px solid #ddd; font-size: 1.35rem; }
h3 { margin: 2rem 0 .5rem; font-size: 1.05rem; }
a { color: #0b5394; text-decoration: none; }
a:hover { text-decoration: underline; }
small { color: #666; font-weight: normal; margin-left: .6rem; }
figure { margin: 1.5rem 0; }
img { max-width: 100%; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .9rem .3rem 0; text-align: left; white-space: nowrap; }
thead th { border-bottom: 2px solid #222; }
tbody tr { border-bottom: 1px solid #eee; }
td.long { white-space: normal; min-width: 16rem; }
ul { columns: 2; padding-left: 1.2rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1.2rem; }
dt { color: #666; } dd { margin: 0; }
"""


def write_page(folder: str | os.PathLike) -> Path:
    """Write `index.html` into a config's results folder, of what lies there now. Returns its path."""
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    parts = [
        _facts(config),
        _section("Tables", (_table(folder, path) for path in _drawn(folder, "tables", "csv"))),
        _section("Figures", (_figure(folder, path) for path in _drawn(folder, "figures", "png"))),
        _section("Training", (_figure(folder, path) for path in _trainings(folder, config))),
        _notebooks(folder, config),
    ]
    title = f"gdmtl: {html.escape(config['name'])}"
    text = (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{title}</title>\n<style>{_STYLE}</style>\n'
        f"<h1>{title}</h1>\n<p>Generalizing Discriminative Retrieval Models using Generative Tasks: "
        f"every figure and table of this config.</p>\n" + "\n".join(part for part in parts if part) + "\n</html>\n"
    )
    page = folder / "index.html"
    write_lines(page, [text])
    return page


def _facts(config: dict) -> str:
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
    rows = (f"<dt>{name}</dt><dd>{html.escape(str(value))}</dd>" for name, value in facts.items())
    return f"<dl>{''.join(rows)}</dl>"


def _section(title: str, parts: Iterable[str]) -> str:
    body = "\n".join(parts)
    return f"<h2>{title}</h2>\n{body}" if body else ""


def _table(folder: Path, path: Path) -> str:
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    head = "".join(f"<th>{html.escape(column)}</th>" for column in table.columns)
    body = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.head(ROWS_SHOWN).itertuples(index=False))
    more = f"<p>and {len(table) - ROWS_SHOWN:,} more rows</p>" if len(table) > ROWS_SHOWN else ""
    return (
        f"<h3>{_title(path, folder)}{_links(folder, path, path.with_suffix('.tex'))}</h3>\n"
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>{more}'
    )


def _cell(value: str) -> str:
    if re.fullmatch(r"-?\d+\.\d{4,}(e[+-]?\d+)?", value):
        number = float(value)
        value = f"{number:.3f}" if abs(number) >= 0.0005 else f"{number:.1e}"
    kind = ' class="long"' if len(value) > 60 else ""
    return f"<td{kind}>{html.escape(value)}</td>"


def _figure(folder: Path, path: Path) -> str:
    return (
        f"<figure><h3>{_title(path, folder)}{_links(folder, path, path.with_suffix('.pdf'))}</h3>"
        # Twice the screen's resolution: shown at half their size in pixels, and sharp.
        f'<img srcset="{_link(folder, path)} 2x" alt="{_title(path, folder)}" loading="lazy"></figure>'
    )


def _notebooks(folder: Path, config: dict) -> str:
    paths = [
        *sorted((folder / "notebooks").glob("*.ipynb")), *_homes(folder, config, "*.ipynb"),
        *sorted((folder / "studies").glob("*/*/*/seed*/*.ipynb")),
    ]  # fmt: skip
    items = "\n".join(
        f'<li><a href="{_link(folder, path)}">{html.escape(str(path.relative_to(folder)))}</a></li>' for path in paths
    )
    return f"<h2>Executed notebooks</h2>\n<ul>\n{items}\n</ul>" if items else ""


def _trainings(folder: Path, config: dict) -> list[Path]:
    return _homes(folder, config, "*.png")


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


def _title(path: Path, folder: Path) -> str:
    """What a file is called on the page: `effectiveness.dev` becomes `Effectiveness: dev`."""
    name, *split = path.stem.split(".")
    title = name.replace("_", " ").capitalize() + "".join(f": {part}" for part in split)
    *_, system, seed, _ = ("", *path.relative_to(folder).parts)
    if system in LABELS:
        title = f"{LABELS[system]}, {seed.replace('seed', 'seed ')}"
    if rotation := re.match(r"folds/(\d+)/", path.relative_to(folder).as_posix()):
        title += f", rotation {rotation[1]}"
    return html.escape(title)


def _links(folder: Path, *paths: Path) -> str:
    links = (f'<a href="{_link(folder, path)}">{path.suffix[1:].upper()}</a>' for path in paths if path.exists())
    return f"<small>{' · '.join(links)}</small>"


def _link(folder: Path, path: Path) -> str:
    return quote(str(path.relative_to(folder)))
