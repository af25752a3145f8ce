"""Draws the pictures of gallery.md, of what needs no training, and of the README's table: python docs/draw_gallery.py

Given the folder of a sweep, it takes those of trained systems from there: ... papermill_runs/sample
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
from gdmtl_lib.inside import attention

HERE = Path(__file__).parent
ROW = r"\| `(\w+)` to `(\w+)`(.*?) \| (\d) \| [.\d]+ to [.\d]+ \| \**([+-][.\d]+) \(([+-][.\d]+) to ([+-][.\d]+)\)\** \|"
TRAINED = (
    "effectiveness.dev", "score_distributions.dev", "win_tie_loss.dev", "query_deltas.dev", "rank_shifts.dev", "categories.dev",
    "attributions.dev.1", "attention_moved.dev",
)  # fmt: skip
WIDTH = 1000  # pixels, at most


def measured() -> pd.DataFrame:
    """The README's table of results as `plots.twins` takes it; what differs from the line's start stands beside it."""
    rows = re.findall(ROW, (HERE.parent / "README.md").read_text(encoding="utf-8"))
    table = pd.DataFrame(rows, columns=["twin", "system", "collection", "seeds", "difference", "low", "high"])
    table = table.astype(dict.fromkeys(("difference", "low", "high"), float))
    where = zip(table["collection"], table["seeds"])
    table["collection"] = [(words.strip(", ") or "from MiniLM") + f", {seeds} seeds" for words, seeds in where]
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
    tokenizer = attention.default_tokenizer()
    texts = "Glacier ice looks blue because it absorbs red light.", "why is glacier ice blue"
    read = {name: attention.ranking_layouts(name, tokenizer, *texts) for name in ("bert", "bart_s", "bart_c")}
    return {
        "results": gdmtl.plots.twins(
            measured(), reported=paper.twin_gains(), title="SQuAD's sentences: what does generating bring the ranking?"
        ),
        "architectures": gdmtl.plots.block_diagrams(["bert", "gdmtl", "gdmtl_s", "gdmtl_c"]),
        "interactions": gdmtl.plots.interactions(read),
        "collection_lengths": gdmtl.plots.text_lengths(overview.text_lengths(collection, splits)),
        "collection_categories": gdmtl.plots.category_shares(
            overview.category_shares(collection, splits), overview.PAPER_CATEGORY_SHARES
        ),
        "candidate_recall": gdmtl.plots.recall_by_depth(curves, 20),
    }


def save(name: str, image: Image.Image, info: PngInfo | None = None) -> None:
    """A picture, as small as a page of them needs."""
    path = HERE / "gallery" / f"{name}.png"
    image.thumbnail((WIDTH, 2 * WIDTH))
    image.convert("RGB").quantize(128, Image.Quantize.MAXCOVERAGE).save(path, optimize=True, pnginfo=info)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    for name, figure in pictures().items():
        drawn, info = io.BytesIO(), PngInfo()
        figure.savefig(drawn, dpi=90)
        if name == "results":  # a test asks whether the picture is of the table as it is now
            info.add_text("table", measured().to_csv())
        save(name, Image.open(drawn), info)
    for name in TRAINED if sys.argv[1:] else ():
        save(name, Image.open(Path(sys.argv[1]) / "figures" / f"{name}.png"))
