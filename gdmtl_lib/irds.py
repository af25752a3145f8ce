"""Data sets of ir_datasets: passages looked up on disk, splits read when they are first used."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from gdmtl_lib.formats import Split, qrels_frame, texts_frame


def open_irds(dataset_id: str) -> tuple["IrdsPassages", "IrdsSplits"]:
    """Open a data set of ir_datasets, which announces and verifies what it has to download.

    A split is named after what follows the passages' own id, with `-` for `/` (names of files hold it): of
    `msmarco-passage`, `dev-small` is `msmarco-passage/dev/small`. Given `msmarco-passage/dev/small` itself,
    `dev-small` is the only split. Queries of the passages' own id are the split `all`.

    Returns:
        The passages, which are looked up on disk, and the splits, which are read when first used.

    Raises:
        ValueError: ir_datasets does not know the id, or it has no passages or no queries.
    """
    import ir_datasets

    known = ir_datasets.registry
    if dataset_id not in known:
        raise ValueError(
            f"ir_datasets knows no {dataset_id!r}: its ids are listed at https://ir-datasets.com"
        )
    if not known[dataset_id].has_docs():
        raise ValueError(f"{dataset_id!r} of ir_datasets has no passages")
    parent = ir_datasets.docs_parent_id(dataset_id)
    ids = [dataset_id]
    if dataset_id == parent:
        ids += sorted(name for name in known if name.startswith(f"{parent}/"))
    splits = {
        name.removeprefix(parent).strip("/").replace("/", "-") or "all": name
        for name in ids
        if known[name].has_queries()
    }
    if not splits:
        raise ValueError(f"{dataset_id!r} of ir_datasets has no queries")
    return IrdsPassages(parent), IrdsSplits(splits)


class IrdsPassages(Mapping[str, str]):
    """The passages of an ir_datasets data set by doc_id, looked up on disk: never all in memory."""

    def __init__(self, dataset_id: str):
        self.dataset_id = dataset_id

    @cached_property
    def _store(self) -> Any:
        import ir_datasets

        with _downloading(self.dataset_id):
            return ir_datasets.load(self.dataset_id).docs_store()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the data set's id, 64 hexadecimal digits."""
        return hashlib.sha256(f"irds:{self.dataset_id}".encode()).hexdigest()

    def __getitem__(self, doc_id: str) -> str:
        with _downloading(self.dataset_id):
            return self._store.get(doc_id).default_text()

    def items(self) -> Iterator[tuple[str, str]]:
        """Pairs of doc_id and text, in the data set's order."""
        import ir_datasets

        with _downloading(self.dataset_id):
            for document in ir_datasets.load(self.dataset_id).docs_iter():
                yield document.doc_id, document.default_text()

    def __iter__(self) -> Iterator[str]:
        return (doc_id for doc_id, _ in self.items())

    def __len__(self) -> int:
        return sum(1 for _ in self)


class IrdsSplits(Mapping[str, Split]):
    """The splits of an ir_datasets data set, each read when first used."""

    def __init__(self, dataset_ids: Mapping[str, str]):
        self._dataset_ids = dataset_ids
        self._read: dict[str, Split] = {}

    def __getitem__(self, name: str) -> Split:
        import ir_datasets

        dataset_id = self._dataset_ids[name]
        if name not in self._read:
            dataset = ir_datasets.load(dataset_id)
            with _downloading(dataset_id):
                queries = texts_frame(
                    {query.query_id: query.default_text() for query in dataset.queries_iter()}
                )
                qrels = None
                if dataset.has_qrels():
                    qrels = qrels_frame(
                        (row.query_id, row.doc_id, row.relevance) for row in dataset.qrels_iter()
                    )
            self._read[name] = Split(queries, qrels)
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._dataset_ids)

    def __len__(self) -> int:
        return len(self._dataset_ids)


@contextmanager
def _downloading(dataset_id: str) -> Iterator[None]:
    # ir_datasets raises RuntimeError when all of a file's sources failed; requests' errors are OSErrors.
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"ir_datasets cannot read {dataset_id!r}, which is not on this machine or incomplete ({error}): "
            "fetch it where there is a network, and copy its folder ~/.ir_datasets here"
        ) from error
