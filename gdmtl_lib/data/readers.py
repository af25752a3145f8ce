"""Readers: a collection folder, WikiQA's, SQuAD's and question generation's own files. Each gives passages and splits.

Files are UTF-8, a byte-order mark and Windows line ends are accepted, and `.gz` may follow every file's name.
Whatever is wrong in a file is refused with its name and line, before anything is computed from it.
"""

import json
import random
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from .files import read_lines, refuse_header
from .splits import Split
from .trec import read_qrels, read_run, without_repetitions


def read_folder(folder: Path) -> tuple[dict[str, str], dict[str, Split]]:
    """Read a folder with `passages.tsv` and, for a split, `queries.<split>.tsv` and its companions.

    Companions are `qrels.<split>.tsv`, `answers.<split>.tsv`, `categories.<split>.tsv`,
    `sessions.<split>.tsv` and `candidates.<split>.trec`; a categories or sessions file has a line for every
    query. Other files are not read.

    Returns:
        The texts by doc_id, and the splits by name.

    Raises:
        FileNotFoundError: the folder lacks passages or queries.
        ValueError: a file is malformed, or names an id that is not there; the message names file and line.
    """
    files: dict[tuple[str, str], Path] = {}
    pattern = re.compile(
        r"(?:(passages)|(queries|qrels|answers|categories|sessions)\.([^.]+))\.tsv(?:\.gz)?"
        r"|(candidates)\.([^.]+)\.trec(?:\.gz)?"
    )
    for path in sorted(folder.iterdir()):
        if match := pattern.fullmatch(path.name):
            key = (match[1] or match[2] or match[4], match[3] or match[5] or "")
            if key in files:
                raise ValueError(f"{folder} holds both {files[key].name} and {path.name}: keep one of them")
            files[key] = path
    if ("passages", "") not in files:
        raise FileNotFoundError(f"{folder} holds no passages.tsv (or passages.tsv.gz)")
    names = [split for kind, split in files if kind == "queries"]
    if not names:
        raise FileNotFoundError(f"{folder} holds no queries.<split>.tsv, for example queries.dev.tsv")
    for (kind, split), path in files.items():
        if kind != "passages" and split not in names:
            raise ValueError(
                f"{path} has no queries.{split}.tsv beside it: add it, or rename the file to one of the "
                f"splits {', '.join(names)}"
            )

    passages = read_pairs(files["passages", ""], "doc_id", "text")
    splits: dict[str, Split] = {}
    home: dict[str, Path] = {}
    for name in names:
        path = files["queries", name]
        texts = read_pairs(path, "query_id", "text")
        for query_id in texts:
            if query_id in home:
                raise ValueError(
                    f"{path}, line {line_with(path, 0, query_id)}: query id {query_id!r} is in "
                    f"{home[query_id].name} too: a query id belongs to one split"
                )
        home.update(dict.fromkeys(texts, path))
        queries = texts_frame(texts)
        for kind, column in (("categories", "category"), ("sessions", "session")):
            if (kind, name) in files:
                queries[column] = _read_labels(files[kind, name], column, path, texts)
        answers = None
        if ("answers", name) in files:
            values = read_pairs(files["answers", name], "query_id", "text")
            _check_known(files["answers", name], 0, values, texts, "query id", path.name)
            answers = texts_frame(values)
        splits[name] = Split(
            queries,
            _read_judged(files.get(("qrels", name)), read_qrels, passages, texts, path.name),
            answers,
            _read_judged(files.get(("candidates", name)), read_run, passages, texts, path.name),
        )
    return passages, splits


def read_wikiqa(folder: Path) -> tuple[dict[str, str], dict[str, Split]]:
    """Read WikiQA as it is distributed, `WikiQA-<split>.tsv` with a header line (Yang, Yih, Meek 2015).

    A split searches all sentences of its own file, those of unanswerable questions too; its queries are the
    questions with at least one correct sentence. Both labels are judgments.

    Returns:
        The sentences by SentenceID, and the splits by name.

    Raises:
        FileNotFoundError: there is no such folder, or it has no such files.
        ValueError: a file is malformed; the message names file and line.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no WikiQA folder {folder}")
    columns = ["QuestionID", "Question", "DocumentID", "DocumentTitle", "SentenceID", "Sentence", "Label"]
    passages: dict[str, str] = {}
    splits: dict[str, Split] = {}
    home: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        match = re.fullmatch(r"WikiQA-(\w+)\.tsv(?:\.gz)?", path.name)
        if match is None:
            continue
        if match[1] in splits:
            raise ValueError(
                f"{folder} holds WikiQA-{match[1]} twice, as .tsv and as .tsv.gz: keep one of them"
            )
        questions: dict[str, str] = {}
        judgments: list[tuple[str, str, int]] = []
        sentences: dict[str, None] = {}
        lines = read_lines(path)
        if next(lines)[1].split("\t") != columns:
            raise ValueError(f"{path}, line 1: expected the header {' '.join(columns)}, separated by tabs")
        for number, line in lines:
            where = f"{path}, line {number}"
            fields = line.split("\t")
            if len(fields) != 7:
                raise ValueError(f"{where}: expected 7 fields separated by tabs, found {len(fields)}")
            query_id, question, _, _, doc_id, sentence, label = fields
            if label not in ("0", "1"):
                raise ValueError(f"{where}: expected the Label 0 or 1, found {label!r}")
            for known, key, text in ((questions, query_id, question), (passages, doc_id, sentence)):
                _check_entry(where, "id", key, text)
                if known.setdefault(key, text) != text:
                    raise ValueError(f"{where}: {key!r} has another text than where it stood before")
            if home.setdefault(query_id, match[1]) != match[1]:
                raise ValueError(f"{where}: query id {query_id!r} is in WikiQA-{home[query_id]} too")
            judgments.append((query_id, doc_id, int(label)))
            sentences[doc_id] = None
        answered = {query_id for query_id, _, label in judgments if label}
        if not answered:
            raise ValueError(
                f"{path}: no question has a correct sentence (Label 1), so the split has no queries"
            )
        qrels = without_repetitions(qrels_frame(judgments), str(path), first=2)
        splits[match[1]] = Split(
            texts_frame({query_id: text for query_id, text in questions.items() if query_id in answered}),
            qrels[qrels["query_id"].isin(answered)].reset_index(drop=True),
            doc_ids=tuple(sentences),
        )
    if not splits:
        raise FileNotFoundError(f"{folder} holds no WikiQA-<split>.tsv, for example WikiQA-dev.tsv.gz")
    return passages, splits


def read_squad(path: Path, seed: int, shares: Mapping[str, float]) -> tuple[dict[str, str], dict[str, Split]]:
    """Read a SQuAD file, 1.1 or 2.0: paragraphs are passages, questions queries, the first answer the answer.

    Whole articles are dealt to the splits, so that no split asks about another's paragraphs; every split
    searches all paragraphs. Questions without an answer (2.0) are left out, white space is normalised.

    Args:
        seed: decides which articles go where.
        shares: for each split its share of the articles; they add up to 1.

    Returns:
        The paragraphs by `A<article>-P<paragraph>`, counted from 1, and the splits by name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the shares do not add up or leave a split without a question, or the file is malformed;
            the message names the place in it.
    """
    if not all(share > 0 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-9:
        raise ValueError(f"expected positive shares of the articles that add up to 1, found {dict(shares)}")
    text = "\n".join(line for _, line in read_lines(path))
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    articles = _member(content, "data", list, f"{path}:")

    passages: dict[str, str] = {}
    questions: list[
        dict[str, tuple[str, str, str]]
    ] = []  # for each article: query_id -> doc_id, question, answer
    seen: set[str] = set()
    for a, article in enumerate(articles):
        questions.append({})
        where = f"{path}: data[{a}]"
        for p, paragraph in enumerate(_member(article, "paragraphs", list, where)):
            spot = f"{where}.paragraphs[{p}]"
            doc_id = f"A{a + 1}-P{p + 1}"
            passages[doc_id] = " ".join(_member(paragraph, "context", str, spot).split())
            _check_entry(spot, "id", doc_id, passages[doc_id])
            for q, item in enumerate(_member(paragraph, "qas", list, spot)):
                place = f"{spot}.qas[{q}]"
                query_id = _member(item, "id", str, place)
                text = " ".join(_member(item, "question", str, place).split())
                _check_entry(place, "question id", query_id, text)
                if query_id in seen:
                    raise ValueError(f"{place}: question id {query_id!r} stood before: ids must be unique")
                seen.add(query_id)
                if answers := _member(item, "answers", list, place):
                    answer = " ".join(_member(answers[0], "text", str, f"{place}.answers[0]").split())
                    _check_entry(place, "question id", query_id, answer)
                    questions[a][query_id] = (doc_id, text, answer)

    order = random.Random(seed).sample(range(len(articles)), len(articles))
    splits: dict[str, Split] = {}
    start, share_so_far = 0, 0.0
    for name, share in shares.items():
        share_so_far += share
        end = round(share_so_far * len(articles))
        rows = {query_id: row for a in sorted(order[start:end]) for query_id, row in questions[a].items()}
        if not rows:
            raise ValueError(
                f"{path}: {len(articles)} articles leave no question for the split {name!r} (share {share}): "
                "raise its share or leave it out"
            )
        splits[name] = Split(
            texts_frame({query_id: text for query_id, (_, text, _) in rows.items()}),
            qrels_frame((query_id, doc_id, 1) for query_id, (doc_id, _, _) in rows.items()),
            texts_frame({query_id: answer for query_id, (_, _, answer) in rows.items()}),
        )
        start = end
    return passages, splits


def read_sentences(folder: Path) -> tuple[dict[str, str], dict[str, Split]]:
    """Read the files of question generation (Du, Shao, Cardie 2017): line i of `tgt-<split>.txt` asks about line i of
    `src-<split>.txt`.

    A sentence that several questions ask about is one passage. A split searches the sentences of its own file.

    Returns:
        The sentences by `<split>-S<line>`, the line it first stands on, and the splits by name; query ids are
        `<split>-Q<line>`.

    Raises:
        FileNotFoundError: there is no such folder, or it lacks the other file of a split.
        ValueError: an empty line, or files of different length; the message names file and line.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder of sentences {folder}")
    files: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        if match := re.fullmatch(r"(src|tgt)-(\w+)\.txt(?:\.gz)?", path.name):
            if match[1] in files.setdefault(match[2], {}):
                raise ValueError(f"{folder} holds {match[1]}-{match[2]} twice, as .txt and as .txt.gz: keep one of them")
            files[match[2]][match[1]] = path
    if not files:
        raise FileNotFoundError(f"{folder} holds no src-<split>.txt and tgt-<split>.txt, for example src-dev.txt")
    passages: dict[str, str] = {}
    splits: dict[str, Split] = {}
    for name, found in files.items():
        if missing := {"src", "tgt"} - set(found):
            [present] = found.values()
            raise FileNotFoundError(f"{present} has no {missing.pop()}-{name}.txt beside it")
        sentences, questions = list(read_lines(found["src"])), list(read_lines(found["tgt"]))
        if len(sentences) != len(questions):
            raise ValueError(
                f"{found['tgt']} has {len(questions)} lines and {found['src']} has {len(sentences)}: "
                "line i of one belongs to line i of the other"
            )
        home: dict[str, str] = {}  # doc_id by sentence
        texts: dict[str, str] = {}
        judgments = []
        for (number, sentence), (_, question) in zip(sentences, questions):
            doc_id, query_id = f"{name}-S{number}", f"{name}-Q{number}"
            _check_entry(f"{found['src']}, line {number}", "id", doc_id, sentence)
            _check_entry(f"{found['tgt']}, line {number}", "id", query_id, question)
            doc_id = home.setdefault(sentence, doc_id)
            passages[doc_id] = sentence
            texts[query_id] = question
            judgments.append((query_id, doc_id, 1))
        splits[name] = Split(texts_frame(texts), qrels_frame(judgments), doc_ids=tuple(home.values()))
    return passages, splits


def read_pairs(path: Path, key: str, value: str) -> dict[str, str]:
    """Read lines of an id and a value, separated by a tab."""
    pairs: dict[str, str] = {}
    for number, line in read_lines(path):
        where = f"{path}, line {number}"
        fields = line.split("\t")
        if len(fields) != 2:
            raise ValueError(
                f"{where}: expected 2 fields separated by a tab ({key}, {value}), found {len(fields)}"
            )
        if number == 1:
            refuse_header(path, fields)
        _check_entry(where, key, *fields)
        if fields[0] in pairs:
            raise ValueError(f"{where}: {key} {fields[0]!r} stood before: ids must be unique")
        pairs[fields[0]] = fields[1]
    return pairs


def _read_labels(path: Path, column: str, queries_path: Path, texts: Mapping[str, str]) -> list[str]:
    """Read a label for every query, in the queries' order."""
    labels = read_pairs(path, "query_id", column)
    _check_known(path, 0, labels, texts, "query id", queries_path.name)
    if missing := [query_id for query_id in texts if query_id not in labels]:
        raise ValueError(
            f"{path} has no line for query id {missing[0]!r} ({len(missing)} missing): every query needs one"
        )
    return [labels[query_id] for query_id in texts]


def _read_judged(
    path: Path | None,
    read: Callable[[Path], pd.DataFrame],
    passages: Mapping[str, str],
    texts: Mapping[str, str],
    queries_name: str,
) -> pd.DataFrame | None:
    """Read qrels or candidates with `read`, and refuse ids that the collection does not have."""
    if path is None:
        return None
    frame = read(path)
    _check_known(path, 0, frame["query_id"].unique(), texts, "query id", queries_name)
    _check_known(path, 2, frame["doc_id"].unique(), passages, "doc_id", "passages.tsv")
    return frame


def _check_known(
    path: Path, column: int, ids: Iterable[str], known: Mapping[str, str], kind: str, home: str
) -> None:
    for unknown in ids:
        if unknown not in known:
            raise ValueError(
                f"{path}, line {line_with(path, column, unknown)}: {kind} {unknown!r} is not in "
                f"{home}: add it there, or remove the line"
            )


def _check_entry(where: str, kind: str, key: str, text: str) -> None:
    if key.split() != [key]:
        raise ValueError(
            f"{where}: {kind} {key!r} is empty or holds white space, which TREC files cannot carry"
        )
    if not text.strip():
        raise ValueError(f"{where}: the text of {key!r} is empty")
    if re.search("[\0\ud800-\udfff]", key + text):  # JSON's escapes can bring them in
        raise ValueError(f"{where}: the text of {key!r} holds a NUL or half of a surrogate pair: remove it")


def line_with(path: Path, column: int, key: str) -> int:
    return next(number for number, line in read_lines(path) if line.split()[column] == key)


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
