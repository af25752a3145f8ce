"""The page of a config: every figure and table in its results folder, and links to the executed notebooks."""

import collections
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import jinja2
import numpy as np
import pandas as pd

from gdmtl_lib.data.files import try_lock, write_lines
from gdmtl_lib.evaluation.comparison import twin_of
from gdmtl_lib.evaluation.paper import CAST, EFFECTIVENESS, MS_MARCO
from gdmtl_lib.evaluation.tables import shortened
from gdmtl_lib.systems import FIRST_STAGE, LABELS

from .config import Config
from .costs import in_words
from .jobs import STARTED, Job, read_jobs

# In which order names are shown that begin so; the rest follows by the alphabet.
ORDER = (
    "twins", "effectiveness", "differences", "seeds", "judgment_holes", "score_distributions", "win_tie_loss",
    "query_deltas", "query_extremes", "rank_shifts", "categories", "training_size", "learning_curves", "loss_weighting",
    "choices", "transfer", "architectures", "intervals", "cost", "attention_masks", "mixed_mask", "expansion", "mlm_ablation",
    "attention", "collection", "candidate",
)  # fmt: skip
# Tables whose marks are not against the config's baseline.
MARKED_AGAINST = {
    "twins": "each system's single-task twin", "architectures": "BART_S, or what notebook 11 has as reference", "choices": "the defaults",
    "intervals": "the row's baseline",
}  # fmt: skip
# The tables that a sentence is made of.
CONCLUDED = ("effectiveness", "differences", "twins", "transfer_differences", "training_size")
ROWS_SHOWN = 15
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|")
# Columns of names and ids, which may look like numbers.
NAMES = ("system", "baseline", "twin", "query_id", "doc_id", "category", "test_query_id", "train_query_id")
# What a kind of job is called where they are counted.
NOUNS = {
    "tune": "BM25 tuning", "search": "candidate list", "measure": "BM25 measurement", "denoise": "denoised start",
    "train": "training", "rerank": "re-ranking", "join": "joined run", "analyse": "notebook",
}  # fmt: skip


def write_page(folder: str | os.PathLike) -> Path:
    """Write `index.html` into a config's results folder, of what lies there now, finished or not. Returns its path."""
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    jobs = read_jobs(folder) if (folder / "plan.json").is_file() else []
    notebooks = [
        *sorted((folder / "notebooks").glob("*.ipynb")), *_homes(folder, config, "*.ipynb"),
        *sorted((folder / "studies").glob("*/*/*/seed*/*.ipynb")),
    ]  # fmt: skip
    made = _made(jobs) if jobs else None
    parts, contents = _parts(folder, config, jobs, made), {}
    for part in parts:
        name, _, of = part["title"].partition(": ")
        contents.setdefault(name, []).append((of, part["url"]))
    template = jinja2.Environment(autoescape=True).from_string(Path(__file__).with_name("page.html").read_text("utf-8"))
    text = template.render(
        config=config,
        labels=LABELS,
        progress=progress(folder, jobs) if jobs else None,
        conclusions=list(_conclusions(folder, config, jobs, made)),
        facts=_facts(config),
        parts=parts,
        contents=contents,
        trainings=[_part(folder, path) | {"figure": _url(folder, path)} for path in _homes(folder, config, "*.png")],
        notebooks=[
            {"url": _url(folder, path), "name": path.relative_to(folder).with_suffix(""),
             "page": _url(folder, page) if (page := path.with_suffix(".html")).exists() else None} for path in notebooks
        ],
    )
    write_lines(folder / "index.html", [text + "\n"])
    return folder / "index.html"


def _made(jobs: Sequence[Job]) -> set[str]:
    """The files that the jobs which are done have made, and the tables of what was measured so far, from the results'
    folder on: what else lies there is of an earlier sweep."""
    made = set()
    for job in jobs:
        with suppress(OSError, ValueError):  # not done yet, or begun anew by another process
            made |= job.made().keys() | ({f"tables/effectiveness.{job.measures[0]}.csv"} if job.measures else set())
    return made


def progress(folder: Path, jobs: Sequence[Job]) -> dict:
    """How far a sweep is: `all` and `done`, how many jobs; `running`, their names; `failed`, names and sentences; `left`, in
    words, how long the rest takes at the pace of this call (at first: as it was calculated)."""
    done = {job.name: job.stamp.stat().st_mtime for job in jobs if job.stamp.exists()}
    undone = [job for job in jobs if job.name not in done]
    running = [job.name for job in undone if _is_locked(job)]
    failed = {job.name: job.failure.read_text("utf-8") for job in undone if job.name not in running and job.failure.exists()}
    started = folder / ".jobs" / STARTED
    since, now = (started.stat().st_mtime if started.exists() else 0), time.time()
    worked = sum(job.seconds for job in jobs if done.get(job.name, -1) > since)
    pace = worked / (now - since) if worked > 60 else 1.0
    left = in_words(sum(job.seconds for job in undone) / pace) if undone else ""
    return {"all": len(jobs), "done": len(done), "running": running, "failed": failed, "left": left}


def announced(config: Config, jobs: Sequence[Job]) -> str:
    """What a call is about to do, how long it takes here, and what appears when."""
    undone = [job for job in jobs if not job.stamp.exists()]
    head = f"{config.name}: {len(jobs)} jobs, {len(jobs) - len(undone)} of them done"
    page = f"The page {Path(config.folder) / 'index.html'} says how far it is and shows what there is."
    if not undone:
        return f"{head}. {page}"
    kinds = collections.Counter(job.kind for job in undone)
    does = ", ".join(f"{count} {NOUNS[kind]}{'s' * (count > 1)}" for kind, count in kinds.items())
    does += f"; {in_words(sum(job.seconds for job in undone))} on this machine, alone."
    if idle := sorted(set(config.notebooks) - {job.given.get("notebook") for job in jobs}):
        does += f" Of the config's `notebooks`, {', '.join(idle)} is none that this sweep runs."
    for first in [place for place, job in enumerate(undone, 1) if job.measures][:1]:
        does += f" The first table is there after {in_words(sum(job.seconds for job in undone[:first]))}."
    return f"{head}. To do: {does} {page}"


def _is_locked(job: Job) -> bool:
    """Whether a process is running it; what a killed one has left of its lock locks nothing."""
    lock = job.stamp.with_name(f".{job.name}.lock")
    if not lock.exists():
        return False
    with try_lock(lock) as is_free:
        return not is_free


def _conclusions(folder: Path, config: dict, jobs: Sequence[Job], made: set[str] | None) -> Iterator[str]:
    """One sentence a question of the paper, of the tables that are there and of this sweep."""
    paths = [path for path in sorted((folder / "tables").glob("*.csv")) if path.stem.partition(".")[0] in CONCLUDED]
    paths = [path for path in paths if made is None or f"tables/{path.name}" in made]
    read = {path.stem: table for path in paths if (table := _read(path)) is not None}
    tables = {stem: table.assign(**{name: numbers for name in table if (numbers := _numbers(table[name]))}) for stem, table in read.items()}
    baseline, runs = LABELS[config["baseline"]], config.get("runs", {}).get("runs", {})
    below = {}  # by split, the systems that rank worse than the candidates came: what they gain on each other says little
    for split in config["splits"]:
        table = tables.get(f"effectiveness.{split}", ())
        if len(table) > 1:
            means = table.set_index("system")["MRR@10"].astype(str).str.split().str[0].astype(float)
            below[split] = set(means.index[means < means.get("BM25", 0)])
            best = means.index[means == means.max()]  # of the digits that are shown
            asked = "Which run ranks best?" if runs else f"Which system ranks best on {split}?"
            bm25 = f"; BM25 alone has {means['BM25']:.3f}" if "BM25" in means and "BM25" not in best else ""
            yield f"{asked} {' and '.join(best)}, with an MRR@10 of {means.max():.3f}{bm25}."
    for split in config["splits"]:
        name, twin = ("differences", "baseline") if runs else ("twins", "twin")
        if f"{name}.{split}" in tables:
            rows = tables[f"{name}.{split}"].replace(LABELS)
            rows = rows.assign(baseline=baseline)[rows["measure"] == "MRR@10"] if runs else rows
            pairs = zip(rows["system"], rows[twin])
            both = ["", ", both below BM25,"]
            pairs = [f"{pair[0]} against {pair[1]}{both[below.get(split, set()).issuperset(pair)]}" for pair in pairs]
            if said := _verdicts(rows.assign(system=pairs)):
                asked = f"Which run differs from {baseline}" if runs else f"Does generating help the ranking on {split}"
                yield f"{asked}, in MRR@10? {said}."
    for stem, table in tables.items():
        name, _, split = stem.partition(".")
        if name == "transfer_differences":
            away = table[(table["place"] == "away") & (table["measure"] == "RR@10") & (table["system"] != "BM25")]
            if said := _verdicts(away):
                yield f"Does a gain in MRR@10 over {baseline} stay a gain elsewhere, on {split}? {said}."
        if name == "training_size":
            compared = table.dropna(subset=["difference", "low"])
            names = compared["system"] + " with " + compared["queries"].map("{:,.0f}".format)
            if said := _verdicts(compared.assign(system=names)):
                yield f"Does it help most where training queries are few, against {_baseline_of_sizes(config, jobs)}? {said}."


def _baseline_of_sizes(config: dict, jobs: Sequence[Job]) -> str:
    """The label of the system that the training sizes are compared with, which need not be the config's baseline."""
    given = (job.given["parameters"] for job in jobs if job.name == "09_training_size")
    return LABELS[next(given, config)["baseline"]]


def _verdicts(rows: pd.DataFrame) -> str:
    """What may be said of each system's difference in MRR@10: the mark, which is corrected, says it as in the tables."""
    signs = rows["mark"].astype(object).fillna("")  # a column without any mark is one of numbers
    numbers = zip(rows["system"], *(rows[name].astype(float) for name in ("difference", "low", "high")))
    kinds = {"better": [], "worse": [], "equal": [], "these queries cannot tell": []}
    for sign, (name, mean, low, high) in zip(signs, numbers):
        interval = f" ({low:+.3f} to {high:+.3f})" if low == low else ""  # a single query has none
        kind = "equal" if mean == low == high == 0 else {"▲": "better", "△": "better", "▼": "worse", "▽": "worse"}.get(sign)
        kinds[kind or "these queries cannot tell"].append(name if kind == "equal" else f"{name} {mean:+.3f}{interval}")
    said = "; ".join(f"{words}: {', '.join(of)}" for words, of in kinds.items() if of)
    return said[:1].upper() + said[1:]


def _read(path: Path) -> pd.DataFrame | None:
    """A table, as texts; None while it is being written."""
    try:
        return pd.read_csv(path, dtype=object, keep_default_na=False)
    except (OSError, ValueError):
        return None


def _numbers(column: pd.Series) -> list[float] | None:
    """A column of texts as numbers, NaN where there is none; None where it holds something else, or names."""
    texts = column.tolist()  # as a list: a page has hundreds of short columns, and two are written a job
    if column.name in NAMES or not all(map(_NUMBER.fullmatch, texts)):
        return None
    return [float(text or "nan") for text in texts]


def _facts(config: dict) -> dict[str, object]:
    if runs := config.get("runs"):
        of = {name: path for name, path in runs.items() if isinstance(path, str)}
        return runs["runs"] | of | {"relevant from grade": config["splits"]["runs"]}
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


def _parts(folder: Path, config: dict, jobs: Sequence[Job], made: set[str] | None) -> list[dict]:
    """Figures and tables of a config, those of one name together, the validation split's first, and last those of rotations
    that were looked into. A table stands folded where there is a figure, where it is long, or where texts fill it."""
    splits, parts = list(config["splits"]), {}

    def place(path: Path):
        split = path.stem.partition(".")[2]
        start = next((i for i, start in enumerate(ORDER) if path.name.startswith(start)), len(ORDER))
        of_split = splits.index(split) if split in splits else len(splits)
        return path.relative_to(folder).parts[0] == "folds", start, of_split, path.name

    kinds = [f"{at}{kind}" for at in ("", "folds/*/") for kind in ("figures/*.png", "tables/*.csv")]
    for path in sorted((path for kind in kinds for path in folder.glob(kind)), key=place):
        shown = {"figure": _url(folder, path)} if path.suffix == ".png" else _table(path, config, jobs)
        if shown:
            new = _part(folder, path)
            part = parts.setdefault((path.parent.parent, path.stem), new | {"links": []})
            part |= shown | {"links": part["links"] + new["links"]}
            part["old"] = made is not None and path.relative_to(folder).as_posix() not in made
    for (_, name), part in parts.items():
        texts = any(len(value) > 60 for row in part.get("rows", ()) for value in row)
        part["open"] = name.startswith("effectiveness") or not ("figure" in part or texts or part.get("more"))
    return list(parts.values())


def _table(path: Path, config: dict, jobs: Sequence[Job]) -> dict | None:
    """A table as the page shows it; None while it is being written."""
    if (table := _read(path)) is None:
        return None
    (name, _, split), note, rows_shown = path.stem.partition("."), "", ROWS_SHOWN
    if name == "win_tie_loss" and {"baseline", "system", "win"} <= set(table.columns):
        cells = table["win"] + " / " + table["tie"] + " / " + table["loss"]
        labels = list(dict.fromkeys([*table["baseline"], *table["system"]]))
        grid = table.assign(cell=cells).pivot(index="baseline", columns="system", values="cell").fillna("")
        grid = grid.reindex(index=labels[:-1], columns=labels[1:]).rename_axis(None, axis="columns")
        table = grid.reset_index(allow_duplicates=True)  # a run may be called baseline
        note = "Queries on which the system of the column wins, ties and loses against the one of the row."
    if name == "training_size":
        note = f"Marks are against {_baseline_of_sizes(config, jobs)}."
    if name in MARKED_AGAINST:
        note = f"Marks are against {MARKED_AGAINST[name]}."
    if name == "effectiveness":
        if any(job.name == f"04_rerank_and_evaluate_{split}" and not job.stamp.exists() for job in jobs):
            note = "Interim: systems are still missing, and nothing has been tested. "
        if split != "runs":  # of one's own
            is_cast = "cast" in re.split("[^a-z]+", split)
            learned_there = config["train_split"] == split  # by folds
            tables, where = ((6 if learned_there else 8,), CAST) if is_cast else ((3, 10), MS_MARCO)
            paper = EFFECTIVENESS[EFFECTIVENESS["table"].isin(tables) & (EFFECTIVENESS["measure"] == EFFECTIVENESS["measure"].iloc[0])]
            reported = dict(zip(paper["system"].map(LABELS.get), paper["mean"].map("{:.3f}".format)))
            table["MRR@10 in the paper"] = table["system"].map(lambda name: reported.get(name, ""))
            note += f"The paper's numbers are those of {where}."
    if table.shape[1] > 1 and "system" in table:
        rows_shown = max(rows_shown, 3 * table["system"].nunique())  # no system is cut off
    more = f"{len(table) - rows_shown:,}" if len(table) > rows_shown else ""
    rows = list(zip(*(_written(column)[:rows_shown] for _, column in table.items())))
    return {"columns": list(table.columns), "rows": rows, "more": more, "note": note}


def _written(column: pd.Series) -> list[str]:
    """A column of texts as the page shows it: decimals alike, whole numbers without, of a long text its beginning."""
    texts, numbers = column.tolist(), _numbers(column)
    if not numbers or not any("." in text for text in texts):
        return [shortened(text, 160) for text in texts]
    known = [abs(number) for number in numbers if number == number]
    digits = 0 if all(number % 1 == 0 for number in known) else 1 if max(known) >= 100 else 3
    texts = ["" if number != number else f"{number:z.{digits}f}" for number in numbers]
    small = column.name in ("p", "p_corrected")
    return ["<0.001" if small and 0 <= number < 0.0005 else text for number, text in zip(numbers, texts)]


def _homes(folder: Path, config: dict, pattern: str) -> list[Path]:
    """Files of the config's trainings, system by system; of folds, rotation by rotation."""
    places = [f"{place}{system}/seed{seed}" for system in config["systems"] for seed in config["seeds"] for place in ("", "folds/*/")]
    return [path for place in places for path in sorted(folder.glob(f"{place}/{pattern}"))]


def _part(folder: Path, path: Path) -> dict:
    """What the page says of a figure or table: its title, its link and those to its forms, for print among them."""
    name, *split = path.stem.split(".")
    title = name.replace("_", " ").capitalize() + "".join(f": {part}" for part in split)  # effectiveness.dev: Effectiveness: dev
    *_, system, seed, _ = ("", *path.relative_to(folder).parts)
    if system in LABELS:
        title = f"{LABELS[system]}, {seed.replace('seed', 'seed ')}"
    if rotation := re.match(r"folds/(\d+)/", path.relative_to(folder).as_posix()):
        title += f", rotation {rotation[1]}"
    printed = path.with_suffix({".png": ".pdf", ".csv": ".tex"}[path.suffix])
    forms = [form for form in (path, printed) if form.exists()]
    links = [{"url": _url(folder, form), "name": form.suffix[1:].upper()} for form in forms]
    return {"title": title, "url": _url(folder, path), "links": links}


def _url(folder: Path, path: Path) -> str:
    return quote(str(path.relative_to(folder)))
