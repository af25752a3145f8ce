"""MS MARCO's passage ranking files as they are distributed, and TREC's topics and judgments over its passages.

`collection.tsv` stays on disk; a split's files are read when they are first needed.
"""

import hashlib
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, partial
from pathlib import Path

import pandas as pd

from . import answers
from .files import file_hash, read_rows
from .passage_file import PassageFile
from .readers import LABELS, labels_of, read_pairs, refuse_unknown, require_queries, split_files, texts_frame
from .splits import Split
from .trec import read_qrels, read_run, run_of_lines

PASSAGES = "collection.tsv"
# CAsT 2019: a turn's id is `<session>_<turn>`, a judged passage `MARCO_<MS MARCO's id>` or `CAR_<TREC CAR's id>`; the
# paper's tables are of the MS MARCO part (Section 5.1). The organisers' manually resolved queries, of all 50 sessions.
RESOLVED = "evaluation_topics_annotated_resolved_v1.0.tsv"
RESOLVED_URL = f"https://raw.githubusercontent.com/daltonj/treccastweb/master/2019/data/evaluation/{RESOLVED}"
MS_MARCO_PREFIX, CAR_PREFIX = "MARCO_", "CAR_"

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
    queries); `topics.<split>.txt` and `qrels.<split>.txt`, as Anserini has them. All else is read as in any collection
    folder; without answers and categories, `train_v2.1.json.gz` and `dev_v2.1.json.gz` give both (see `answers`). `.gz`
    is accepted for all but the collection. A split's name has `-` for `.`: `dev-small` is `queries.dev.small.tsv`.

    A split with judgments has the queries that were judged: of TREC DL 2019's 200, 43. Judgments of queries that the
    queries' file lacks are left out with a warning; a passage that is judged and not there is refused.

    Returns the passages, which are looked up on disk, the splits, each read when first used, and the function that
    hashes what they hold. Raises FileNotFoundError where the folder lacks the collection or queries, ValueError where a
    file stands twice or has no queries beside it, and, when it is read, where one is malformed.
    """
    if not (folder / PASSAGES).is_file():
        raise FileNotFoundError(
            f"{folder} holds no {PASSAGES}, which has to be unpacked: passages are looked up in the file itself"
        )
    files = split_files(folder, _NAME, published=PUBLISHED)
    top1000 = {split: paths.pop("top1000") for split, paths in files.items() if "top1000" in paths}
    files = {split: paths for split, paths in files.items() if paths}
    require_queries(folder, files, "queries.dev.small.tsv")
    passages = PassageFile(folder / PASSAGES)
    splits = {}
    for split, own in files.items():
        # top1000.dev holds the queries of dev.small alone.
        longest = max((name for name in top1000 if f"{split}-".startswith(f"{name}-")), key=len, default=None)
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
    """One split of MS MARCO's files, each read when it is first asked for. files: by kind. top1000: the file of
    candidates that holds the split's queries, others' too."""

    def __init__(
        self, passages: PassageFile, files: Mapping[str, Path], top1000: Path | None, advice: Mapping[str, str]
    ):
        super().__init__(self._read_queries, self._read_qrels, self._read_answers, self._read_candidates, advice=advice)
        self._passages, self.files, self._top1000 = passages, files, top1000

    def _read_queries(self) -> pd.DataFrame:
        texts = self._texts
        if self._judgments is not None:
            judged = set(self._judgments["query_id"])
            texts = {query_id: text for query_id, text in texts.items() if query_id in judged}
        frame = texts_frame(texts)
        for kind, column in LABELS.items():
            if kind in self.files:
                frame[column] = labels_of(texts, self._values(kind, column), self.files[kind])
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
        found = self._values("answers", "text")
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
        self._check_passages(path, run["doc_id"], 2 if "candidates" in self.files else 1)
        return run

    def _values(self, kind: str, column: str) -> dict[str, str]:
        """What a file, the question answering data's or one of pairs, says of queries."""
        path = self.files[kind]
        if path.name not in answers.FILES.values():
            return read_pairs(path, "query_id", column)
        found = {query_id: values[kind == "answers"] for query_id, values in answers.read_answers(path).items()}
        return {query_id: text for query_id, text in found.items() if text or kind != "answers"}

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
        self._check_passages(path, judgments["doc_id"], 2)
        return judgments

    def _check_passages(self, path: Path, doc_ids: pd.Series, column: int) -> None:
        if (unknown := self._passages.first_unknown(doc_ids)) is not None:
            refuse_unknown(path, column, "doc_id", PASSAGES, unknown, MS_MARCO_PREFIX + unknown)


def read_top1000(path: Path, query_ids: set[str]) -> pd.DataFrame:
    """Read a top-1000 file, `query_id, doc_id, query, passage` a line separated by tabs, as candidates of some queries.
    It carries no score: a passage's is minus its place in the query's list, which need not be BM25's.

    Returns query_id, doc_id, score, rank, in canonical order. Raises ValueError where a line has not four fields, a
    passage stands twice in a list, or none of the queries has a line.
    """
    found, doc_ids, scores, lines = [], [], [], []
    places: dict[str, int] = {}
    same = {query_id: query_id for query_id in query_ids}  # one string a query, not one a line
    for number, (query_id, doc_id, _, _) in read_rows(path, "query_id, doc_id, query, passage"):
        if query_id := same.get(query_id):
            places[query_id] = places.get(query_id, 0) + 1
            found.append(query_id)
            doc_ids.append(doc_id)
            scores.append(-places[query_id])
            lines.append(number)
    if not found:
        raise ValueError(f"{path} has no line for any of the split's {len(query_ids)} queries: is it another split's?")
    run = pd.DataFrame({"query_id": found, "doc_id": doc_ids, "score": pd.array(scores, dtype="float32")})
    return run_of_lines(path, run, lines)


def ms_marco_part(qrels: pd.DataFrame) -> pd.DataFrame:
    """The judgments of MS MARCO's passages, under MS MARCO's own ids; those of TREC CAR's, and turns that have no
    other, are left out. Judgments of one collection, whose ids carry no prefix, are returned as they are. Raises
    ValueError where ids with a prefix and ids without one are mixed.
    """
    marco, car = (qrels["doc_id"].str.startswith(prefix) for prefix in (MS_MARCO_PREFIX, CAR_PREFIX))
    if not (marco | car).any():
        return qrels
    if not (marco | car).all():
        row = qrels[~(marco | car)].iloc[0]
        raise ValueError(
            f"expected every judged passage to be {MS_MARCO_PREFIX}... or {CAR_PREFIX}..., as CAsT has them, "
            f"found {row['doc_id']!r} (query {row['query_id']!r}): keep the two kinds of judgments in two files"
        )
    part = qrels[marco].reset_index(drop=True)
    return part.assign(doc_id=part["doc_id"].str.removeprefix(MS_MARCO_PREFIX))


def sessions_of(query_ids: Iterable[str]) -> list[str] | None:
    """The session of every turn, `31` for `31_4`; None where the ids are not those of turns."""
    matches = [re.fullmatch(r"(\d+)_\d+", query_id) for query_id in query_ids]
    return [match[1] for match in matches] if matches and all(matches) else None
