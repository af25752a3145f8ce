"""Data sets of ir_datasets: passages looked up on disk, splits read when they are first used."""

import hashlib
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, cached_property, partial
from operator import attrgetter, methodcaller
from pathlib import Path
from typing import Any

import pandas as pd

from . import answers
from .msmarco import RESOLVED, RESOLVED_URL, ms_marco_part, sessions_of
from .readers import labels_of, qrels_frame, read_pairs, texts_frame
from .splits import Split
from .trec import without_repetitions

MS_MARCO, CAST_2019, QNA = "msmarco-passage", "trec-cast/v1/2019", "msmarco-qna"


def open_irds(dataset_id: str) -> tuple["IrdsPassages", dict[str, Split]]:
    """Open a data set of ir_datasets, which announces and verifies what it has to download.

    A split with judgments has the queries that were judged: of `msmarco-passage/train`'s 808,731, 502,939. It is named
    after what follows the passages' own id, with `-` for `/`: `dev-small` is `msmarco-passage/dev/small`, which opened
    by itself has no other split. Queries of the passages' own id are the split `all`.

    Two data sets are more than ir_datasets has of them. The queries of `msmarco-passage` get their answers and
    categories from MS MARCO's question answering data, by id, where that is on this machine. `trec-cast/v1/2019` is its
    MS MARCO part, under MS MARCO's ids, with the sessions; its one split is `cast-2019`. The texts are the resolved queries,
    whose file has to lie in ir_datasets' folder.

    Returns the passages, which are looked up on disk, and the splits, which are read when first used. Raises ValueError
    where ir_datasets does not know the id, or it has no queries, or no passages with a text.
    """
    import ir_datasets

    known = ir_datasets.registry
    if dataset_id not in known:
        raise ValueError(f"ir_datasets knows no {dataset_id!r}: its ids are listed at https://ir-datasets.com")
    if not known[dataset_id].has_docs():
        raise ValueError(f"{dataset_id!r} of ir_datasets has no passages")
    if dataset_id in (CAST_2019, f"{CAST_2019}/judged"):
        return IrdsPassages(MS_MARCO), {"cast-2019": _split(dataset_id)}
    parent = ir_datasets.docs_parent_id(dataset_id)
    ids = [dataset_id]
    if dataset_id == parent:
        ids += sorted(name for name in known if name.startswith(f"{parent}/"))
    splits = {
        name.removeprefix(parent).strip("/").replace("/", "-") or "all": _split(name)
        for name in ids
        if known[name].has_queries()
    }
    if not splits:
        raise ValueError(f"{dataset_id!r} of ir_datasets has no queries")
    return IrdsPassages(parent), splits


class IrdsPassages(Mapping[str, str]):
    """The passages of a data set by doc_id, looked up on disk."""

    def __init__(self, dataset_id: str):
        import ir_datasets

        self.dataset_id = dataset_id
        self._text = _reader(ir_datasets.registry[dataset_id].docs_cls(), f"the passages of {dataset_id!r}")
        self._command = f"lookup {dataset_id} 0"  # makes what passages are looked up in

    @cached_property
    def _store(self) -> Any:
        with _loading(self.dataset_id, self._command) as dataset:
            return dataset.docs_store()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the data set's id, 64 hexadecimal digits."""
        return hashlib.sha256(f"irds:{self.dataset_id}".encode()).hexdigest()

    def __getitem__(self, doc_id: str) -> str:
        with _loading(self.dataset_id, self._command):
            return self._text(self._store.get(doc_id))

    def items(self) -> Iterator[tuple[str, str]]:
        """In the data set's order."""
        with _loading(self.dataset_id, self._command) as dataset:
            for document in dataset.docs_iter():
                yield document.doc_id, self._text(document)

    def __iter__(self) -> Iterator[str]:
        return (doc_id for doc_id, _ in self.items())

    def __len__(self) -> int:
        with _loading(self.dataset_id, self._command) as dataset:
            known = dataset.docs_count()  # None until passages have been looked up
        return sum(1 for _ in self) if known is None else known


def _split(dataset_id: str) -> Split:
    """A split of ir_datasets, whose frames are read when one of them is first asked for."""
    frames = cache(partial(_cast_frames if dataset_id.startswith(CAST_2019) else _frames, dataset_id))
    part = _qna_part(dataset_id)
    advice = {"answers": answers.how_to_get(part, _home() / QNA)} if part else {}

    def known_answers() -> pd.DataFrame | None:  # that there are none is known before the queries are there
        return frames()[2] if part and any(file.is_file() for file in _answer_files(part)) else None

    return Split(lambda: frames()[0], lambda: frames()[1], known_answers, advice=advice)


def _frames(dataset_id: str) -> tuple[pd.DataFrame, pd.DataFrame | None, pd.DataFrame | None]:
    """Queries, judgments, answers."""
    with _loading(dataset_id, *_exports(dataset_id)) as dataset:
        text_of = _reader(dataset.queries_cls(), f"the queries of {dataset_id!r}")
        rows = [(query.query_id, text_of(query)) for query in dataset.queries_iter()]
    texts: dict[str, str] = {}
    for query_id, text in rows:
        if texts.setdefault(query_id, text) != text:
            raise ValueError(
                f"{dataset_id!r} of ir_datasets has query {query_id!r} twice, with the texts {texts[query_id]!r} and "
                f"{text!r}: expected one text an id"
            )
    qrels = _qrels(dataset_id) if dataset.has_qrels() else None
    if qrels is not None:
        judged = set(qrels["query_id"])
        texts = {query_id: text for query_id, text in texts.items() if query_id in judged}
    queries, known = texts_frame(texts), _known_answers(dataset_id)
    kinds = [known[query_id][0] if query_id in known else None for query_id in texts]
    if any(kinds):
        queries = queries.assign(category=kinds)
    found = {query_id: known[query_id][1] for query_id in texts if query_id in known and known[query_id][1]}
    return queries, qrels, texts_frame(found) if found else None


def _reader(kind: type, what: str) -> Callable[[Any], str]:
    """How the text of a data set's queries or passages is read. Raises ValueError, before anything is downloaded, where
    they have none, as pictures and programs."""
    if hasattr(kind, "default_text"):
        return methodcaller("default_text")
    if "text" not in kind._fields:
        raise ValueError(f"{what} of ir_datasets have no text that could be ranked, but {', '.join(kind._fields):.100}")
    return attrgetter("text")


def _exports(dataset_id: str) -> list[str]:
    """The commands of ir_datasets that fetch a data set's queries and, where it has any, its judgments."""
    import ir_datasets

    known = ir_datasets.registry[dataset_id]
    return [f"export {dataset_id} {part}" for part, has in (("queries", True), ("qrels", known.has_qrels())) if has]


def _qrels(dataset_id: str) -> pd.DataFrame:
    with _loading(dataset_id, _exports(dataset_id)[-1]) as dataset:
        qrels = qrels_frame((row.query_id, row.doc_id, row.relevance) for row in dataset.qrels_iter())
    return without_repetitions(qrels, f"the judgments of {dataset_id!r} of ir_datasets")


def _cast_frames(dataset_id: str) -> tuple[pd.DataFrame, pd.DataFrame, None]:
    """The judged turns of CAsT 2019: resolved queries, sessions, and judgments of MS MARCO's passages."""
    path = _home() / "trec-cast" / RESOLVED
    if not path.is_file():
        raise FileNotFoundError(
            f"the resolved queries of {dataset_id!r}, which ir_datasets does not have, are not at {path}: fetch them "
            f"with `curl --create-dirs -o {path} {RESOLVED_URL}`, and the judgments, where they are missing, with "
            f"`ir_datasets {_exports(dataset_id)[-1]}`"
        )
    qrels = ms_marco_part(_qrels(dataset_id))
    judged = set(qrels["query_id"])
    texts = {query_id: text for query_id, text in read_pairs(path, "query_id", "text").items() if query_id in judged}
    labels_of(sorted(judged), texts, path, f"fetch it anew from {RESOLVED_URL}")  # refuses a missing one
    return texts_frame(texts).assign(session=sessions_of(texts)), qrels, None


def _known_answers(dataset_id: str) -> dict[str, tuple[str, str]]:
    """Kinds and answers of queries, where MS MARCO's question answering data is on this machine: `train_v2.1.json.gz`
    or `dev_v2.1.json.gz` in ir_datasets' folder `msmarco-qna` (see `answers`), else what ir_datasets has made of them,
    whose first answer is taken. Nobody who only ranks has to wait for them."""
    part = _qna_part(dataset_id)
    published, made = _answer_files(part) if part else (None, None)
    if part and published.is_file():
        return answers.read_answers(published)
    if part is None or not made.is_file():
        return {}
    with _loading(f"{QNA}/{part}", f"export {QNA}/{part} queries") as dataset:
        return {each.query_id: (each.type, next(iter(each.answers), "").strip()) for each in dataset.queries_iter()}


def _qna_part(dataset_id: str) -> str | None:
    """The part of MS MARCO's question answering data that a data set's queries are from."""
    return next((part for part in ("train", "dev") if f"{dataset_id}/".startswith(f"{MS_MARCO}/{part}/")), None)


def _answer_files(part: str) -> tuple[Path, Path]:
    """Where answers would lie: as they are published, and as ir_datasets makes them."""
    folder = _home() / QNA
    return folder / answers.FILES[part], folder / f"{part}.queries.tsv"


def _home() -> Path:
    import ir_datasets

    return Path(ir_datasets.util.home_path())


@contextmanager
def _loading(dataset_id: str, *commands: str) -> Iterator[Any]:
    """The data set; what ir_datasets cannot get hold of, or read, in a sentence with the commands that fetch it."""
    import ir_datasets

    # ir_datasets raises RuntimeError when all of a file's sources failed; requests' errors are OSErrors.
    try:
        yield ir_datasets.load(dataset_id)
    except ImportError as error:
        raise ValueError(
            f"ir_datasets reads {dataset_id!r} with a package that is not installed ({error}): install it with "
            f"`pip install {(error.name or 'it').partition('.')[0]}`"
        ) from error
    except (OSError, RuntimeError, EOFError, UnicodeDecodeError, IndexError, zlib.error) as error:
        fetch = " and ".join(f"`ir_datasets {command}`" for command in commands)
        raise FileNotFoundError(
            f"ir_datasets cannot read {dataset_id!r}, which is not on this machine or incomplete ({_reason(error)}): "
            f"fetch it where there is a network, with {fetch}, and copy its folder {_home()} here"
        ) from error


def _reason(error: Exception) -> str:
    """What an error says; where all of a file's sources failed, what each said."""
    match error.args:
        case str(), [*sources]:
            return "; ".join(dict.fromkeys(str(said) for _, said in sources))
    return str(error)
