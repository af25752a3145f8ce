"""A rehearsal of the paper's setting: MS MARCO's and CAsT's own file formats at a thousandth of their size, through the
first stage, training, choosing the epoch, transfer and the folds by session. Random weights: nothing is claimed here
but that every step takes what the one before gives."""

import json
import os
import random
from pathlib import Path

import pandas as pd
import pytest
import yaml
from tests import warm

from gdmtl_lib.data.msmarco import RESOLVED
from gdmtl_lib.data.collection import load_collection
from gdmtl_lib.evaluation.comparison import compare
from gdmtl_lib.evaluation.measures import PAPER_MEASURES, evaluate, read_values, summarize
from gdmtl_lib.data.bm25 import bm25_candidates, tune_bm25
from gdmtl_lib.data.splits import cross_validated_epochs, join_parts, kfold, session_folds
from gdmtl_lib.experiments.notebook import indexes_folder
from gdmtl_lib.sweep.page import write_page
from gdmtl_lib.data.trec import canonical_order, frame_hash, read_run
from gdmtl_lib.systems import LABELS

PROJECT = Path(__file__).parents[2]
PASSAGES, TRAINING, DEV, SESSIONS = 8_842, 533, 7, 10
STRESS = bool(os.environ.get("GDMTL_STRESS"))
INSIDE = ("13_generated_queries", "14_what_changes_inside")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Passages of made-up words; a query is some words of its relevant passage."""
    folder = tmp_path_factory.mktemp("rehearsal") / "msmarco"
    folder.mkdir()
    draw = random.Random(0)
    vocabulary = ["".join(draw.choices("aeioubdklmnprst", k=draw.randint(3, 7))) for _ in range(3000)]
    passages = [" ".join(draw.choices(vocabulary, k=draw.randint(12, 25))) for _ in range(PASSAGES)]

    def about(passage: int) -> str:
        return " ".join(draw.sample(passages[passage].split(), 3))

    def lines(name: str, rows) -> None:
        (folder / name).write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))

    lines("collection.tsv", enumerate(passages))
    train = {1000 + number: draw.randrange(PASSAGES) for number in range(TRAINING)}
    dev = {5000 + number: draw.randrange(PASSAGES) for number in range(DEV)}
    turns = {f"{31 + session}_{turn}": draw.randrange(PASSAGES) for session in range(SESSIONS) for turn in (1, 2, 3)}
    lines("queries.train.tsv", [(query, about(passage)) for query, passage in train.items()] + [(9, "nobody judged it")])
    lines("qrels.train.tsv", [(query, 0, passage, 1) for query, passage in train.items()])
    lines("queries.dev.tsv", [(query, about(passage)) for query, passage in dev.items()] + [(10, "of dev alone")])
    lines("queries.dev.small.tsv", [(query, about(passage)) for query, passage in dev.items()])
    lines("categories.dev.small.tsv", [(query, ("NUMERIC", "PERSON")[query % 2]) for query in dev])
    lines("qrels.dev.small.tsv", [(query, 0, passage, 1) for query, passage in dev.items()])
    lines(RESOLVED, [(turn, about(passage)) for turn, passage in turns.items()])
    graded = [f"{turn} Q0 MARCO_{passage} {2 + place % 3}\n" for place, (turn, passage) in enumerate(turns.items())]
    (folder / "2019qrels.txt").write_text("".join(graded + [f"{turn} Q0 CAR_0a 4\n" for turn in turns]))
    weighted = [json.dumps({"id": str(number), "contents": f"{text} {text}"}) for number, text in enumerate(passages)]
    (folder.parent / "deepct.jsonl").write_text("\n".join(weighted) + "\n")
    return folder


@pytest.mark.filterwarnings("ignore:a query is longer than")  # the toy tokenizer spells made-up words letter by letter
def test_rehearsal_of_the_papers_setting(folder, toy_bert_folder, tmp_path, monkeypatch):
    from gdmtl_lib.pretrained import build_model
    from gdmtl_lib.inference.rerank import rerank
    from gdmtl_lib.settings import TrainingSettings
    from gdmtl_lib.training.loop import train

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    collection = load_collection(folder)
    assert set(collection.splits) == {"train", "dev", "dev-small", "cast-2019"}
    assert (len(collection.queries("train")), len(collection.queries("dev-small"))) == (TRAINING, DEV)

    # First stage: DeepCT's passages indexed once, k1 and b tuned on training queries.
    first = {"index_dir": tmp_path / "indexes", "enriched": folder.parent / "deepct.jsonl"}
    grid = {"k1s": [0.9, 27], "bs": [0.4, 0.62]}
    tuned = tune_bm25(collection, "train", tmp_path / "bm25.csv", depth=50, queries=100, **grid, **first)
    assert tuned["recall"].iloc[0] > 0.9 and tuned["queries"].eq(100).all()
    best = {"k1": float(tuned["k1"].iloc[0]), "b": float(tuned["b"].iloc[0])}
    candidates = {
        split: bm25_candidates(collection, split, depth=depth, **best, **first)
        for split, depth in (("train", 10), ("dev-small", 50), ("cast-2019", 50))
    }
    assert len(list((tmp_path / "indexes").iterdir())) == 1

    # Training on a sample, measured on dev, and an epoch chosen for each of five folds of dev.
    settings = TrainingSettings(epochs=1, train_fraction=0.06, max_length=32, warmup_epochs=0.5, device="cpu")
    runs = {}
    for system in ("bert", "gdmtl"):
        model = build_model(system, checkpoint=str(toy_bert_folder), layers=1)
        history = train(model, collection, candidates["train"], settings, tmp_path / system, candidates["dev-small"])
        assert history["loss"].notna().all()
        runs[system] = rerank(model, collection, candidates["dev-small"], progress=False, device="cpu")
    qrels = collection.qrels("dev-small")
    values = {system: evaluate(run, qrels, PAPER_MEASURES) for system, run in runs.items()}
    # Two systems in place of two epochs of one.
    of_measure = [frame[frame["measure"] == "RR@10"] for frame in values.values()]
    by_epoch = pd.concat(frame.assign(epoch=epoch) for epoch, frame in enumerate(of_measure))
    chosen = cross_validated_epochs(by_epoch, kfold(qrels["query_id"], 5))
    assert len(chosen) == DEV and set(chosen["epoch"]) <= {0, 1}
    table = compare(values, baseline="bert")
    assert set(table["measure"]) == set(values["bert"]["measure"])

    # Transfer: the same checkpoint on CAsT, no further training; and CAsT's own folds, joined again.
    graded = collection.qrels("cast-2019")
    transferred = rerank(model, collection, candidates["cast-2019"], progress=False, device="cpu")
    whole = evaluate(transferred, graded, PAPER_MEASURES, relevance_level=2)
    assert len(summarize(whole)) == len(PAPER_MEASURES)
    folds = load_collection(f"folds:cast-2019:{folder}")
    sessions = dict(collection.queries("cast-2019")[["query_id", "session"]].to_numpy())
    parts = []
    for number, rotation in enumerate(session_folds(sessions)):
        assert set(folds.queries(f"test{number}")["query_id"]) == set(rotation.test)
        run = transferred[transferred["query_id"].isin(rotation.test)]
        parts.append(evaluate(run, folds.qrels(f"test{number}"), PAPER_MEASURES, relevance_level=2))
    same = join_parts(parts).sort_values(["measure", "query_id"], ignore_index=True)
    pd.testing.assert_frame_equal(same, whole.sort_values(["measure", "query_id"], ignore_index=True))


# --- through the Snakefile, as `make figures` calls it ---------------------------------------------------------


def snakemake(config: str, folder: Path, *arguments: str, **values: object) -> str:
    """Run the sweep of a config of the project, some of its values changed; returns what it printed."""
    return printed_by(warm.snakemake, folder, warm.of_sweep(config, folder, *arguments, **values))


def printed_by(function, folder: Path, *arguments: object) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "printed.txt").unlink(missing_ok=True)
    status = warm.forked(function, *arguments, cwd=PROJECT, printed=folder / "printed.txt")
    printed = (folder / "printed.txt").read_text()
    assert status == 0, printed
    return printed


@pytest.fixture
def toy(toy_bert_folder) -> dict:
    """Parameters that replace the paper's: all that is smaller about the rehearsal."""
    return {
        "checkpoint": str(toy_bert_folder), "layers": 1, "epochs": 2, "batch_size": 8, "train_fraction": 0.06,
        "train_depth": 10, "max_length": 32, "precision": "fp32", "device": "cpu",
    }  # fmt: skip


@pytest.mark.slow
def test_rehearsal_of_msmarco_through_the_snakefile(folder, toy, tmp_path, monkeypatch):
    """msmarco.yaml itself: BM25 tuned over DeepCT's passages, two systems trained, measured on dev, taken to CAsT."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    wanted = ["02_collection_and_candidates", "04_rerank_and_evaluate_dev-small", "10_transfer"]
    change = {
        "collection": str(folder), "systems": ["bert", "gdmtl"], "splits": {"cast-2019": 2}, "depth": 20,
        "first_stage": {"tune": 30, "enriched": str(folder.parent / "deepct.jsonl")}, "parameters": toy, "transfer": [],
    }  # fmt: skip
    text = snakemake("msmarco", tmp_path, "--until", *wanted, **change)
    results = tmp_path / "msmarco"
    tuned = json.loads((results / "bm25" / "tuned.json").read_text())
    assert f"BM25: k1 {tuned['k1']:g} and b {tuned['b']:g} find " in text
    for split in ("dev-small", "cast-2019"):
        for home in ("bm25", "bert/seed0", "gdmtl/seed0"):
            assert (results / home / f"per_query.{split}.csv").is_file()
    table = pd.read_csv(results / "tables" / "effectiveness.dev-small.csv", index_col="system")
    assert list(table.index) == ["BM25", "BERT", "GDMTL"]
    assert (results / "tables" / "transfer.cast-2019.csv").is_file()
    by_query = pd.read_csv(results / "bert" / "seed0" / "validation_queries.csv")
    assert len(by_query) == 2 * DEV and set(by_query["epoch"]) == {0, 1}
    made = {path.name.partition(".")[0] for path in (results / ".jobs").glob("[!.]*")}
    assert made == {
        "tune_bm25", "measure_bm25", "search_train_top10", *wanted,
        *(f"train_{system}_seed0" for system in ("bert", "gdmtl")),
        *(f"rerank_{system}_seed0_cast-2019" for system in ("bert", "gdmtl")),
    }  # fmt: skip
    # What is done is not done again; what k1 decides is, which is everything.
    again = snakemake("msmarco", tmp_path, "-n", "--until", *wanted, **change)
    assert "train_bert_seed0" not in again
    other = snakemake("msmarco", tmp_path, "-n", "--until", *wanted, **change | {"first_stage": {"k1": 2.0}})
    assert "train_bert_seed0" in other


@pytest.mark.slow
def test_rehearsal_of_the_folds_of_cast_through_the_snakefile(folder, toy, tmp_path, monkeypatch):
    """cast2019.yaml itself, smaller: five rotations, every turn tested once by a model that has not seen its session, all
    turns in the tables. GDMTL_STRESS=1: GDMTL beside BERT, and the notebooks that look into the first rotation."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    systems, wanted = ["bert"], ["04_rerank_and_evaluate_cast-2019", "06_win_tie_loss_cast-2019"]
    if STRESS:
        systems = ["bert", "gdmtl"]
        wanted += ["11_architectures_cast-2019", "01_attention_masks", *(f"{name}_test0" for name in INSIDE)]
    collection = f"folds:cast-2019:{folder}"
    own = yaml.safe_load((PROJECT / "papermill_runs" / "configs" / "cast2019.yaml").read_text())
    change = {
        "collection": collection, "systems": systems, "depth": 20,
        "parameters": toy | {"epochs": 1, "train_fraction": 1.0},
    }  # fmt: skip
    merged = {"results": str(tmp_path), "parameters": own["parameters"] | change["parameters"]}  # as --config merges them
    printed_by(warm.sweep, tmp_path, "cast2019", change | merged, tuple(wanted))
    results, rotations = tmp_path / "cast2019", load_collection(collection)
    turns = load_collection(folder).queries("cast-2019")
    session_of = dict(turns[["query_id", "session"]].to_numpy())
    for system in systems:
        tested = []
        for number in range(5):
            home = results / "folds" / str(number) / system / "seed0"
            trained = json.loads((home / "settings.json").read_text())["training"]
            # What it learned from, by the hash that the training itself left: candidates of three folds, and no others.
            learned = canonical_order(bm25_candidates(rotations, f"train{number}", depth=10, index_dir=indexes_folder()))
            assert trained["candidates"] == frame_hash(learned[["query_id", "doc_id"]])
            assert trained["validation"]["qrels"] == frame_hash(rotations.qrels(f"validate{number}"))
            run = read_run(home / f"run.test{number}.trec.gz")
            seen = {session_of[turn] for turn in learned["query_id"]}
            scored = {session_of[turn] for turn in run["query_id"]}
            assert len(seen) == 6 and len(scored) == 2 and not seen & scored
            tested.append(run)
        joined_run = read_run(results / system / "seed0" / "run.cast-2019.trec.gz")
        assert not joined_run.duplicated(["query_id", "doc_id"]).any()
        key = ["query_id", "doc_id", "score"]
        assert sorted(joined_run[key].to_numpy().tolist()) == sorted(join_parts(tested)[key].to_numpy().tolist())
        values = read_values(results / system / "seed0" / "per_query.cast-2019.csv")
        assert all(sorted(of["query_id"]) == sorted(session_of) for _, of in values.groupby("measure"))
    table = pd.read_csv(results / "tables" / "effectiveness.cast-2019.csv", index_col="system")
    assert list(table.index) == ["BM25", *(LABELS[system] for system in systems)]
    counts = pd.read_csv(results / "tables" / "win_tie_loss.cast-2019.csv")
    assert len(counts) == len(systems) * (len(systems) + 1) // 2
    assert counts[["win", "tie", "loss"]].sum(axis=1).eq(len(session_of)).all()
    if STRESS:
        costs = pd.read_csv(results / "tables" / "architectures.cast-2019.csv", index_col="system")
        assert costs.loc[["BERT", "GDMTL"], ["parameters", "training_seconds", "pairs_per_second"]].gt(0).all(axis=None)
        of_first = {path.name for part in ("figures", "tables") for path in (results / "folds" / "0" / part).iterdir()}
        assert {"attention_heads.png", "generated_queries.test0.csv", "attention_moved.test0.csv"} <= of_first
        page = write_page(results).read_text()
        assert "Attention heads, rotation 0<" in page and "folds/0/tables/attention_moved.test0.csv" in page
    stamps = {path: path.stat().st_ino for path in (results / ".jobs").glob("[!.]*")}
    assert len(stamps) == 1 + 11 * len(systems) + len(wanted)
    snakemake("cast2019", tmp_path, "--until", *wanted, **change)  # does nothing: to Snakemake it is the same sweep
    assert {path: path.stat().st_ino for path in (results / ".jobs").glob("[!.]*")} == stamps


@pytest.mark.parametrize("config", sorted(path.stem for path in (PROJECT / "papermill_runs" / "configs").glob("*.yaml")))
def test_snakemake_lists_the_jobs_of_every_config(config, folder, toy, tmp_path, monkeypatch):
    """`snakemake -n`, with small files of the right formats and a toy where a config needs what is not in the project."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    change = {}
    if config in ("msmarco", "msmarco_1h", "msmarco_4h", "released", "cast2019"):
        change = {"collection": str(folder), "systems": ["bert", "gdmtl"], "parameters": toy, "overrides": {}}
        if config == "cast2019":
            change["collection"] = f"folds:cast-2019:{folder}"
        if config in ("msmarco", "released"):
            change["transfer"] = {"collection": str(folder), "split": "cast-2019", "level": 2}
    if config == "wikiqa":
        header = "QuestionID\tQuestion\tDocumentID\tDocumentTitle\tSentenceID\tSentence\tLabel\n"
        for number, split in enumerate(("train", "dev")):
            line = f"Q{number}\twhat is ice\tD{number}\tIce\tD{number}-0\tIce is water.\t1\n"
            (tmp_path / f"WikiQA-{split}.tsv").write_text(header + line)
        change["collection"] = f"wikiqa:{tmp_path}"
    if config.startswith("squad_sentences") or config == "choices_sentences":
        for split in ("dev", "test"):
            (tmp_path / f"src-{split}.txt").write_text(f"ice is water in {split} .\n")
            (tmp_path / f"tgt-{split}.txt").write_text(f"what is ice in {split} ?\n")
        change["collection"] = f"sentences:{tmp_path}"
    if config == "nanobeir":  # in small: one collection of files
        change["transfer"] = [{"collection": str(folder), "split": "dev-small", "level": 1}]
    listed = snakemake(config, tmp_path / "results", "-n", **change)
    jobs = {"02_collection_and_candidates", "train_bert_seed0", "04_rerank_and_evaluate"}
    if config == "cast2019":
        jobs = jobs - {"train_bert_seed0"} | {"train_bert_seed0_fold4", "rerank_gdmtl_seed0_fold0", "join_gdmtl_seed0"}
    if config == "msmarco":  # Tables 5, 8 and 9, Figure 7
        jobs |= {"08_query_categories_dev-small", "09_training_size", "10_transfer_msmarco.cast-2019"}
    if config == "denoising":  # the study alone trains
        jobs = jobs - {"train_bert_seed0"} | {"17_denoising"}
    if config == "choices_graded":
        jobs |= {"16_choices", "train_choices_graded_sources_gdmtl_seed2"}
    elif config.startswith("choices"):
        jobs |= {"16_choices", "train_choices_mlm_expansion_gdmtl_seed0"}
        assert "train_choices_mlm_expansion_bert" not in listed  # a mask of generation does not concern it
    if config == "squad_sentences_cpu":
        jobs = jobs - {"train_bert_seed0"} | {"train_gdmtl_s_seed2", "denoise_steps800_seed2"}
    if config == "nanobeir":
        jobs |= {"rerank_gdmtl_seed2_msmarco.dev-small", "10_transfer_msmarco.dev-small"}
    assert all(job in listed for job in jobs), listed
    assert not list((tmp_path / "results").glob("*/*/seed*"))  # nothing was run
