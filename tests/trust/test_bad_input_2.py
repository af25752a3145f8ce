"""Bad input from end to end: a sentence that says what, where and what to do, and nothing half-written left behind.

What each reader and function refuses by itself is tested beside it; here a user calls what the notebooks call.
"""

import warnings

import pytest

import gdmtl_lib as gdmtl

FILES = {
    "passages.tsv": "d1\tblue glacier ice\nd2\tan old king\nd3\twater of the river\n",
    "queries.train.tsv": "q1\twhy is ice blue\nq2\twho was king\n",
    "qrels.train.tsv": "q1 0 d1 1\nq2 0 d2 1\n",
    "queries.dev.tsv": "q3\triver water\nq4\tice\n",
    "qrels.dev.tsv": "q3 0 d3 1\n",
}
SETTINGS = gdmtl.TrainingSettings(
    epochs=1, batch_size=2, learning_rate=1e-3, max_length=32, target_length=8, precision="fp32", device="cpu"
)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "collection"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


def workflow(folder, checkpoint, output, system="gdmtl", train="train", validation="dev"):
    """What notebook 03 does."""
    collection = gdmtl.load_collection(folder)
    candidates = {
        split: gdmtl.bm25_candidates(collection, split, depth=3, index_dir=output / "indexes")
        for split in (train, validation)
    }
    model = gdmtl.build_model(system, checkpoint=checkpoint)
    gdmtl.train(model, collection, candidates[train], SETTINGS, output, validation=candidates[validation])
    run = gdmtl.rerank(model, collection, candidates[validation], output=output / "run.trec", progress=False)
    return gdmtl.evaluate(run, collection.qrels(validation))


def test_good_input(folder, toy_bert_folder, tmp_path):
    """Or nothing below would say anything. A fourth passage shares a word with both training queries."""
    (folder / "passages.tsv").write_text(FILES["passages.tsv"] + "d4\tice of the king\n")
    values = workflow(folder, toy_bert_folder, tmp_path / "out")
    assert set(values["query_id"]) == {"q3"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"passages.tsv": None}, "{folder} holds no passages.tsv (or passages.tsv.gz)"),
        ({"queries.train.tsv": None, "queries.dev.tsv": None, "qrels.train.tsv": None, "qrels.dev.tsv": None},
         "{folder} holds no queries.<split>.tsv, for example queries.dev.tsv"),
        ({"queries.dev.tsv": None, "qrels.dev.tsv": None},
         "collection '{folder}' has no split 'dev': its splits are train"),
        ({"qrels.train.tsv": None}, "no query to train on: none of the candidates' queries has a passage judged "
         "relevant; are these the candidates of the training split?"),
        ({"passages.tsv": "d1\tblue glacier ice\nd2 an old king\n"},
         "{folder}/passages.tsv, line 2: expected 2 fields separated by a tab (doc_id, text), found 1"),
        ({"qrels.train.tsv": "q1 0 d1 1\nq2 0 d9 1\n"},
         "{folder}/qrels.train.tsv, line 2: doc_id 'd9' is not in passages.tsv: add it there, or remove the line"),
        ({"qrels.train.tsv": "q1 0 d1 1\nq9 0 d2 1\n"},
         "{folder}/qrels.train.tsv, line 2: query id 'q9' is not in queries.train.tsv: add it there, or remove the "
         "line"),
        ({"qrels.train.tsv": "q1 0 d1 1\nq1 0 d1 1\n"},
         "{folder}/qrels.train.tsv, line 2: passage 'd1' stands a second time for query 'q1'; keep one of the two"),
        ({"passages.tsv": "d1\tblue ice\nd2\tan old king\nd3\twater\nd1\tice\n"},
         "{folder}/passages.tsv, line 4: doc_id 'd1' stood before: ids must be unique"),
        ({"queries.train.tsv": "q1\twhy is ice blue\nq2\twho was king\nq1\tice\n"},
         "{folder}/queries.train.tsv, line 3: query_id 'q1' stood before: ids must be unique"),
        ({"queries.train.tsv": "q1\twhy is ice blue\nq2\twho was king\nq3\tice\n"},
         "{folder}/queries.train.tsv, line 3: query id 'q3' is in queries.dev.tsv too: a query id belongs to one "
         "split"),
        ({"passages.tsv": "d1\tblue glacier ice\nd2\t \nd3\twater\n"},
         "{folder}/passages.tsv, line 2: the text of 'd2' is empty"),
        ({"queries.dev.tsv": "q3\t\nq4\tice\n"}, "{folder}/queries.dev.tsv, line 1: the text of 'q3' is empty"),
        ({"queries.dev.tsv": "q3\tzebra\nq4\tlion\n"},
         "BM25 finds no passage for 2 of 2 queries of 'dev' in '{folder}': are queries and passages in one language, "
         "and in one script?"),
        # Nothing is wrong but that BM25 finds one passage for each query, the relevant one.
        ({}, "query 'q1' has no candidate that is less relevant than 'd1': retrieve deeper, or leave the query out of "
         "the candidates"),
    ],
)  # fmt: skip
def test_bad_collections(folder, toy_bert_folder, tmp_path, changed, message):
    for name, text in changed.items():
        (folder / name).unlink() if text is None else (folder / name).write_text(text)
    output = tmp_path / "out"
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        workflow(folder, toy_bert_folder, output)
    assert str(error.value) == message.replace("{folder}", str(folder))
    # An index is whole or not there.
    left = {path.name for path in output.iterdir()} if output.exists() else set()
    assert left <= {"indexes"}
    assert not left or all(len(path.name) == 64 for path in (output / "indexes").iterdir())


def test_missing_folder(toy_bert_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="^no collection '.*nowhere', and no folder of that name; a collectio"):
        workflow(tmp_path / "nowhere", toy_bert_folder, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_query_without_candidates(folder, toy_bert_folder, tmp_path):
    """It is named when the first stage finds nothing for it, and it counts 0 where it is judged."""
    (folder / "passages.tsv").write_text(FILES["passages.tsv"] + "d4\tice of the king\n")
    (folder / "queries.dev.tsv").write_text("q3\tzebra\nq4\tglacier\n")
    (folder / "qrels.dev.tsv").write_text("q3 0 d3 1\nq4 0 d1 1\n")
    with pytest.warns(UserWarning, match=r"^BM25 finds no passage for 1 of 2 queries of 'dev' in .*, for example 'q3'"):
        collection = gdmtl.load_collection(folder)
        candidates = gdmtl.bm25_candidates(collection, "dev", depth=3, index_dir=tmp_path / "indexes")
    run = gdmtl.rerank(gdmtl.build_model("bert", checkpoint=toy_bert_folder), collection, candidates, progress=False)
    assert set(run["query_id"]) == {"q4"}
    values = gdmtl.evaluate(run, collection.qrels("dev"), ["RR@10"])
    assert dict(zip(values["query_id"], values["value"], strict=True)) == {"q3": 0.0, "q4": 1.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"system": "gdmlt"},
            "unknown system 'gdmlt': expected one of bm25, mono, bert, gdmtl, gdmtl_plus, bart_s, gdmtl_s, bart_c, "
            "gdmtl_c",
        ),
        (
            {"system": "bm25"},
            "bm25 is the first stage and has no model: use bm25_candidates, or one of mono, bert, gdmtl, gdmtl_plus, "
            "bart_s, gdmtl_s, bart_c, gdmtl_c",
        ),
        ({"system": "gdmtl_plus"}, "collection '{folder}' has none for the training queries"),
        ({"train": "training"}, "collection '{folder}' has no split 'training': its splits are dev, train"),
        ({"checkpoint": "{folder}"}, "{folder} is not a checkpoint folder: no config.json"),
        ({"checkpoint": "{folder}/passages.tsv"}, "{folder}/passages.tsv is a file: give the checkpoint folder"),
        ({"checkpoint": "{folder}/nothing"}, "checkpoint folder {folder}/nothing does not exist"),
    ],
)
def test_bad_choices(folder, toy_bert_folder, tmp_path, arguments, message):
    (folder / "passages.tsv").write_text(FILES["passages.tsv"] + "d4\tice of the king\n")
    given = {name: value.replace("{folder}", str(folder)) for name, value in arguments.items()}
    output = tmp_path / "out"
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        workflow(folder, **{"checkpoint": toy_bert_folder, "output": output} | given)
    assert message.replace("{folder}", str(folder)) in str(error.value)
    assert not output.exists() or [path.name for path in output.iterdir()] == ["indexes"]


def test_a_folder_that_is_no_trained_checkpoint(folder, toy_bert_folder, tmp_path):
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(ValueError) as error:
        gdmtl.load_model(folder)
    assert str(error.value) == f"{folder} is not a checkpoint folder: it has no config.json and no model.safetensors"
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize("system", ["bert", "bart_s"])
def test_a_query_longer_than_half_the_input_is_cut_with_one_warning(toy_bert_folder, system):
    model = gdmtl.build_model(system, checkpoint=toy_bert_folder)
    limit = {"bert": 128, "bart_s": 55}[system]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scores = gdmtl.rerank_texts(model, "ice " * 300, ["blue ice", "an old king"])
    assert [str(warning.message).partition(" and")[0] for warning in caught] == [
        f"a query is longer than {limit} tokens"
    ]
    assert len(scores) == 2
