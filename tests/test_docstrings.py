"""What `help()` of a public name shows can be pasted: the examples of all docstrings run, in the order of a first day."""

import inspect
import re
import textwrap

import gdmtl_lib as gdmtl

DAY = (
    "load_collection", "bm25_candidates", "TrainingSettings", "build_model", "train", "load_model", "rerank", "rerank_texts",
    "rank", "generate", "read_run", "read_qrels", "evaluate", "compare", "open_runs",
)  # fmt: skip


def example(name: str) -> str:
    """The indented lines of a docstring that call what it is about."""
    blocks = re.findall(r"(?:^    .*\n?)+", inspect.getdoc(getattr(gdmtl, name)), re.MULTILINE)
    [code] = [block for block in map(textwrap.dedent, blocks) if f"gdmtl.{name}(" in block]
    return code


def test_every_public_function_has_an_example_that_runs(tmp_path, monkeypatch):
    public = {name for name in dir(gdmtl) if callable(getattr(gdmtl, name))}
    assert public == set(DAY)
    monkeypatch.chdir(tmp_path)
    run = gdmtl.bm25_candidates("sample", "dev", depth=3)
    for name in ("a.run", "b.run.gz", "bm25.run"):
        gdmtl.runs.write_run(run, tmp_path / name)
    (tmp_path / "b.run").write_text((tmp_path / "a.run").read_text())
    judged = gdmtl.load_collection("sample").qrels("dev")
    lines = (f"{query} 0 {doc} {grade}\n" for query, doc, grade in judged[["query_id", "doc_id", "relevance"]].to_numpy())
    (tmp_path / "qrels.txt").write_text("".join(lines))
    queries = gdmtl.load_collection("sample").queries("dev")
    (tmp_path / "queries.tsv").write_text("".join(f"{query}\t{text}\n" for query, text in queries[["query_id", "text"]].to_numpy()))

    def cheap(code: str) -> str:
        """A layer, some queries: what the examples take minutes for."""
        code = code.replace('build_model("gdmtl")', 'build_model("gdmtl", layers=1)').replace('"sample", "dev"', '"sample", "train"')
        return code.replace("epochs=3", "epochs=1, train_fraction=0.02, max_length=32")

    day = {"gdmtl": gdmtl}
    for name in DAY:
        exec(cheap(example(name)), day)  # noqa: S102, our own text
    assert len(day["history"]) and len(day["values"]) and (tmp_path / "mine.run").is_file()
    assert list(day["opened"].values_by_system()) == ["mine", "theirs"]
