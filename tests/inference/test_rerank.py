"""Re-ranking: a score depends on nothing but the pair, and an interrupted run ends like one that was not."""

import copy
import random
import re
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sentence_transformers import CrossEncoder
from tests.conftest import ALL_TOYS

import gdmtl_lib as gdmtl
from gdmtl_lib.inference import rerank as reranking, scoring
from gdmtl_lib.data.collection import Collection
from gdmtl_lib.backbones.reference import reference
from gdmtl_lib.data.splits import Split
from gdmtl_lib.inputs import InputBuilder
from gdmtl_lib.masks import Spans
from gdmtl_lib.packing import pad
from gdmtl_lib.pretrained import load_model
from gdmtl_lib.data.trec import canonical_order, read_run
from gdmtl_lib.systems import prefixes

from .conftest import WORDS, candidates_of, collection_of, rerank

def scores_of(run):
    return run.set_index(["query_id", "doc_id"])["score"].sort_index()


def assert_same_scores(run, expected):
    found, expected = scores_of(run), scores_of(expected)
    assert list(found.index) == list(expected.index)
    assert np.abs(found - expected).max() < 1e-5


# --- what a score depends on --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL_TOYS)
def test_scores_are_those_of_the_padded_pair_alone(toys, name):
    model, collection = toys[name], collection_of(queries=3)
    candidates = candidates_of(collection)
    run = rerank(model, collection, candidates)
    builder, expected = model.input_builder(), []
    for pair in candidates.itertuples():
        [query] = builder.tokens(collection.query_texts([pair.query_id]))
        [passage] = builder.passage_tokens(collection.text([pair.doc_id]))
        with torch.no_grad():
            expected.append(model(pad([builder.rank(passage, query)], model.config.pad_token_id)).scores.item())
    assert np.std(expected) > 0.01  # or all scores would do
    assert_same_scores(run, candidates.assign(score=expected))


@pytest.mark.parametrize("name", ["gdmtl", "bart_s", "bart_c", "bart_s on BART"])
def test_scores_do_not_depend_on_the_batch(toys, name, monkeypatch):
    """Nor on order, packing or the size of a chunk."""
    model, collection = toys[name], collection_of()
    candidates = candidates_of(collection)
    expected = rerank(model, collection, candidates)
    for batch_tokens in (1, 64, 300, 10**6):
        assert_same_scores(rerank(model, collection, candidates, batch_tokens=batch_tokens), expected)
    shuffled = candidates.sample(frac=1, random_state=3)
    assert_same_scores(rerank(model, collection, shuffled), expected)
    for query_id, group in candidates.groupby("query_id"):
        assert_same_scores(rerank(model, collection, group), expected[expected["query_id"] == query_id])
    for chunk in (1, 10):
        monkeypatch.setattr(reranking, "CHUNK_PAIRS", chunk)
        assert_same_scores(rerank(model, collection, candidates), expected)


def test_passes_are_as_large_as_the_budget_allows(toys, monkeypatch):
    """Longest first; one that is longer than the budget goes alone."""
    sizes, original = [], scoring.pack

    def pack(sequences):
        sizes.append([len(sequence.input_ids) for sequence in sequences])
        return original(sequences)

    monkeypatch.setattr(scoring, "pack", pack)
    collection = collection_of(longest=60)
    with reference("pairs"):
        rerank(toys["bert"], collection, candidates_of(collection), batch_tokens=80)
    flat = [length for size in sizes for length in size]
    assert flat == sorted(flat, reverse=True) and len(flat) == 63
    assert all(sum(size) <= 80 or len(size) == 1 for size in sizes)
    assert any(sum(size) > 80 for size in sizes)
    assert all(sum(size) + following[0] > 80 for size, following in pairwise(sizes))


@pytest.mark.parametrize("name", ["mono", "gdmtl"])
def test_pairs_packed_as_arrays_are_the_batches_that_sequences_give(toys, name):
    """Passages and queries that fit, that are cut, and that are empty to the tokenizer."""
    rng, builder = random.Random(0), toys[name].input_builder(max_length=40)
    texts = [" ".join(rng.choices(WORDS, k=rng.choice([1, 5, 30, 60]))) for _ in range(30)] + [" "]
    pairs = [(rng.choice(texts), rng.choice(texts)) for _ in range(50)]
    with pytest.warns(UserWarning, match="a query is longer than 20 tokens"):
        lengths, pack_some = scoring._packer(scoring._Tokens(builder), pairs)
    with reference("pairs"):
        expected_lengths, pack_expected = scoring._packer(scoring._Tokens(builder), pairs)
    assert lengths.tolist() == expected_lengths.tolist()
    for numbers in ([0], [3, 1, 2], np.argsort(lengths)):
        found, expected = vars(pack_some(numbers)), vars(pack_expected(numbers))
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(found[key], value) and found[key].dtype == value.dtype, key
            elif isinstance(value, Spans):
                assert np.array_equal(found[key].table, value.table), key
            else:
                assert found[key] == value, key


def test_nothing_is_added_to_the_candidates(toys):
    """A run in canonical order over the same pairs, whatever else the collection holds."""
    collection = collection_of()
    candidates = candidates_of(collection).assign(rank=99, note="of the first stage")
    before = candidates.copy()
    run = rerank(toys["bert"], collection, candidates)
    assert list(run.columns) == ["query_id", "doc_id", "score", "rank"]
    pairs = [sorted(zip(frame["query_id"], frame["doc_id"], strict=True)) for frame in (run, candidates)]
    assert pairs[0] == pairs[1]
    pd.testing.assert_frame_equal(run, canonical_order(run))
    assert run["score"].dtype == np.float32
    assert list(run["query_id"].unique()) == list(candidates["query_id"].unique())
    pd.testing.assert_frame_equal(candidates, before)


def test_candidates_need_no_score(toys):
    collection = collection_of()
    candidates = candidates_of(collection)
    bare = rerank(toys["bert"], collection, candidates[["query_id", "doc_id"]])
    pd.testing.assert_frame_equal(bare, rerank(toys["bert"], collection, candidates))


def test_dropout_rests(toys):
    collection = collection_of()
    candidates = candidates_of(collection)
    expected = rerank(toys["bert"], collection, candidates)
    toys["bert"].train()
    pd.testing.assert_frame_equal(rerank(toys["bert"], collection, candidates), expected)


def test_texts_are_scored_like_a_collections(toys):
    collection = collection_of()
    candidates = candidates_of(collection)
    run = rerank(toys["gdmtl"], collection, candidates)
    for query_id, group in candidates.groupby("query_id"):
        [query] = collection.query_texts([query_id])
        scores = gdmtl.rerank_texts(toys["gdmtl"], query, collection.text(group["doc_id"]))
        assert scores.dtype == np.float32
        assert_same_scores(group.assign(score=scores), run[run["query_id"] == query_id])
    assert gdmtl.rerank_texts(toys["gdmtl"], "ice", []).tolist() == []
    assert gdmtl.rerank_texts(toys["gdmtl"], "ice", iter(["ice", "ice"])).std() < 1e-6


def test_a_text_by_itself_is_one_passage_and_a_ranking_is_a_sorted_table(toys):
    model, passages = toys["gdmtl"], ["ice", "old king of the north", "blue ice", "ice"]
    scores = gdmtl.rerank_texts(model, "ice", passages)
    assert np.abs(gdmtl.rerank_texts(model, "ice", passages[1]) - scores[1:2]).max() < 1e-5
    table = gdmtl.rank(model, "ice", iter(passages))
    assert table.columns.tolist() == ["rank", "score", "text"] and table["rank"].tolist() == [1, 2, 3, 4]
    assert table["score"].is_monotonic_decreasing and table["text"].tolist() == [passages[at] for at in table.index]
    np.testing.assert_allclose(table["score"].sort_index(), scores, atol=1e-6)
    assert gdmtl.rank(model, "ice", "blue ice")["text"].tolist() == ["blue ice"] and gdmtl.rank(model, "ice", []).empty


def test_paths_are_opened(toys, tmp_path, monkeypatch):
    """A checkpoint, a collection and a run, all by their places."""
    collection = collection_of()
    (tmp_path / "passages.tsv").write_text("".join(f"{key}\t{text}\n" for key, text in collection.passages()))
    queries = collection.queries("dev").itertuples(index=False)
    (tmp_path / "queries.dev.tsv").write_text("".join(f"{key}\t{text}\n" for key, text in queries))
    candidates = candidates_of(collection)
    gdmtl.runs.write_run(candidates, tmp_path / "bm25.run")
    toys["gdmtl"].save_pretrained(tmp_path / "checkpoint")
    run = rerank(tmp_path / "checkpoint", str(tmp_path), tmp_path / "bm25.run")
    pd.testing.assert_frame_equal(run, rerank(toys["gdmtl"], collection, canonical_order(candidates)))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "same.run").symlink_to("bm25.run")
    for name in ("bm25.run", "./bm25.run", "same.run"):
        message = f"output: expected another file than that of the candidates, found {str(Path(name))!r}"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            rerank(toys["gdmtl"], collection, tmp_path / "bm25.run", output=name)
    pd.testing.assert_frame_equal(read_run("bm25.run"), canonical_order(candidates))


# --- tokenized once -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cached", "once"), [(10**6, True), (40, False)])
def test_every_text_is_tokenized_once_a_run(toys, monkeypatch, cached, once):
    """Over all chunks, as long as the tokens fit in; the scores are the same in any case."""
    collection, asked = collection_of(), []
    candidates = candidates_of(collection)
    expected = rerank(toys["gdmtl"], collection, candidates)
    original = InputBuilder._encode
    monkeypatch.setattr(InputBuilder, "_encode", lambda self, texts: [asked.extend(texts), original(self, texts)][1])
    monkeypatch.setattr(reranking, "CHUNK_PAIRS", 9)
    monkeypatch.setattr(scoring, "CACHED_TOKENS", cached)
    assert_same_scores(rerank(toys["gdmtl"], collection, candidates), expected)
    texts = set(collection.text(candidates["doc_id"])) | set(collection.queries("dev")["text"])
    # Passages stand after a space, a task's prefix is tokenized when a builder is made.
    asked = [text.strip() for text in asked if text not in prefixes().values()]
    assert set(asked) == texts
    assert (len(asked) == len(texts)) == once


# --- rounding -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gdmtl", "bart_s"])
def test_bf16_ties_nothing_that_fp32_tells_apart(toys, name):
    """300 distinct passages of one query. The heads compute in fp32; scores in bf16 would tie."""
    collection = collection_of(queries=1, passages=300)
    candidates = candidates_of(collection, depth=300)
    exact = scores_of(rerank(toys[name], collection, candidates))
    rounded = scores_of(rerank(toys[name], collection, candidates, precision="bf16"))
    texts = dict(collection.passages())
    distinct = [pair for pair in exact.index if list(texts.values()).index(texts[pair[1]]) == int(pair[1][1:])]
    assert exact[distinct].is_unique and len(distinct) > 270
    assert rounded[distinct].is_unique
    assert len(torch.tensor(exact[distinct].to_numpy()).bfloat16().unique()) < 0.9 * len(distinct)
    assert not rounded.equals(exact)
    assert exact.corr(rounded, method="spearman") > 0.99


@pytest.mark.parametrize("name", ["gdmtl", "bart_s"])
def test_a_rounded_copy_leaves_the_model_alone(toys, name):
    """Its backbone is in bf16; the head that computes the score, and the model itself, stay in fp32."""
    rounded = scoring.in_precision(toys[name], "bf16")
    assert {parameter.dtype for parameter in toys[name].parameters()} == {torch.float32}
    in_fp32 = {key for key, parameter in rounded.named_parameters() if parameter.dtype == torch.float32}
    heads = ("classifier.", "bert.pooler.", "classification_head.", "generation_heads.")
    assert in_fp32 == {key for key, _ in toys[name].named_parameters() if key.startswith(heads)} != set()
    assert scoring.in_precision(toys[name], "fp32") is toys[name]


# --- interrupted and resumed --------------------------------------------------------------------------------


@pytest.fixture
def chunked(toys, monkeypatch, tmp_path):
    """A run of four chunks: model, collection, candidates, and the bytes it ends with."""
    monkeypatch.setattr(reranking, "CHUNK_PAIRS", 18)
    collection = collection_of()
    job = toys["gdmtl"], collection, candidates_of(collection)
    run = rerank(*job, output=tmp_path / "whole.trec")
    pd.testing.assert_frame_equal(read_run(tmp_path / "whole.trec"), run)
    assert [path.name for path in tmp_path.iterdir()] == ["whole.trec"]
    return *job, (tmp_path / "whole.trec").read_bytes()


def counted(monkeypatch, stop=None):
    """Count the chunks that are scored, and interrupt before the one of number `stop`."""
    calls, original = [], scoring.score_pairs

    def score_pairs(*arguments):
        if len(calls) == stop:
            raise KeyboardInterrupt
        calls.append(len(arguments[1]))
        return original(*arguments)

    monkeypatch.setattr(scoring, "score_pairs", score_pairs)
    return calls


def interrupted(job, output, stop):
    with pytest.MonkeyPatch.context() as patch:
        counted(patch, stop)
        with pytest.raises(KeyboardInterrupt):
            rerank(*job, output=output)
    assert not output.exists()
    return output.with_name(f"{output.name}.partial")


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_an_interrupted_run_ends_byte_for_byte_like_a_whole_one(chunked, tmp_path, monkeypatch, stop):
    """63 pairs in chunks of whole queries: 18, 18, 18 and 9."""
    *job, whole = chunked
    output = tmp_path / "out" / "resumed.trec"
    interrupted(job, output, stop)
    calls = counted(monkeypatch)
    run = rerank(*job, output=output)
    assert calls == [18, 18, 18, 9][stop:]
    assert output.read_bytes() == whole
    assert [path.name for path in output.parent.iterdir()] == ["resumed.trec"]
    pd.testing.assert_frame_equal(run, read_run(output))


def test_interrupted_twice(chunked, tmp_path, monkeypatch):
    *job, whole = chunked
    output = tmp_path / "resumed.trec"
    for stop in (1, 1, 0):
        interrupted(job, output, stop)
    calls = counted(monkeypatch)
    rerank(*job, output=output)
    assert (calls, output.read_bytes()) == ([18, 9], whole)


def test_a_damaged_partial_costs_time_and_nothing_else(chunked, tmp_path, monkeypatch):
    """Cut or changed anywhere: what follows the damage is scored again."""
    *job, whole = chunked
    output = tmp_path / "resumed.trec"
    partial = interrupted(job, output, 3)
    content = partial.read_bytes()
    calls = counted(monkeypatch)
    rng = random.Random(0)
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    places = sorted({0, *ends, *(end - 1 for end in ends), *(rng.randrange(len(content)) for _ in range(12))})
    for place in places:
        intact = sum(end <= place for end in ends)
        damaged = [content[:place]]
        if place < len(content):
            damaged.append(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        for each in damaged:
            calls.clear()
            partial.write_bytes(each)
            rerank(*job, output=output)
            assert len(calls) == 4 - max(intact - 1, 0)
            assert output.read_bytes() == whole
            assert not partial.exists()


@pytest.mark.parametrize("line", ["null", "5", "[0]", "[0, 1]", "{}", '["a", [1.0]]', "[[0], [1.0]]", "\u00fc", ""])
def test_a_foreign_line_is_ignored(chunked, tmp_path, monkeypatch, line):
    *job, whole = chunked
    partial = interrupted(job, tmp_path / "resumed.trec", 2)
    partial.write_text(partial.read_text() + line + "\n")
    calls = counted(monkeypatch)
    rerank(*job, output=tmp_path / "resumed.trec")
    assert len(calls) == 2
    assert (tmp_path / "resumed.trec").read_bytes() == whole


def other_weights(model, collection, candidates):
    model = copy.deepcopy(model)
    model.classifier.bias.data += 1e-3
    return model, collection, candidates


def other_lengths(model, collection, candidates):
    model = copy.deepcopy(model)
    model.config.gdmtl = model.config.gdmtl | {"inputs": {"max_length": 100, "target_length": 56}}
    return model, collection, candidates


def other_candidates(model, collection, candidates):
    return model, collection, candidates.iloc[::-1]


def other_texts(model, collection, candidates):
    passages = dict(collection.passages()) | {"d0": "another text"}
    return model, Collection("toy", passages, {"dev": Split(collection.queries("dev"))}), candidates


@pytest.mark.parametrize("change", [other_weights, other_lengths, other_candidates, other_texts])
def test_the_partial_of_another_run_is_ignored(chunked, tmp_path, monkeypatch, change):
    *job, _ = chunked
    other = change(*job)
    expected = rerank(*other)
    interrupted(job, tmp_path / "resumed.trec", 3)
    calls = counted(monkeypatch)
    pd.testing.assert_frame_equal(rerank(*other, output=tmp_path / "resumed.trec"), expected)
    assert len(calls) == 4


@pytest.mark.parametrize(("option", "value"), [("precision", "bf16"), ("CHUNK_PAIRS", 9)])
def test_the_partial_of_other_settings_is_ignored(chunked, tmp_path, monkeypatch, option, value):
    *job, _ = chunked
    interrupted(job, tmp_path / "resumed.trec", 3)
    options = {option: value} if option == "precision" else {}
    if not options:
        monkeypatch.setattr(reranking, option, value)
    expected = rerank(*job, **options)
    calls = counted(monkeypatch)
    pd.testing.assert_frame_equal(rerank(*job, output=tmp_path / "resumed.trec", **options), expected)
    assert sum(calls) == 63


def test_a_run_that_was_there_is_replaced_at_the_end(chunked, tmp_path):
    *job, whole = chunked
    output = tmp_path / "resumed.trec"
    output.write_text("q0 Q0 d0 1 1.0 old\n")
    with pytest.MonkeyPatch.context() as patch:
        counted(patch, stop=2)
        with pytest.raises(KeyboardInterrupt):
            rerank(*job, output=output)
    assert output.read_text() == "q0 Q0 d0 1 1.0 old\n"
    rerank(*job, output=output)
    assert output.read_bytes() == whole


# --- other software -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert", "gdmtl_plus"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_cross_encoder_gives_the_same_scores(toys, name, tmp_path):
    """sentence-transformers on a saved checkpoint; one passage is longer than the model reads."""
    model, collection = toys[name], collection_of()
    model.save_pretrained(tmp_path / "checkpoint")
    passages = [*dict(collection.passages()).values(), " ".join(WORDS * 20)]
    cross_encoder = CrossEncoder(str(tmp_path / "checkpoint"), device="cpu")
    assert isinstance(cross_encoder.activation_fn, torch.nn.Identity)
    assert cross_encoder.max_seq_length == 256
    for query in collection.queries("dev")["text"]:
        ours = gdmtl.rerank_texts(model, query, passages)
        theirs = cross_encoder.predict([("rank: " + passage, query) for passage in passages], show_progress_bar=False)
        assert np.abs(ours - theirs).max() < 1e-4
    assert ours.std() > 0.01
    assert np.abs(gdmtl.rerank_texts(load_model(tmp_path / "checkpoint"), query, passages) - ours).max() == 0


def test_threads_that_share_a_model_take_turns(toys):
    """A server answers with one model in several threads: each gets what it would get alone, and the model stays whole."""
    model, collection = toys["gdmtl"], collection_of(queries=4)
    passages, [queries] = [text for _, text in collection.passages()], [collection.queries("dev")["text"].tolist()]
    asked = [(query, passages[place::4]) for place, query in enumerate(queries)]
    expected = [gdmtl.rerank_texts(model, *each) for each in asked], gdmtl.generate(model, passages[:2], max_tokens=8)
    with ThreadPoolExecutor(5) as pool:
        ranked = [[pool.submit(gdmtl.rerank_texts, model, *each) for each in asked] for _ in range(30)]
        written = [pool.submit(gdmtl.generate, model, passages[:2], max_tokens=8) for _ in range(10)]
        assert all(call.result() == expected[1] for call in written)
        for calls in ranked:
            for call, scores in zip(calls, expected[0], strict=True):
                assert np.abs(call.result() - scores).max() < 1e-5
    assert not [module for module in model.modules() if "forward" in vars(module)]
