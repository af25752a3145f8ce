"""Anybody's runs under the analyses: TREC runs and judgments of other tools, with the interface of `Results`."""

import os
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import pandas as pd

from gdmtl_lib.data.collection import Collection, load_collection
from gdmtl_lib.data.files import as_path, kind_of
from gdmtl_lib.data.passage_file import PassageFile
from gdmtl_lib.data.readers import read_pairs, texts_frame
from gdmtl_lib.data.splits import Split
from gdmtl_lib.data.trec import as_run, read_qrels, require_columns, validate_qrels
from gdmtl_lib.evaluation.measures import PAPER_MEASURES, evaluate, parse_measures
from gdmtl_lib.systems import LABELS, unknown_name
from .notebook import results_folder
from .results import Results

SPLIT = "runs"  # the one split there is
_LARGE = 1 << 28  # bytes; a file of passages beyond that is looked up where it lies


def open_runs(
    runs: Mapping[str, str | os.PathLike | pd.DataFrame] | Sequence[str | os.PathLike], qrels: str | os.PathLike | pd.DataFrame,
    queries: str | os.PathLike | pd.DataFrame | None = None, passages: str | os.PathLike | None = None,
    categories: str | os.PathLike | None = None, relevance_level: int = 1, measures: Sequence[str] = PAPER_MEASURES,
    folder: str | os.PathLike | None = None,
) -> "Runs":  # fmt: skip
    """Open runs that any tool has written, to compare them: no training, no collection folder.

        opened = gdmtl.open_runs({"mine": "a.run", "theirs": "b.run.gz"}, qrels="qrels.txt", queries="queries.tsv")
        gdmtl.compare(opened.values_by_system(), baseline="theirs")

    Args:
        runs: TREC files, or frames `query_id, doc_id, score`, by the names they are shown under; or a list of files,
            which are shown under their own names.
        qrels: a file of TREC judgments, a frame, or `irds:<id>`, whose queries and categories then come with them.
        queries: a file `query_id<TAB>text`, or a frame `query_id, text` (and `category`). Without it, ids are shown.
        passages: a file `doc_id<TAB>text`, or whatever `load_collection` takes. Without it, ids are shown.
        categories: a file `query_id<TAB>category`.
        relevance_level, measures: as of `evaluate`; the paper's measures come beside those that are asked for.
        folder: where tables and figures go; `papermill_runs/runs` when None.

    Raises FileNotFoundError for a missing file; ValueError for a malformed one, with its line, or frame, an unknown
    measure and a relevance_level above all grades.
    """
    return Runs(runs, qrels, queries, passages, categories, relevance_level, measures, folder)


class Runs(Results):
    """What `open_runs` returns: `Results` with the split `runs`, the names given for systems, and no seeds. `collection`
    holds queries, judgments and texts; `lacks`, in sentences, what was not given and what is shown in its place."""

    def __init__(self, runs, qrels, queries, passages, categories, relevance_level, measures, folder):
        is_several = isinstance(runs, Mapping | list | tuple)
        if not is_several or not runs:
            named = 'files by name, such as {"mine": "a.run", "theirs": "b.run"}, or a list of files'
            raise ValueError(f"runs: expected {named}, found {'none' if is_several else kind_of(runs)}")
        if not isinstance(runs, Mapping):
            if any(isinstance(run, pd.DataFrame) for run in runs):
                raise ValueError('runs: a list has files alone, and frames need names: give {"mine": frame, ...}')
            paths = [as_path(path, "runs") for path in runs]
            if again := next((path for path in paths if paths.count(path) > 1), None):
                raise ValueError(f"expected each run once, found {again} twice")
            names = [path.name.removesuffix(".gz").rpartition(".")[0] or path.name for path in paths]
            runs = dict(zip(names if len(set(names)) == len(names) else map(str, runs), runs))
        for shown, names in pd.Series([*map(str, runs)]).groupby([LABELS[str(name)] for name in runs]):
            if len(names) > 1:
                raise ValueError(f"runs: {' and '.join(names)} would both be shown as {shown}: give one another name")
        self.folder, self.lacks = as_path(results_folder(SPLIT) if folder is None else folder, "folder"), []
        self.output = self.folder
        if self.folder.is_file():
            raise ValueError(f"{self.folder} is a file: give a folder for tables and figures")
        self.folder.mkdir(parents=True, exist_ok=True)
        split = self._split(qrels, queries, categories)
        self.collection = Collection(SPLIT, self._texts(passages), {SPLIT: split})
        asked = parse_measures(measures, relevance_level) if measures else {}
        papers = parse_measures(PAPER_MEASURES, relevance_level).items()
        self._measured = relevance_level, [*asked, *(name for name, known in papers if known not in asked.values())]
        qrels = self.collection.qrels(SPLIT)
        if relevance_level > (highest := qrels["relevance"].max()):
            raise ValueError(f"relevance_level: expected a grade of the judgments, at most {highest}, found {relevance_level}")
        self._runs = {str(name): as_run(run) for name, run in runs.items()}
        judged = set(qrels["query_id"])
        missing = {name: len(judged.difference(run["query_id"])) for name, run in self._runs.items()}
        self._gaps = {name: f"{name} lacks {count:,} of {len(judged):,} judged queries: they count as 0."
                      for name, count in missing.items() if 0 < count < len(judged)}  # fmt: skip
        self._said: set[str] = set()
        self._evaluate = cache(self._evaluate)

    def __repr__(self) -> str:
        return f"<runs {', '.join(self._runs)} on {self.collection.qrels(SPLIT)['query_id'].nunique():,} judged queries>"

    def name(self, system: str) -> str:
        if system in self._runs:
            return system
        raise ValueError(unknown_name("run", system, self._runs, "there are"))

    def pair(
        self, baseline: str | None, system: str | None = None, systems: Sequence[str] | None = None
    ) -> tuple[str, str]:
        return self._pair(baseline, system, map(self.name, systems or self._runs))

    def systems(self, split: str = SPLIT) -> list[str]:
        return list(self._runs) if split == SPLIT else []

    def seeds(self, system: str, split: str | None = None) -> list[int]:
        return []

    def common_seeds(self, *systems: str, split: str | None = None) -> list[int | None]:
        return [None]

    def run(self, system: str, split: str = SPLIT, seed: int | None = None) -> pd.DataFrame:
        return self._runs[self.name(system)]

    def values(self, system: str, split: str = SPLIT, seed: int | None = None) -> pd.DataFrame:
        return self._evaluate(self.name(system))

    def values_by_system(self, split: str = SPLIT, systems: Sequence[str] | None = None) -> dict[str, pd.DataFrame]:
        return super().values_by_system(split, systems)

    def gaps(self) -> list[str]:
        """A sentence for every run that lacks judged queries: a file cut short looks like a bad system."""
        self._said |= set(self._gaps)
        return list(self._gaps.values())

    def _evaluate(self, name: str) -> pd.DataFrame:
        if name in self._gaps and name not in self._said:
            self._said.add(name)
            warnings.warn(self._gaps[name], stacklevel=5)
        level, measures = self._measured
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "the run has no list for")  # the same without the name
            return evaluate(self._runs[name], self.collection.qrels(SPLIT), measures, level)

    def _found(self, system: str, file: str, seed: int | None = None) -> list[Path]:
        self.name(system)  # it is there, or unknown
        return []

    def _split(self, qrels, queries, categories) -> Split:
        """Queries and judgments; what is not given is written into `lacks`."""
        if isinstance(qrels, str) and qrels.startswith("irds:"):
            whole = load_collection(qrels)
            name = "all" if "all" in whole.splits else whole.splits[0]
            qrels, queries = whole.qrels(name), whole.queries(name) if queries is None else queries
        elif isinstance(qrels, pd.DataFrame):
            validate_qrels(qrels)
        else:
            qrels = read_qrels(as_path(qrels, "qrels"))
        if queries is None:
            ids = qrels["query_id"].unique()
            queries = pd.DataFrame({"query_id": ids, "text": ids})
            self.lacks.append("No queries were given (queries=): their ids are shown in place of their texts.")
        elif not isinstance(queries, pd.DataFrame):
            queries = texts_frame(read_pairs(as_path(queries, "queries"), "query_id", "text"))
        require_columns("queries", queries, ("query_id", "text"))
        if (again := queries["query_id"].duplicated()).any():
            raise ValueError(f"queries: query {queries['query_id'][again].iloc[0]!r} stands a second time; keep one of the two")
        if missing := set(qrels["query_id"]).difference(queries["query_id"]):
            raise ValueError(f"queries: expected every judged query, but {min(missing)!r} is not there ({len(missing)} missing)")
        if categories is not None:
            category_of = read_pairs(as_path(categories, "categories"), "query_id", "category")
            queries = queries.assign(category=queries["query_id"].map(category_of))
        if "category" not in queries:
            self.lacks.append("No categories were given (categories=): views by category cannot be drawn.")
        return Split(queries, qrels)

    def _texts(self, passages) -> Mapping[str, str]:
        if passages is None:
            self.lacks.append("No passages were given (passages=): their ids are shown in place of their texts.")
            return _Ids()
        path = as_path(passages, "passages")
        if not path.is_file():
            return load_collection(str(passages))._passages
        large = path.stat().st_size > _LARGE and path.suffix != ".gz"
        return PassageFile(path) if large else read_pairs(path, "doc_id", "text")


class _Ids(dict):
    """Ids in place of texts."""

    def __missing__(self, doc_id: str) -> str:
        return doc_id


def open_results(
    collection: str, split: str, results_dir: str | None = None, runs: Mapping[str, str] | None = None, **given
) -> tuple[Results, Collection, str]:
    """What an analysis notebook looks at, results, collection and the split's name: of a config where runs is None, or
    of runs of one's own, with what is given for `open_runs`; of those it says what they lack."""
    if runs is None:
        return Results(results_dir or collection), load_collection(collection), split
    if given.get("qrels") is None:
        raise ValueError("qrels: expected a file of judgments or irds:<id> beside runs, found none")
    opened = open_runs(runs, folder=results_dir, **given)
    lacks = [lack for lack in opened.lacks if "categories" in given or "categories=" not in lack]
    print("\n".join([repr(opened), *lacks, *opened.gaps()]))
    return opened, opened.collection, SPLIT
