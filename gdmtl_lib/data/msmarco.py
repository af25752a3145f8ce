"""MS MARCO's passage ranking files as they are distributed, and TREC's topics and judgments over its passages.

`collection.tsv` stays on disk; a split's files are read when they are first needed.
"""

import hashlib
import re
import warnings
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path

import pandas as pd

from . import answers
from .cast import RESOLVED, ms_marco_part, sessions_of
from .files import file_hash, read_lines, refuse_header
from .passage_file import PassageFile
from .readers import line_with, read_pairs, texts_frame
from .splits import Split
from .trec import read_qrels, read_run, run_of_lines

PASSAGES = "collection.tsv"

# Files whose published names do not say what they are: kind and split.
PUBLISHED = {
    "msmarco-test2019-queries.tsv": ("queries", "dl-2019"),
    "2019qrels-pass.txt": ("qrels", "dl-2019"),
    "msmarco-passagetest2019-top1000.tsv": ("top1000", "dl-2019"),
    "msmarco-test2020-queries.tsv": ("queries", "dl-2020"),
    "2020qrels-pass.txt": ("qrels", "dl-2020"),
    RESOLVED: ("queries", "cast-2019"),
    "2019qrels.txt": ("qrels", "cast-2019"),
}
_NAME = re.compile(
    r"(?!.*\.tar$)(queries|topics|qrels|answers|categories|sessions|candidates|top1000)\.(.+?)(?:\.(?:tsv|txt|trec))?"
)


def read_msmarco(folder: Path) -> tuple[PassageFile, dict[str, Split], Callable[[], str]]:
    """Open a folder with MS MARCO's `collection.tsv` and, for a split, its queries and what there is of the rest.

    Files keep their published names: `queries.<split>.tsv`, `qrels.<split>.tsv`, `top1000.<split>`; those of TREC DL
    2019 and 2020 (splits `dl-2019`, `dl-2020`) and of CAsT 2019 (`cast-2019`: the MS MARCO part, by the resolved
    queries); `topics.<split>.txt` and `qrels.<split>.txt`, as Anserini has them. `answers.<split>.tsv`,
    `categories.<split>.tsv`, `sessions.<split>.tsv` and `candidates.<split>.trec` are read as in any collection
    folder; without the first two, `train_v2.1.json.gz` and `dev_v2.1.json.gz` give both (see `answers`). `.gz` is accepted for all but the collection. A split's name has `-` for `.`: `dev-small` is
    `queries.dev.small.tsv`.

    A split with judgments has the queries that were judged: of TREC DL 2019's 200, 43. Judgments of queries that the
    queries' file lacks are left out, and a warning says how many; a passage that is judged and not there is refused.
    A query may stand in several splits, as published (all of `dev-small` are in `dev`).

    Returns:
        The passages, which are looked up on disk, the splits, each read when first used, and the function that hashes
        what they hold.

    Raises:
        FileNotFoundError: the folder lacks the collection or queries.
        ValueError: a file stands twice, or has no queries beside it. Later, when it is read: a file is malformed or
            names a passage that is not there; the message names file and line.
    """
    if not (folder / PASSAGES).is_file():
        raise FileNotFoundError(
            f"{folder} holds no {PASSAGES}, which has to be unpacked: passages are looked up in the file itself"
        )
    files: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        name = path.name.removesuffix(".gz")
        match = _NAME.fullmatch(name)
        if name not in PUBLISHED and match is None:
            continue
        kind, split = PUBLISHED[name] if name in PUBLISHED else (match[1], match[2].replace(".", "-"))
        kind = "queries" if kind == "topics" else kind
        if kind in (parts := files.setdefault(split, {})):
            raise ValueError(
                f"{folder} holds {parts[kind].name} and {path.name}, both {kind} of {split!r}: keep one of them"
            )
        parts[kind] = path
    names = [split for split, parts in files.items() if "queries" in parts]
    if not names:
        raise FileNotFoundError(f"{folder} holds no queries.<split>.tsv, for example queries.dev.small.tsv")
    top1000 = {split: parts["top1000"] for split, parts in files.items() if "top1000" in parts}
    for split, parts in files.items():
        if split not in names and set(parts) != {"top1000"}:
            path = next(path for kind, path in parts.items() if kind != "top1000")
            raise ValueError(
                f"{path} has no queries of {split!r} beside it: add them, or rename the file to one of the splits "
                f"{', '.join(names)}"
            )
    passages = PassageFile(folder / PASSAGES)
    splits = {}
    for split in names:
        # top1000.dev holds the queries of dev.small alone.
        longest = max((name for name in top1000 if f"{split}-".startswith(f"{name}-")), key=len, default=None)
        own = {kind: path for kind, path in files[split].items() if kind != "top1000"}
        part = answers.part_of_split(split)
        if part and (path := folder / answers.FILES[part]).is_file():
            own = {"answers": path, "categories": path} | own
        advice = {"answers": answers.how_to_get(part, folder)} if part else {}
        splits[split] = MsMarcoSplit(passages, own, top1000.get(longest), advice)
    return passages, splits, partial(_fingerprint, passages, splits)


def _fingerprint(passages: PassageFile, splits: Mapping[str, "MsMarcoSplit"]) -> str:
    """SHA-256 of all texts' files, passages, queries and answers."""
    digest = hashlib.sha256(passages.fingerprint.encode())
    for name, split in splits.items():
        for kind in ("queries", "answers"):
            if path := split.files.get(kind):
                digest.update(f"{kind} {name}".encode())
                digest.update(bytes.fromhex(file_hash(path)))
    return digest.hexdigest()


class MsMarcoSplit(Split):
    """One split of MS MARCO's files, each read when it is first asked for."""

    def __init__(
        self, passages: PassageFile, files: Mapping[str, Path], top1000: Path | None, advice: Mapping[str, str]
    ):
        """files: by kind. top1000: the file of candidates that holds the split's queries, others' too."""
        super().__init__(
            self._read_queries, self._read_qrels, self._read_answers, self._read_candidates, advice=advice
        )
        self._passages, self.files, self._top1000 = passages, files, top1000

    def _read_queries(self) -> pd.DataFrame:
        texts = self._texts
        if self._judgments is not None:
            judged = set(self._judgments["query_id"])
            texts = {query_id: text for query_id, text in texts.items() if query_id in judged}
        frame = texts_frame(texts)
        for kind, column in (("categories", "category"), ("sessions", "session")):
            if path := self.files.get(kind):
                if path.name in answers.FILES.values():
                    labels = {query_id: label for query_id, (label, _) in answers.read_answers(path).items()}
                else:
                    labels = read_pairs(path, "query_id", column)
                if missing := [query_id for query_id in texts if query_id not in labels]:
                    raise ValueError(
                        f"{path} has no line for query id {missing[0]!r} ({len(missing)} missing): "
                        "every query needs one"
                    )
                frame[column] = [labels[query_id] for query_id in texts]
        if "session" not in frame and (sessions := sessions_of(texts)):
            frame["session"] = sessions
        return frame

    def _read_qrels(self) -> pd.DataFrame | None:
        if self._judgments is None:
            return None
        has_text = self._judgments["query_id"].isin(self._texts)
        without = self._judgments.loc[~has_text, "query_id"].unique()
        if len(without):
            warnings.warn(
                f"{self.files['qrels']} judges {len(without)} queries that {self.files['queries'].name} lacks, for "
                f"example {without[0]!r}: their judgments are left out",
                stacklevel=4,
            )
        return self._judgments[has_text].reset_index(drop=True)

    def _read_answers(self) -> pd.DataFrame | None:
        if "answers" not in self.files:
            return None
        path = self.files["answers"]
        if path.name in answers.FILES.values():
            found = {query_id: text for query_id, (_, text) in answers.read_answers(path).items() if text}
        else:
            found = read_pairs(path, "query_id", "text")
        return texts_frame({query_id: text for query_id, text in found.items() if query_id in self._texts})

    def _read_candidates(self) -> pd.DataFrame | None:
        wanted = set(self.queries["query_id"])
        if path := self.files.get("candidates"):
            run = read_run(path)
            run = run[run["query_id"].isin(wanted)].reset_index(drop=True)
        elif path := self._top1000:
            run = read_top1000(path, wanted)
        else:
            return None
        self._refuse_unknown(path, run["doc_id"], 2 if "candidates" in self.files else 1)
        return run

    @cached_property
    def _texts(self) -> dict[str, str]:
        return read_pairs(self.files["queries"], "query_id", "text")

    @cached_property
    def _judgments(self) -> pd.DataFrame | None:
        path = self.files.get("qrels")
        if path is None:
            return None
        qrels = read_qrels(path)
        try:
            judgments = ms_marco_part(qrels)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        if not judgments["query_id"].isin(self._texts).any():
            raise ValueError(
                f"{path} judges none of the queries in {self.files['queries'].name}, but for example "
                f"{qrels['query_id'].iloc[0]!r}: are these two of the same split?"
            )
        self._refuse_unknown(path, judgments["doc_id"], 2)
        return judgments

    def _refuse_unknown(self, path: Path, doc_ids: pd.Series, column: int) -> None:
        if (unknown := self._passages.first_unknown(doc_ids)) is not None:
            published = unknown
            try:
                line = line_with(path, column, published)
            except StopIteration:
                published = f"MARCO_{unknown}"
                line = line_with(path, column, published)
            raise ValueError(
                f"{path}, line {line}: doc_id {published!r} is not in {PASSAGES}: add it there, or remove the line"
            )


def read_top1000(path: Path, query_ids: set[str]) -> pd.DataFrame:
    """Read a top-1000 file, `query_id, doc_id, query, passage` a line separated by tabs, as candidates.

    The files carry no score. A passage's score is minus its place in the query's list, so the lists keep the file's
    order, which need not be BM25's: measure a first stage with `bm25_candidates`.

    query_ids: the queries to keep.

    Returns:
        Columns query_id, doc_id, score, rank, in canonical order.

    Raises:
        ValueError: a line has not four fields, a passage stands twice in a list, or none of the queries has a line.
    """
    found, doc_ids, scores, lines = [], [], [], []
    places: dict[str, int] = {}
    same = {query_id: query_id for query_id in query_ids}  # one string a query, not one a line
    for number, line in read_lines(path):
        fields = line.split("\t")
        if len(fields) != 4:
            raise ValueError(
                f"{path}, line {number}: expected 4 fields separated by tabs (query_id, doc_id, query, passage), "
                f"found {len(fields)}"
            )
        if number == 1:
            refuse_header(path, fields)
        if query_id := same.get(fields[0]):
            places[query_id] = places.get(query_id, 0) + 1
            found.append(query_id)
            doc_ids.append(fields[1])
            scores.append(-places[query_id])
            lines.append(number)
    if not found:
        raise ValueError(f"{path} has no line for any of the split's {len(query_ids)} queries: is it another split's?")
    run = pd.DataFrame({"query_id": found, "doc_id": doc_ids, "score": pd.array(scores, dtype="float32")})
    return run_of_lines(path, run, lines)
