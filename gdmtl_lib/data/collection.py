"""Collections: passages, queries, judgments, answers, categories and sessions, from wherever they lie."""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path

import pandas as pd

from gdmtl_lib.settings import check_count

from .files import as_path
from .irds import open_irds
from .msmarco import read_msmarco
from .readers import qrels_frame, read_folder, read_sentences, read_squad, read_wikiqa, texts_frame
from .splits import Split, nested_sample, session_folds, split_name
from .trec import recall

KINDS = {
    "sample": "the embedded collection",
    "<folder>": "a folder with passages.tsv, queries.<split>.tsv, ..., or with MS MARCO's own collection.tsv",
    "irds:<id>": "a data set of ir_datasets",
    "wikiqa:<folder>": "WikiQA as it is distributed",
    "squad:<file>.json": "a file in SQuAD's format",
    "sentences:<folder>": "sentences and the questions they answer, src-<split>.txt and tgt-<split>.txt",
    "folds:<split>:<collection>": "the rotations of a split's sessions, five folds",
}


class Collection:
    """Passages and, for each split, queries with their judgments. Ids are strings; frames are pandas.

    A query id belongs to one split, so that queries, judgments and answers can be looked up by id alone. (The splits of
    MS MARCO, and of other data sets of ir_datasets, are samples of one another: there the first that has the query, and
    the part of it that is asked for, counts, those first that were read. Of splits that give an id to two queries, as years
    of a TREC track do, one is read, or the id is refused.)

    name: how messages call it. passages: text by doc_id. splits: by name. fingerprint: see the method.
    """

    def __init__(
        self, name: str, passages: Mapping[str, str], splits: Mapping[str, Split],
        fingerprint: Callable[[], str] | None = None,
    ):
        self.name, self._passages, self._splits, self._fingerprint = name, passages, splits, fingerprint
        self._query_texts: dict[str, str] = {}  # of the splits that were needed so far
        self._known: dict[str, Split] = {}  # those splits
        self._two_queries: set[str] = set()  # the ids that have two texts in them

    def __repr__(self) -> str:
        return f"<collection {self.name!r} with splits {', '.join(self.splits)}>"

    def __fspath__(self) -> str:
        """Its name, wherever one is taken: a notebook's cell that opened a collection can be run again."""
        return self.name

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits."""
        return tuple(self._splits)

    @property
    def read_splits(self) -> list[str]:
        """The splits whose queries were read: in another process `reading` them first looks ids up as here."""
        return [name for name, split in self._splits.items() if split.is_read]

    def reading(self, splits: Iterable[str]) -> "Collection":
        """This collection, with the queries of these splits read."""
        for split in splits:
            self.queries(split)
        return self

    def sampled(self, sizes: Mapping[str, int]) -> "Collection":
        """The same collection with a fixed sample of so many of some splits' queries. Raises ValueError for an unknown split
        and a sample of none."""
        for split, size in sizes.items():
            check_count(f"queries of {split!r}", size)
        name, before = split_name(self.name)
        if not set(before) <= set(self.splits):  # of what the rotations are made of
            name, before = self.name, {}
        asked = before | {split: min(size, before.get(split, size)) for split, size in sizes.items()}
        samples = {
            split: self._split(split).of_queries(lambda queries, size=size: nested_sample(queries["query_id"], size))
            for split, size in sizes.items()
        }
        name += "?" + "&".join(f"{split}={size}" for split, size in asked.items())
        return Collection(name, self._passages, {**self._splits, **samples}, self._fingerprint)

    def queries(self, split: str) -> pd.DataFrame:
        """Columns query_id, text, and category and session where the collection has them."""
        return self._split(split).queries.copy()

    def qrels(self, split: str) -> pd.DataFrame:
        """Columns query_id, doc_id, relevance (int64). Raises ValueError for a split without judgments."""
        return self._part(split, "qrels")

    def answers(self, split: str) -> pd.DataFrame:
        """Columns query_id, text; a query may lack one. Raises ValueError for a split without answers."""
        return self._part(split, "answers")

    def candidates(self, split: str) -> pd.DataFrame:
        """Columns query_id, doc_id, score, rank. Raises ValueError for a split without candidates."""
        return self._part(split, "candidates")

    def passages(self, split: str | None = None) -> Iterator[tuple[str, str]]:
        """Pairs of doc_id and text: what a split searches, or everything."""
        doc_ids = None if split is None else self._split(split).doc_ids
        if doc_ids is None:
            return iter(self._passages.items())
        return ((doc_id, self._passages[doc_id]) for doc_id in doc_ids)

    def doc_ids(self, split: str | None = None) -> Iterator[str]:
        """The ids of what a split searches, or of all passages."""
        return (doc_id for doc_id, _ in self.passages(split))

    def passage_count(self, split: str | None = None) -> int:
        """How many passages a split searches, or how many there are; none of them is read where that is known."""
        doc_ids = None if split is None else self._split(split).doc_ids
        return len(self._passages if doc_ids is None else doc_ids)

    def fingerprint(self) -> str:
        """SHA-256 of all texts with their ids, passages, queries and answers, whatever their order: what was computed
        from texts may be reused while it stays the same.

        Of ir_datasets it is that of the data set's id: ir_datasets verifies what it downloads, and nine million texts
        are not read for a name. Of MS MARCO's own files it is the files'.
        """
        if self._fingerprint is not None:
            return self._fingerprint()
        if found := getattr(self._passages, "fingerprint", None):
            return found
        texts = [(f"passages {doc_id}", text) for doc_id, text in self.passages()]
        for split in self._splits.values():
            for part in ("queries", "answers"):
                if (frame := getattr(split, part)) is not None:
                    texts += zip(part + " " + frame["query_id"], frame["text"], strict=True)
        return _digest(texts)

    def passages_fingerprint(self, split: str) -> str:
        """SHA-256 of the passages that a split searches, ids and texts, whatever their order."""
        self._split(split)  # refuses an unknown one
        return getattr(self._passages, "fingerprint", None) or _digest(self.passages(split))

    def text(self, doc_ids: Iterable[str]) -> list[str]:
        """The passages' texts, in the order of the ids. Raises ValueError for an unknown id."""
        unknown = doc_ids  # what is no list of ids is none either
        try:
            return [self._passages[unknown := doc_id] for doc_id in doc_ids]
        except (KeyError, TypeError):
            raise ValueError(f"collection {self.name!r} has no passage {unknown!r}") from None

    def query_texts(self, query_ids: Iterable[str]) -> list[str]:
        """The queries' texts, of any split, in the order of the ids. Raises ValueError for an unknown id and for one of two
        queries."""
        asked = set(query_ids := self._query_ids(query_ids))
        for name, split in self._read_first():
            if name in self._known or not split.is_read and asked <= self._query_texts.keys():
                continue
            texts, known = dict(zip(split.queries["query_id"], split.queries["text"], strict=True)), self._query_texts
            self._two_queries |= {query_id for query_id in texts.keys() & known.keys() if texts[query_id] != known[query_id]}
            self._query_texts, self._known[name] = texts | known, split
        self._refuse_queries(asked.difference(self._query_texts))
        if two := self._two_queries & asked:
            rows = ((name, split.queries) for name, split in self._known.items())
            found = (f"{text!r} in its split {name!r}" for name, of in rows for text in of["text"][of["query_id"] == min(two)])
            raise ValueError(
                f"collection {self.name!r} has two queries {min(two)!r}: {', '.join(found)}: open one of the splits alone "
                "(irds:<id>/<split>), or give them ids of their own"
            )
        return [self._query_texts[query_id] for query_id in query_ids]

    def _read_first(self) -> list[tuple[str, Split]]:
        """The splits, those first whose queries were read."""
        return sorted(self._splits.items(), key=lambda item: not item[1].is_read)

    def qrels_of(self, query_ids: Iterable[str]) -> pd.DataFrame:
        """The judgments of these queries, of any split. Raises ValueError for an unknown id."""
        return self._of_queries(query_ids, "qrels", qrels_frame(()))

    def answers_of(self, query_ids: Iterable[str]) -> pd.DataFrame:
        """The answers of those of these queries that have one. Raises ValueError for an unknown id."""
        return self._of_queries(query_ids, "answers", texts_frame({}))

    def by_session(self, split: str, folds: int = 5) -> "Collection":
        """The rotations of a cross-validation over a split's sessions, as a collection (Section 5.2, CAsT) with the
        splits `train0`, `validate0`, `test0`, `train1`, ... Raises ValueError where the split's queries have no
        sessions, and as `session_folds`."""
        whole = self._split(split)
        if "session" not in whole.queries:
            raise ValueError(f"collection {self.name!r} has no sessions for the split {split!r} to make folds of")
        rotations = session_folds(dict(zip(whole.queries["query_id"], whole.queries["session"], strict=True)), folds)
        splits = {
            f"{part}{number}": whole.of_queries(query_ids)
            for number, rotation in enumerate(rotations)
            for part, query_ids in rotation._asdict().items()
        }
        return Collection(rotations_name(self.name, split, folds), self._passages, splits, self.fingerprint)

    def _split(self, split: str) -> Split:
        if split not in self.splits:
            known = ", ".join(self.splits)
            raise ValueError(f"collection {self.name!r} has no split {split!r}: its splits are {known}")
        return self._splits[split]

    def _part(self, split: str, part: str) -> pd.DataFrame:
        frame = getattr(self._split(split), part)
        if frame is None:
            advice = self._split(split).advice.get(part, "")
            raise ValueError(f"collection {self.name!r} has no {part} for the split {split!r}{advice}")
        return frame.copy()

    def _of_queries(self, query_ids: Iterable[str], part: str, nothing: pd.DataFrame) -> pd.DataFrame:
        missing, frames = set(query_ids := self._query_ids(query_ids)), []
        self.query_texts(query_ids)  # refuses unknown ones
        for _, split in self._read_first():
            here = missing.intersection(split.queries["query_id"])
            if here and (frame := getattr(split, part)) is not None:
                frames.append(frame[frame["query_id"].isin(here)])
                missing = missing - here
            if not missing:
                break
        return pd.concat(frames or [nothing], ignore_index=True)

    def _query_ids(self, given: Iterable[str]) -> list[str]:
        query_ids = list(given) if isinstance(given, Iterable) else [given]
        self._refuse_queries([found for found in query_ids if not isinstance(found, str)])
        return query_ids

    def _refuse_queries(self, unknown: set[str] | list[str]) -> None:
        if unknown:
            raise ValueError(
                f"collection {self.name!r} has no query {min(unknown, key=str)!r} ({len(unknown)} unknown) "
                f"in its splits {', '.join(self.splits)}"
            )


def rotations_name(collection: str, split: str, folds: int = 5) -> str:
    """What `load_collection` calls the rotations of a collection's split; five folds need no number."""
    return f"folds{'' if folds == 5 else folds}:{split}:{collection}"


def rotations_of(name: str) -> tuple[str, str, int] | None:
    """The collection, the split and the number of folds in such a name; None for the name of anything else. Raises
    ValueError for one that lacks the split or the collection."""
    match = re.match(r"folds(\d*):", name)
    if match is None:
        return None
    split, _, whole = name[match.end() :].partition(":")
    if not whole:
        raise ValueError(f"expected folds:<split>:<collection>, found {name!r}")
    return whole, split, int(match[1] or 5)


def _digest(texts: Iterable[tuple[str, str]]) -> str:
    digest = hashlib.sha256()
    for key, text in sorted(texts):
        digest.update(f"{key}\t{text}\0".encode())  # ids hold no tab and texts no NUL
    return digest.hexdigest()


def load_collection(name: str | os.PathLike[str] | Collection) -> Collection:
    """Open a collection.

        collection = gdmtl.load_collection("sample")
        collection.queries("dev"), collection.qrels("dev"), collection.splits

    name: `sample`, a folder, `irds:<id>`, `wikiqa:<folder>`, `squad:<file>.json` or another form of `KINDS` (`folds7:` makes
        seven folds, see `Collection.by_session`). Any may end in `?<split>=<n>`, several joined by `&`: of such a split a
        fixed sample of n queries is kept (`irds:msmarco-passage?dev-small=500`). A collection that is open is returned as it is.

    All but `irds:` and MS MARCO's files is read and checked at once. Raises FileNotFoundError where there is no such
    folder or file, or the kind is unknown, ValueError, naming file and line, where a file is malformed.
    """
    if isinstance(name, Collection):
        return name
    is_folder = as_path(name, "collection").is_dir()  # though it may be called `mine?dev=1`
    whole, sizes = (os.fspath(name), {}) if is_folder else split_name(os.fspath(name))
    collection = _load(whole)
    if rotations_of(whole) and not set(sizes) <= set(collection.splits):
        return _load(os.fspath(name))  # the rotations of a sample
    return collection.sampled(sizes) if sizes else collection


def _load(name: str) -> Collection:
    kind, colon, rest = name.partition(":")
    if name == "sample":
        return Collection(name, *read_folder(Path(str(files("gdmtl_lib.data") / "sample"))))
    if rotations := rotations_of(name):
        return load_collection(rotations[0]).by_session(*rotations[1:])
    readers = {
        "irds": lambda path: open_irds(rest),
        "wikiqa": read_wikiqa,
        "squad": read_squad,
        "sentences": read_sentences,
    }
    if colon and kind in readers:
        return Collection(name, *readers[kind](as_path(rest, f"collection {name!r}")))
    folder = as_path(name)
    if not folder.is_dir():
        known = "; ".join(f"{form} ({meaning})" for form, meaning in KINDS.items())
        raise FileNotFoundError(f"no collection {name!r}, and no folder of that name; a collection is one of: {known}")
    is_msmarco = list(folder.glob("collection.*")) and not list(folder.glob("passages.tsv*"))
    return Collection(name, *(read_msmarco if is_msmarco else read_folder)(folder))


def describe(collection: Collection, candidates: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """What is at hand for each split: queries, judged relevant passages (grade 1 and up), candidates (first-stage runs
    by split), and their recall."""
    rows = {}
    for split, run in candidates.items():
        qrels = collection.qrels(split)
        counts = {"queries": len(collection.queries(split)), "relevant": (qrels["relevance"] > 0).sum()}
        rows[split] = counts | {"candidates": len(run), "recall": recall(run, qrels).mean()}
    return pd.DataFrame(rows).T.astype({"queries": int, "relevant": int, "candidates": int}).round(3)
