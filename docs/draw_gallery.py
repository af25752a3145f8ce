"""Draws the pictures of gallery.md, of what needs no training, and of the README's table: python docs/draw_gallery.py

Given folders of sweeps, it takes those of trained systems from the first one that has them: ... papermill_runs/training_size
papermill_runs/sample papermill_runs/choices_cpu papermill_runs/choices_sentences papermill_runs/denoising
"""

import io
import re
import sys
from pathlib import Path

import pandas as pd
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import gdmtl_lib as gdmtl
from gdmtl_lib.evaluation import paper
from gdmtl_lib.experiments import overview
from gdmtl_lib.experiments.notebook import indexes_folder

HERE = Path(__file__).parent
ROW = r"\| ([^|`]*)\| `(\w+)` to `(\w+)`(.*?) \| (\d) \| [.\d]+ to [.\d]+ \| \**([+-][.\d]+) \(([+-][.\d]+) to ([+-][.\d]+)\)\** \|"
# Where a sweep's folder has them.
TRAINED = {
    name: f"figures/{name}.png"
    for name in (
        "mixed_mask", "effectiveness.dev", "score_distributions.dev", "query_deltas.dev", "rank_shifts.dev", "categories.dev",
        "training_size.dev", "transfer.cast", "query_likelihood.dev", "generated_queries.dev", "attention_moved.dev",
        "loss_weighting.dev", "choices.dev", "choices.test", "cross_attention_after",
    )
} | {"training_curves": "gdmtl/seed0/training_curves.png"}  # fmt: skip
WIDTH, COLOURS = 850, 64  # pixels and shades, at most


def measured() -> pd.DataFrame:
    """The README's table of results as `plots.twins` takes it; what differs from the line's start stands beside it."""
    rows = re.findall(ROW, (HERE.parent / "README.md").read_text(encoding="utf-8"))
    table = pd.DataFrame(rows, columns=["learned", "twin", "system", "start", "seeds", "difference", "low", "high"])
    table = table.astype(dict.fromkeys(("difference", "low", "high"), float))
    learned = table["learned"].str.strip().replace("", None).ffill()  # a row without continues the one above
    table["collection"] = learned + table["start"] + ", " + table["seeds"] + " seeds"
    return table.assign(mark="", by_seed=[[]] * len(table))


def pictures() -> dict:
    collection = gdmtl.load_collection("sample")
    splits = list(collection.splits)
    curves = {
        split: overview.recall_by_depth(
            gdmtl.bm25_candidates(collection, split, depth=100, index_dir=indexes_folder()), collection.qrels(split), 100,
            2 if split == "cast" else 1,  # as configs/sample.yaml has it
        )
        for split in splits
    }
    return {
        "results": gdmtl.plots.twins(
            measured(), reported=paper.twin_gains(), title="What does generating bring the ranking?"
        ),
        "architectures": gdmtl.plots.block_diagrams(["bert", "gdmtl", "gdmtl_s", "gdmtl_c"]),
        "candidate_recall": gdmtl.plots.recall_by_depth(curves, 20),
    }


def save(name: str, image: Image.Image, info: PngInfo | None = None) -> None:
    """A picture, as small as a page of them needs."""
    path = HERE / "gallery" / f"{name}.png"
    image.thumbnail((WIDTH, 2 * WIDTH))
    few = image.convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
    few.save(path, optimize=True, pnginfo=info)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    for name, figure in pictures().items():
        drawn, info = io.BytesIO(), PngInfo()
        figure.savefig(drawn, dpi=90)
        if name == "results":  # a test asks whether the picture is of the table as it is now
            info.add_text("table", measured().to_csv())
        save(name, Image.open(drawn), info)
    for name, path in TRAINED.items():
        for found in [picture for folder in sys.argv[1:] if (picture := Path(folder) / path).exists()][:1]:
            save(name, Image.open(found))
