"""What the paper reports, to stand beside what is measured here: Tables 3 to 8 and 10, Figure 5, Section 6.4.

Numbers are compared on the same collection alone; `paper_collection` says which of the paper's a collection is.
Systems by their names here, measures as ir-measures writes them.
"""

import hashlib
from math import nan

import pandas as pd

from .comparison import twin_of
from .measures import PAPER_MEASURES

MS_MARCO = "MS MARCO dev"
CAST = "CAsT 2019, MS MARCO part"

# A collection is known by its judgments, whatever it is called and wherever it lies: SHA-256 of the judged queries'
# ids, the lowest relevant grade, and how many passages have it.
_JUDGMENTS = {
    ("3fe9da5fea43ed15bd63429e526703a15ecce556fc873f4d03b53cca71681d85", 1, 7437): MS_MARCO,
    ("3f5e8c331a3f389233ee2b37cf60aa01af132132b3584dd7ad56aae8d16d9008", 2, 2983): CAST,
}


def paper_collection(qrels: pd.DataFrame) -> str | None:
    """Which of the paper's collections these judgments are: `MS_MARCO` (6,980 queries), `CAST` (173 turns, judgments of
    MS MARCO's passages alone), or None for any other."""
    query_ids = hashlib.sha256("\n".join(sorted(qrels["query_id"].unique())).encode()).hexdigest()
    for (digest, level, relevant), name in _JUDGMENTS.items():
        if query_ids == digest and int((qrels["relevance"] >= level).sum()) == relevant:
            return name
    return None


def beside(table: pd.DataFrame, paper: pd.DataFrame, qrels: pd.DataFrame, on: list[str]) -> pd.DataFrame:
    """The table with the paper's columns added, `(paper)` after their names, where the paper has the collection of
    these judgments. paper: a table of this module. on: the columns by which rows belong together."""
    if (name := paper_collection(qrels)) is None:
        return table
    same = paper[paper["collection"] == name].drop(columns="collection")
    return table.merge(same.rename(columns=lambda column: column if column in on else f"{column} (paper)"), "left", on)


# Tables 4 and 7: queries on which a system wins, ties (changes by at most a tenth) and loses against an earlier one.
WIN_TIE_LOSS = pd.DataFrame(
    [
        (MS_MARCO, "mono", "bert", 1735, 3775, 1470),
        (MS_MARCO, "mono", "gdmtl", 1755, 3805, 1420),
        (MS_MARCO, "mono", "gdmtl_plus", 1827, 3764, 1389),
        (MS_MARCO, "bert", "gdmtl", 1375, 4333, 1272),
        (MS_MARCO, "bert", "gdmtl_plus", 1445, 4281, 1254),
        (MS_MARCO, "gdmtl", "gdmtl_plus", 1317, 4459, 1204),
        (CAST, "bm25", "bert", 87, 39, 47),
        (CAST, "bm25", "gdmtl", 93, 41, 39),
        (CAST, "bert", "gdmtl", 65, 59, 49),
    ],
    columns=["collection", "baseline", "system", "win", "tie", "loss"],
).assign(measure=lambda table: table["collection"].map({MS_MARCO: "RR@10", CAST: "nDCG@10"}), tolerance=0.1)

# Table 5: RR@10 by query category. The one mark is GDMTL+'s on DESCRIPTION, p < 0.05 against BERT.
CATEGORIES = pd.DataFrame(
    [
        (MS_MARCO, category, system, value)
        for category, values in {
            "DESCRIPTION": (0.369, 0.377, 0.383),
            "NUMERIC": (0.391, 0.395, 0.395),
            "ENTITY": (0.344, 0.361, 0.351),
            "LOCATION": (0.473, 0.489, 0.489),
            "PERSON": (0.443, 0.441, 0.439),
        }.items()
        for system, value in zip(("bert", "gdmtl", "gdmtl_plus"), values, strict=True)
    ],
    columns=["collection", "category", "system", "mean"],
).assign(measure="RR@10")

# Figure 5, as far as its text gives numbers: how many more relevant passages than BERT at rank 1.
MORE_AT_RANK_ONE = pd.DataFrame(
    [(MS_MARCO, "gdmtl", 71), (MS_MARCO, "gdmtl_plus", 74)], columns=["collection", "system", "change"]
)

# Section 6.4: 95% intervals of a difference in RR@10, and p after correction.
INTERVALS = pd.DataFrame(
    [(MS_MARCO, "gdmtl_s", "gdmtl", 0.0038, 0.0171, 0.0205), (MS_MARCO, "gdmtl_s", "gdmtl_c", 0.0029, 0.0141, 0.0260)],
    columns=["collection", "baseline", "system", "low", "high", "p_corrected"],
).assign(measure="RR@10")

# Tables 3, 6, 8 and 10: the six measures, RBP's residuals, and the marks, one a measure: ▲ ▼ for p < 0.01, △ ▽ for
# p < 0.05, against BERT in Tables 3, 6 and 8 and against BART_S in Table 10. Table 8 is of systems trained on MS MARCO,
# and prints an MRR@100 below the MRR@10 for two of them, which cannot be.
EFFECTIVENESS = pd.DataFrame(
    [
        (table, collection, system, measure, mean, residual, mark.strip("-"))
        for table, collection, system, means, residuals, marks in (
            (3, MS_MARCO, "bert", (0.384, 0.393, 0.448, 0.471, 0.177, 0.099), (0.823, 0.901), "------"),
            (3, MS_MARCO, "gdmtl", (0.392, 0.401, 0.454, 0.476, 0.182, 0.101), (0.818, 0.899), "▲▲△△▲△"),
            (3, MS_MARCO, "gdmtl_plus", (0.394, 0.403, 0.458, 0.480, 0.182, 0.101), (0.818, 0.899), "▲▲▲▲▲▲"),
            (3, MS_MARCO, "bm25", (0.244, 0.256, 0.299, 0.324, 0.108, 0.067), (0.892, 0.933), "▼▼▼▼▼▼"),
            (3, MS_MARCO, "mono", (0.372, 0.381, 0.433, 0.455, 0.172, 0.096), (0.828, 0.904), "▼▼▼▼▼▼"),
            (6, CAST, "bert", (0.544, 0.550, 0.405, 0.428, 0.366, 0.317), (0.286, 0.355), "------"),
            (6, CAST, "gdmtl", (0.590, 0.595, 0.431, 0.451, 0.419, 0.341), (0.236, 0.330), "△△△△▲△"),
            (6, CAST, "bm25", (0.474, 0.479, 0.331, 0.346, 0.331, 0.284), (0.259, 0.361), "▽▽▼▼-▽"),
            (8, CAST, "bert", (0.617, 0.617, 0.486, 0.490, 0.470, 0.392), (0.230, 0.318), "------"),
            (8, CAST, "gdmtl", (0.656, 0.651, 0.495, 0.510, 0.483, 0.402), (0.231, 0.307), "------"),
            (8, CAST, "gdmtl_plus", (0.686, 0.683, 0.498, 0.498, 0.514, 0.409), (0.202, 0.301), "△△--△-"),
            (8, CAST, "bm25", (0.474, 0.479, 0.331, 0.346, 0.331, 0.284), (0.259, 0.361), "▼▼▼▼▼▼"),
            (10, MS_MARCO, "bart_s", (0.370, 0.380, 0.436, 0.460, 0.170, 0.097), (0.830, 0.903), "------"),
            (10, MS_MARCO, "gdmtl_s", (0.382, 0.392, 0.445, 0.470, 0.176, 0.099), (0.824, 0.901), "▲▲▲▲▲▲"),
            (10, MS_MARCO, "bart_c", (0.385, 0.394, 0.451, 0.474, 0.178, 0.100), (0.822, 0.900), "▲▲▲▲▲▲"),
            (10, MS_MARCO, "gdmtl_c", (0.390, 0.399, 0.454, 0.478, 0.180, 0.101), (0.820, 0.899), "▲▲▲▲▲▲"),
            (10, MS_MARCO, "bert", (0.384, 0.393, 0.448, 0.471, 0.177, 0.099), (0.823, 0.901), "▲▲▲▲▲▲"),
            (10, MS_MARCO, "gdmtl", (0.392, 0.401, 0.454, 0.476, 0.182, 0.101), (0.818, 0.899), "▲▲▲▲▲▲"),
        )
        for measure, mean, residual, mark in zip(PAPER_MEASURES, means, (nan,) * 4 + residuals, marks, strict=True)
    ],
    columns=["table", "collection", "system", "measure", "mean", "residual", "mark"],
)


def systems_of(table: int) -> list[str]:
    """The systems in one of the tables of `EFFECTIVENESS`, in its order."""
    return list(EFFECTIVENESS.loc[EFFECTIVENESS["table"] == table, "system"].unique())


def effectiveness(qrels: pd.DataFrame, is_transfer: bool = False) -> pd.DataFrame:
    """The paper's means on the collection these judgments are of: `table, collection, system, measure, mean, residual,
    mark`, empty for any other collection. is_transfer: Table 8 instead of Table 6."""
    tables = (8,) if is_transfer else (3, 6, 10)
    chosen = (EFFECTIVENESS["collection"] == paper_collection(qrels)) & EFFECTIVENESS["table"].isin(tables)
    return EFFECTIVENESS[chosen].drop_duplicates(["system", "measure"]).reset_index(drop=True)


def twin_gains(measure: str = "RR@10") -> dict[str, float]:
    """What each multi-task system of Tables 3 and 10 gains over its single-task twin, on MS MARCO."""
    rows = EFFECTIVENESS[EFFECTIVENESS["table"].isin((3, 10)) & (EFFECTIVENESS["measure"] == measure)]
    means = rows.drop_duplicates("system").set_index("system")["mean"]
    return {name: round(means[name] - means[twin], 3) for name in means.index if (twin := twin_of(name)) is not None}
