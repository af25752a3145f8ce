"""Readers: a collection folder, WikiQA's, SQuAD's and question generation's own files. Each gives passages and splits.

Files are read as by `read_lines`. Whatever is wrong in one is refused with its name and line, before anything is
computed from it; a file or a folder that is not there with FileNotFoundError.
"""

import json
import random
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from .files import lines_below_header, read_lines, read_rows, split_line
from .splits import Split
from .trec import read_qrels, read_run, without_repetitions

_FILES = re.compile(
    r"(passages)()\.tsv|(queries|qrels|answers|categories|sessions)\.([^.]+)\.tsv|(candidates)\.([^.]+)\.trec"
)
_FORMS = {kind: f"{kind}.<split>.tsv" for kind in ("queries", "qrels", "answers", "categories", "sessions")}
_FORMS |= dict.fromkeys(("candidates", "top1000"), "candidates.<split>.trec") | {"passages": "passages.tsv"}
SHARES = {"train": 0.8, "dev": 0.1, "test": 0.1}  # of SQuAD's articles
LABELS = {"categories": "category", "sessions": "session"}  # the column of queries that a file gives


def read_folder(folder: Path) -> tuple[dict[str, str], dict[str, Split]]:
    """Read a folder with `passages.tsv` and, for a split, `queries.<split>.tsv`, and where they are there
    `qrels.<split>.tsv`, `answers.<split>.tsv`, `categories.<split>.tsv`, `sessions.<split>.tsv` (both with a line for
    every query) and `candidates.<split>.trec`.

    Returns the texts by doc_id, and the splits by name. Raises ValueError also for an id that is not there; what begins
    as one of these files and is called otherwise is left out with a warning.
    """
    files = split_files(folder, _FILES)
    for path in sorted(folder.iterdir()):  # but for what re-ranking leaves beside a run
        form, is_known = _FORMS.get(path.name.partition(".")[0]), _FILES.fullmatch(path.name.removesuffix(".gz"))
        if form and not is_known and path.suffix not in (".yml", ".partial", ".processes"):
            warnings.warn(f"{path} is not read: expected {form} (or .gz, and no dot in a split's name): rename it", stacklevel=4)
    if (path := files.pop("", {}).get("passages")) is None:
        raise FileNotFoundError(f"{folder} holds no passages.tsv (or passages.tsv.gz)")
    files = dict(sorted(files.items(), key=lambda item: item[1].get("queries", folder)))
    require_queries(folder, files, "queries.dev.tsv")
    passages = read_pairs(path, "doc_id", "text")
    splits: dict[str, Split] = {}
    home: dict[str, Path] = {}
    for name, paths in files.items():
        texts = read_pairs(paths["queries"], "query_id", "text")
        if again := next((query_id for query_id in texts if query_id in home), None):
            where = f"{paths['queries']}, line {line_with(paths['queries'], 0, again)[0]}"
            raise ValueError(
                f"{where}: query id {again!r} is in {home[again].name} too: a query id belongs to one split"
            )
        home |= dict.fromkeys(texts, paths["queries"])
        splits[name] = _read_split(paths, texts, passages)
    return passages, splits


def _read_split(paths: Mapping[str, Path], texts: Mapping[str, str], passages: Mapping[str, str]) -> Split:
    """texts: of the split's queries. Every file's ids are those of queries and passages."""

    def check(path: Path, query_ids: Iterable[str]) -> None:
        if unknown := next((query_id for query_id in query_ids if query_id not in texts), None):
            refuse_unknown(path, 0, "query id", paths["queries"].name, unknown)

    def judged(kind: str, read: Callable[[Path], pd.DataFrame]) -> pd.DataFrame | None:
        if kind not in paths:
            return None
        frame = read(paths[kind])
        check(paths[kind], frame["query_id"].unique())
        if unknown := next((doc_id for doc_id in frame["doc_id"].unique() if doc_id not in passages), None):
            refuse_unknown(paths[kind], 2, "doc_id", "passages.tsv", unknown)
        return frame

    values = {}
    for kind, column in {**LABELS, "answers": "text"}.items():
        if kind in paths:
            values[kind] = read_pairs(paths[kind], "query_id", column)
            check(paths[kind], values[kind])
    answers = texts_frame(values.pop("answers")) if "answers" in values else None
    queries = texts_frame(texts).assign(
        **{LABELS[kind]: labels_of(texts, labels, paths[kind]) for kind, labels in values.items()}
    )
    return Split(queries, judged("qrels", read_qrels), answers, judged("candidates", read_run))


def read_wikiqa(folder: Path) -> tuple[dict[str, str], dict[str, Split]]:
    """Read WikiQA as it is distributed, `WikiQA-<split>.tsv` with a header line (Yang, Yih, Meek 2015). A split
    searches all sentences of its own file; its queries are the questions with at least one correct sentence.

    Returns the sentences by SentenceID, and the splits by name.
    """
    columns = ["QuestionID", "Question", "DocumentID", "DocumentTitle", "SentenceID", "Sentence", "Label"]
    passages: dict[str, str] = {}
    splits: dict[str, Split] = {}
    home: dict[str, str] = {}
    files = split_files(folder, re.compile(r"(WikiQA)-(\w+)\.tsv"), "WikiQA-<split>.tsv, for example WikiQA-dev.tsv.gz")
    for name, path in ((name, paths["WikiQA"]) for name, paths in files.items()):
        questions: dict[str, str] = {}
        judgments: list[tuple[str, str, int]] = []
        lines = read_lines(path)
        if next(lines)[1].split("\t") != columns:
            raise ValueError(f"{path}, line 1: expected the header {' '.join(columns)}, separated by tabs")
        for number, line in lines:
            where = f"{path}, line {number}"
            query_id, question, _, _, doc_id, sentence, label = split_line(path, number, line, ", ".join(columns))
            if label not in ("0", "1"):
                raise ValueError(f"{where}: expected the Label 0 or 1, found {label!r}")
            for known, key, text in ((questions, query_id, question), (passages, doc_id, sentence)):
                _check_entry(where, "id", key, text)
                if known.setdefault(key, text) != text:
                    raise ValueError(f"{where}: {key!r} has another text than where it stood before")
            if home.setdefault(query_id, name) != name:
                raise ValueError(f"{where}: query id {query_id!r} is in WikiQA-{home[query_id]} too")
            judgments.append((query_id, doc_id, int(label)))
        qrels = without_repetitions(qrels_frame(judgments), str(path), first=2)
        answered = qrels.loc[qrels["relevance"] == 1, "query_id"]
        if answered.empty:
            raise ValueError(f"{path}: no question has a correct sentence (Label 1), so the split has no queries")
        whole = Split(texts_frame(questions), qrels, doc_ids=tuple(qrels["doc_id"].unique()))
        splits[name] = whole.of_queries(answered)
    return passages, splits


def read_squad(path: Path, seed: int = 0, shares: Mapping[str, float] = SHARES) -> tuple[dict[str, str], dict[str, Split]]:
    """Read a SQuAD file, 1.1 or 2.0: paragraphs are passages, questions queries, the first answer the answer.

    Whole articles are dealt to the splits by the seed; every split searches all paragraphs. Questions without an answer
    (2.0) are left out, white space is normalised. shares: for each split its share of the articles; they add up to 1.

    Returns the paragraphs by `A<article>-P<paragraph>`, counted from 1, and the splits by name. Raises ValueError also
    for shares that do not add up or leave a split without a question.
    """
    if not all(share > 0 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-9:
        raise ValueError(f"expected positive shares of the articles that add up to 1, found {dict(shares)}")
    text = "\n".join(line for _, line in read_lines(path))
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:  # of a number with thousands of digits no JSONDecodeError
        raise ValueError(f"{path} is not JSON: {error}") from None
    articles = _member(content, "data", list, f"{path}:")

    def entry(container: Any, key: str, where: str, kind: str, entry_id: str) -> str:
        text = " ".join(_member(container, key, str, where).split())
        _check_entry(where, kind, entry_id, text)
        return text

    passages: dict[str, str] = {}
    rows: list[tuple[int, str, str, str, str]] = []
    seen: set[str] = set()
    for a, article in enumerate(articles):
        where = f"{path}: data[{a}]"
        for p, paragraph in enumerate(_member(article, "paragraphs", list, where)):
            spot = f"{where}.paragraphs[{p}]"
            doc_id = f"A{a + 1}-P{p + 1}"
            passages[doc_id] = entry(paragraph, "context", spot, "id", doc_id)
            for q, item in enumerate(_member(paragraph, "qas", list, spot)):
                place = f"{spot}.qas[{q}]"
                query_id = _member(item, "id", str, place)
                text = entry(item, "question", place, "question id", query_id)
                if query_id in seen:
                    raise ValueError(f"{place}: question id {query_id!r} stood before: ids must be unique")
                seen.add(query_id)
                if answers := _member(item, "answers", list, place):
                    answer = entry(answers[0], "text", f"{place}.answers[0]", "question id", query_id)
                    rows.append((a, query_id, doc_id, text, answer))

    questions = pd.DataFrame(rows, columns=["article", "query_id", "doc_id", "text", "answer"])
    order = random.Random(seed).sample(range(len(articles)), len(articles))
    splits: dict[str, Split] = {}
    start, share_so_far = 0, 0.0
    for name, share in shares.items():
        share_so_far += share
        end = round(share_so_far * len(articles))
        part = questions[questions["article"].isin(order[start:end])].reset_index(drop=True)
        if part.empty:
            raise ValueError(
                f"{path}: {len(articles)} articles leave no question for the split {name!r} (share {share}): "
                "raise its share or leave it out"
            )
        answers = part[["query_id", "answer"]].rename(columns={"answer": "text"})
        splits[name] = Split(part[["query_id", "text"]], part[["query_id", "doc_id"]].assign(relevance=1), answers)
        start = end
    return passages, splits


def read_sentences(folder: Path) -> tuple[dict[str, str], dict[str, Split]]:
    """Read the files of question generation (Du, Shao, Cardie 2017): line i of `tgt-<split>.txt` asks about line i of
    `src-<split>.txt`. A split searches the sentences of its own file.

    Returns the sentences by `<split>-S<line>`, the line each first stands on, and the splits by name; query ids are
    `<split>-Q<line>`.
    """
    passages: dict[str, str] = {}
    splits: dict[str, Split] = {}
    form = "src-<split>.txt and tgt-<split>.txt, for example src-dev.txt"
    for name, paths in split_files(folder, re.compile(r"(src|tgt)-(\w+)\.txt"), form).items():
        if missing := {"src", "tgt"} - set(paths):
            [present] = paths.values()
            raise FileNotFoundError(f"{present} has no {missing.pop()}-{name}.txt beside it")
        sentences, questions = list(read_lines(paths["src"])), list(read_lines(paths["tgt"]))
        if len(sentences) != len(questions):
            raise ValueError(
                f"{paths['tgt']} has {len(questions)} lines and {paths['src']} has {len(sentences)}: "
                "line i of one belongs to line i of the other"
            )
        home: dict[str, str] = {}  # doc_id by sentence
        texts: dict[str, str] = {}
        for (number, sentence), (_, question) in zip(sentences, questions):
            doc_id, query_id = f"{name}-S{number}", f"{name}-Q{number}"
            _check_entry(f"{paths['src']}, line {number}", "id", doc_id, sentence)
            _check_entry(f"{paths['tgt']}, line {number}", "id", query_id, question)
            home.setdefault(sentence, doc_id)
            texts[query_id] = question
        passages |= {doc_id: sentence for sentence, doc_id in home.items()}
        qrels = qrels_frame((query_id, home[text], 1) for query_id, (_, text) in zip(texts, sentences))
        splits[name] = Split(texts_frame(texts), qrels, doc_ids=tuple(home.values()))
    return passages, splits


def split_files(
    folder: Path, pattern: re.Pattern, form: str = "", published: Mapping[str, tuple[str, str]] | None = None
) -> dict[str, dict[str, Path]]:
    """A folder's files by split and kind: those whose names, but for `.gz`, are `published` ones or match a pattern
    with two groups, kind and split. form: says which are expected, where there has to be one."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        name = path.name.removesuffix(".gz")
        match = pattern.fullmatch(name)
        if match is None and name not in (published or {}):
            continue
        groups = (published or {}).get(name) or [group for group in match.groups() if group is not None]
        kind, split = groups[0].replace("topics", "queries"), groups[1].replace(".", "-")
        if kind in (paths := found.setdefault(split, {})):
            what = f", {kind} of {split!r}" if split else ""
            raise ValueError(f"{folder} holds both {paths[kind].name} and {path.name}{what}: keep one of them")
        paths[kind] = path
    if form and not found:
        raise FileNotFoundError(f"{folder} holds no {form}")
    return found


def require_queries(folder: Path, files: Mapping[str, Mapping[str, Path]], example: str) -> None:
    """Refuse splits without queries."""
    names = [split for split, paths in files.items() if "queries" in paths]
    if not names:
        raise FileNotFoundError(f"{folder} holds no queries.<split>.tsv, for example {example}")
    for split, paths in files.items():
        if split not in names:
            raise ValueError(
                f"{next(iter(paths.values()))} has no queries.{split}.tsv beside it: add it, or rename the file to one "
                f"of the splits {', '.join(names)}"
            )


def read_pairs(path: Path, key: str, value: str) -> dict[str, str]:
    """Read lines of an id and a value, separated by a tab."""
    pairs: dict[str, str] = {}
    for number, (found, text) in read_rows(path, f"{key}, {value}"):
        _check_entry(f"{path}, line {number}", key, found, text)
        if found in pairs:
            raise ValueError(f"{path}, line {number}: {key} {found!r} stood before: ids must be unique")
        pairs[found] = text
    return pairs


def labels_of(
    query_ids: Iterable[str], labels: Mapping[str, str], path: Path, remedy: str = "every query needs one"
) -> list[str]:
    """A label for every query, in the queries' order. path: the file that they are from."""
    query_ids = list(query_ids)
    if missing := [query_id for query_id in query_ids if query_id not in labels]:
        raise ValueError(f"{path} has no line for query id {missing[0]!r} ({len(missing)} missing): {remedy}")
    return [labels[query_id] for query_id in query_ids]


def refuse_unknown(path: Path, column: int, kind: str, home: str, *names: str) -> None:
    """Refuse an id of a file that is not in the file that it should be in. names: how it may be written."""
    line, found = line_with(path, column, *names)
    raise ValueError(f"{path}, line {line}: {kind} {found!r} is not in {home}: add it there, or remove the line")


def line_with(path: Path, column: int, *names: str) -> tuple[int, str]:
    """The first line that has one of these ids in a column, and the id."""
    rows = ((number, fields[min(column, len(fields) - 2)])  # MS MARCO's form of a run has the passage in its second
            for number, fields in ((number, line.split()) for number, line in lines_below_header(path)))  # fmt: skip
    return next((number, found) for number, found in rows if found in names)


def check_id(where: str, kind: str, key: str) -> None:
    """Refuse an id that is empty or holds white space."""
    if key.split() != [key]:
        raise ValueError(f"{where}: {kind} {key!r} is empty or holds white space, which TREC files cannot carry")


def _check_entry(where: str, kind: str, key: str, text: str) -> None:
    check_id(where, kind, key)
    if not text.strip():
        raise ValueError(f"{where}: the text of {key!r} is empty")
    if re.search("[\0\ud800-\udfff]", key + text):  # JSON's escapes can bring them in
        raise ValueError(f"{where}: the text of {key!r} holds a NUL or half of a surrogate pair: remove it")


def _member(container: Any, key: str, kind: type, where: str) -> Any:
    value = container.get(key) if isinstance(container, dict) else None
    if not isinstance(value, kind):
        raise ValueError(f"{where} has no {key!r}, as SQuAD files do ({kind.__name__})")
    return value


def texts_frame(texts: Mapping[str, str]) -> pd.DataFrame:
    return pd.DataFrame({"query_id": list(texts), "text": list(texts.values())}, dtype=str)


def qrels_frame(rows: Iterable[tuple[str, str, int]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["query_id", "doc_id", "relevance"])
    return frame.astype({"query_id": str, "doc_id": str, "relevance": int})
