import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest

from gdmtl_lib.experiments import studies
from gdmtl_lib.evaluation.measures import write_values
from gdmtl_lib.experiments.results import Results
from gdmtl_lib.data.trec import write_run
from gdmtl_lib.experiments.studies import SIZE, WEIGHTING, Study


def write_training(home, values, history=None, collection="c", **settings):
    """A finished training: settings, history, run and the RR@10 and nDCG@10 (half of it) of q1, q2, ..."""
    rows = [
        (f"q{i}", measure, value * factor, float("nan"))
        for i, value in enumerate(values, start=1)
        for measure, factor in (("RR@10", 1.0), ("nDCG@10", 0.5))
    ]
    write_values(pd.DataFrame(rows, columns=["query_id", "measure", "value", "residual"]), home / "per_query.dev.csv")
    run = pd.DataFrame({"query_id": ["q1", "q1"], "doc_id": ["a", "b"], "score": [2.0, 1.0]})
    write_run(run, home / "run.dev.trec.gz")
    settings = {"epochs": 3, "loss_weighting": 0.1, "generation_head_warmup_steps": 0, SIZE: 1.0, "seed": 9} | settings
    text = json.dumps({"training": {"settings": settings, "collection": collection}, "finished": {}})
    (home / "settings.json").write_text(text)
    if history is not None:
        pd.DataFrame(history).to_csv(home / "history.csv", index=False)


@pytest.fixture
def sizes(tmp_path):
    """BERT and GDMTL on a half and on all queries, seeds 0 and 1; the folders' names say nothing, or the wrong thing.

    On a half, BERT has (.2, .4, .3) and (.4, .6, .5) with means .3 and .5, GDMTL .3 more with seed 0, .1 more with
    seed 1. On all, both have .5 everywhere, BERT with seed 7, too.
    """
    bert = {0: [0.2, 0.4, 0.3], 1: [0.4, 0.6, 0.5]}
    for seed, gain in ((0, 0.3), (1, 0.1)):
        half = tmp_path / "studies" / "training_size" / "all-of-it"
        write_training(half / "bert" / f"seed{seed}", bert[seed], **{SIZE: 0.5})
        write_training(half / "gdmtl" / f"seed{seed}", np.add(bert[seed], gain), **{SIZE: 0.5})
    for system, seeds in (("bert", (0, 1, 7)), ("gdmtl", (0, 1)), ("mono", (0,))):
        for seed in seeds:
            write_training(tmp_path / system / f"seed{seed}", [0.5] * 3)
    return Results(tmp_path)


def test_the_share_is_read_from_the_settings_and_the_configs_own_trainings_are_one_more(sizes):
    study = Study(sizes, "training_size", "dev")
    assert study.systems() == ["bert", "gdmtl"] and list(study.variants) == ["all-of-it"]
    trainings = study.trainings([SIZE])
    assert trainings[["variant", "system", "seed", SIZE]].values.tolist() == [
        ["all-of-it", "bert", 0, 0.5], ["all-of-it", "bert", 1, 0.5], ["", "bert", 0, 1.0], ["", "bert", 1, 1.0],
        ["", "bert", 7, 1.0],
        ["all-of-it", "gdmtl", 0, 0.5], ["all-of-it", "gdmtl", 1, 0.5], ["", "gdmtl", 0, 1.0], ["", "gdmtl", 1, 1.0],
    ]  # fmt: skip
    assert study.trainings([SIZE], ["GDMTL"])["system"].unique().tolist() == ["gdmtl"]


def test_what_a_study_repeats_of_the_configs_own_counts_once(sizes):
    write_training(sizes.folder / "studies" / "training_size" / "x" / "bert" / "seed7", [0.9] * 3)
    trainings = Study(sizes, "training_size", "dev").trainings([SIZE], ["bert"])
    assert trainings.query("seed == 7")["variant"].tolist() == ["x"]
    assert len(trainings) == 5


def test_a_study_that_is_not_there_says_how_to_run_it(sizes):
    with pytest.raises(FileNotFoundError) as error:
        Study(sizes, "loss_weighting", "dev")
    message = str(error.value)
    assert message.startswith("no study 'loss_weighting' on dev: expected ")
    assert "`studies` in the config and run `make figures`" in message
    assert "papermill notebooks/03_train.ipynb out.ipynb -p model gdmtl -p loss_weighting uncertainty" in message
    assert f"-p output_dir {sizes.folder}/studies/loss_weighting/<variant>/<system>/seed<k>" in message


def test_a_study_of_another_split_says_which(sizes):
    with pytest.raises(FileNotFoundError, match=r"no study 'training_size' on cast: .* found per_query.dev.csv; name"):
        Study(sizes, "training_size", "cast")


def test_a_system_that_is_not_in_the_study(sizes):
    with pytest.raises(FileNotFoundError, match="study 'training_size' has no mono on dev, only BERT, GDMTL; add it"):
        Study(sizes, "training_size", "dev").trainings([SIZE], ["bert", "mono"])


def test_a_training_without_settings_or_with_damaged_ones(sizes):
    settings = sizes.folder / "bert" / "seed1" / "settings.json"
    settings.write_text("{}")
    study = Study(sizes, "training_size", "dev")
    with pytest.raises(ValueError, match=re.escape(f"{settings} is damaged (KeyError('training')): train it anew")):
        study.trainings([SIZE])
    settings.unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(f"expected {settings}, which says what was trained")):
        study.trainings([SIZE])


def test_only_shared_seeds_are_compared(sizes):
    trainings = Study(sizes, "training_size", "dev").trainings([SIZE])
    kept, notes = studies.shared_seeds(trainings, [SIZE])
    assert set(kept["seed"]) == {0, 1} and len(kept) == 8
    assert notes == ["BERT: left out are the seeds that not every variant of every system has: 7"]
    few = trainings[(trainings["variant"] == "") ^ (trainings["seed"] == 1)]
    with pytest.raises(ValueError, match=r"found none \(bert 0\.5: 1; bert 1\.0: 0, 7; gdmtl 0\.5: 1; gdmtl 1\.0: 0\)"):
        studies.shared_seeds(few, [SIZE])


def test_what_else_differs_is_named(sizes):
    study = Study(sizes, "training_size", "dev")
    assert studies.other_differences(study.trainings([SIZE]), [SIZE]) == []
    home = sizes.folder / "studies" / "training_size" / "long" / "gdmtl" / "seed0"
    write_training(home, [0.5] * 3, collection="d", epochs=12, **{SIZE: 0.25})
    notes = studies.other_differences(Study(sizes, "training_size", "dev").trainings([SIZE]), [SIZE])
    assert notes == ["GDMTL: trainings differ in epochs, collection too, not only in what is studied"]


def test_how_many_queries_a_share_is():
    """Four queries have something relevant: a half of them is two, an eighth rounds to none and one is kept."""
    qrels = pd.DataFrame({"query_id": list("aabcde"), "doc_id": "d", "relevance": [1, 2, 1, 1, 1, 0]})
    assert [studies.training_queries(qrels, share) for share in (0.125, 0.5, 1.0)] == [1, 2, 4]


def test_training_size(sizes):
    """On a half: BERT's seeds reach .3 and .5, GDMTL's .6 and .6; means over seeds .4 and .6, spreads sqrt(.02) and 0.
    The differences are .3 and .1, their spread sqrt(.02); query by query the mean difference is .2, without doubt."""
    study = Study(sizes, "training_size", "dev")
    trainings, _ = studies.shared_seeds(study.trainings([SIZE]), [SIZE])
    table = studies.training_size(study, trainings, "bert", "RR@10")
    assert table["share"].tolist() == [0.5, 0.5, 1.0, 1.0] and table["system"].tolist() == ["bert", "gdmtl"] * 2
    assert table["seeds"].tolist() == [2] * 4
    assert table["mean"].tolist() == pytest.approx([0.4, 0.6, 0.5, 0.5])
    assert table["spread"].tolist() == pytest.approx([0.02**0.5, 0, 0, 0])
    half, full = (table[(table["share"] == share) & (table["system"] == "gdmtl")].iloc[0] for share in (0.5, 1.0))
    assert half[["difference", "low", "high"]].tolist() == pytest.approx([0.2] * 3)
    assert half["difference_spread"] == pytest.approx(0.02**0.5) and half["mark"] == "▲"
    assert full["difference"] == 0 and full["p_corrected"] == 1 and full["mark"] == ""
    assert table.loc[table["system"] == "bert", ["p", "difference_spread"]].isna().all(axis=None)
    halved = studies.training_size(study, trainings, "bert", "nDCG@10")
    assert halved["mean"].tolist() == pytest.approx([0.2, 0.3, 0.25, 0.25])


def test_training_size_corrects_over_the_whole_table(sizes):
    """Per query, GDMTL gains .1, .2, .6 with either seed on a half and .1, .2, .61 on all: two p of about .2, and
    Holm doubles the smaller one."""
    for seed in (0, 1):
        half = sizes.folder / "studies" / "training_size" / "all-of-it"
        values = [0.2, 0.4, 0.3] if seed == 0 else [0.4, 0.6, 0.5]
        write_training(half / "gdmtl" / f"seed{seed}", np.add(values, [0.1, 0.2, 0.6]), **{SIZE: 0.5})
        write_training(sizes.folder / "gdmtl" / f"seed{seed}", np.add([0.5] * 3, [0.1, 0.2, 0.61]))
    study = Study(sizes, "training_size", "dev")
    trainings, _ = studies.shared_seeds(study.trainings([SIZE]), [SIZE])
    tested = studies.training_size(study, trainings, "bert", "RR@10").query("system == 'gdmtl'")
    smaller, larger = sorted(tested["p"])
    assert 0.15 < smaller < larger < 0.25
    assert tested["p_corrected"].tolist() == pytest.approx([2 * smaller] * 2)


def test_training_size_needs_the_baseline_on_every_share(sizes):
    study = Study(sizes, "training_size", "dev")
    trainings = study.trainings([SIZE]).query("system == 'gdmtl' or variant == ''")
    with pytest.raises(ValueError, match="expected BERT on 50.0% of the training queries, found none; train it"):
        studies.training_size(study, trainings, "bert", "RR@10")
    with pytest.raises(ValueError, match="systems: expected bert among them, found gdmtl; add it"):
        studies.training_size(study, study.trainings([SIZE], ["gdmtl"]), "bert", "RR@10")


def test_trainings_measured_on_different_queries_have_no_mean(sizes):
    write_training(sizes.folder / "bert" / "seed1", [0.5, 0.5])
    study = Study(sizes, "training_size", "dev")
    own = study.trainings([SIZE], ["bert"]).query("variant == ''")
    with pytest.raises(ValueError, match="expected the RR@10 of the same queries from every training of bert, found"):
        study.mean_values(own, "RR@10")
    with pytest.raises(ValueError, match="expected the RR@5 of the same queries"):
        study.mean_values(own.query("seed != 1"), "RR@5")


def test_by_steps_has_a_row_for_each_epoch_of_a_training_that_was_validated(sizes):
    assert studies.by_steps(sizes, ["bert"]).empty
    rows = pd.DataFrame({"epoch": [0, 1], "step": [9, 19], "measure": "RR@10", "value": [0.4, 0.5]})
    for seed in (0, 7):
        rows.to_csv(sizes.home("bert", seed) / "validation.csv", index=False)
    table = studies.by_steps(sizes, ["bert", "gdmtl"])
    assert table.columns.tolist() == ["system", "seed", "steps", "measure", "value"]
    assert table[["system", "seed", "steps", "value"]].values.tolist() == [
        ["bert", "0", 10, 0.4], ["bert", "0", 20, 0.5], ["bert", "7", 10, 0.4], ["bert", "7", 20, 0.5],
    ]  # fmt: skip


def history(last, sigma=None):
    """Two epochs of two steps; the last one's ranking losses are `last` and `last` + .2, so their mean last + .1."""
    table = {"epoch": [0, 0, 1, 1], "step": [0, 1, 2, 3], "rank_loss": [1.0, 1.0, last, last + 0.2]}
    table["query_generation_loss"] = [9.0, 8.0, 7.0, 5.0]
    if sigma is not None:
        table |= {"sigma2_rank": [1.0, 0.9, 0.8, 0.7], "sigma2_query_generation": [1.0, 1.0, sigma, sigma]}
    return table


def test_variants_and_seeds_that_the_config_does_not_have_are_left_out(sizes, tmp_path):
    """As another sweep into the same folder has left them."""
    write_training(tmp_path / "studies" / "training_size" / "old" / "bert" / "seed0", [0.1] * 3, **{SIZE: 0.1})
    study = {"systems": ["bert", "gdmtl"], "seeds": [1], "variants": {"all-of-it": {}}}
    (tmp_path / "config.json").write_text(json.dumps({"seeds": [0, 1], "studies": {"training_size": study}}))
    with pytest.warns(UserWarning, match="whose config has other seeds: bert/seed"):
        found = Study(Results(tmp_path), "training_size", "dev")
    assert list(found.variants) == ["all-of-it"]
    trainings = found.trainings([SIZE])
    assert set(trainings["seed"][trainings["variant"] == "all-of-it"]) == {1} and 7 not in set(trainings["seed"])


@pytest.fixture
def weightings(tmp_path):
    """GDMTL with learned weights, with fixed ones of .5 and, as the config's own, of .1; BERT beside it."""
    study = tmp_path / "studies" / "loss_weighting"
    for seed in (0, 1):
        fixed = {"loss_weighting": 0.5, "generation_head_warmup_steps": 0}
        write_training(study / "a" / "gdmtl" / f"seed{seed}", [0.2 + 0.2 * seed] * 2, history(0.3), **fixed)
        for steps, name in ((0, "b"), (100, "c")):
            learned = {"loss_weighting": "uncertainty", "generation_head_warmup_steps": steps}
            home = study / name / "gdmtl" / f"seed{seed}"
            write_training(home, [0.6, 0.8], history(0.1 + seed, sigma=2.0 + seed + steps), **learned)
        write_training(tmp_path / "gdmtl" / f"seed{seed}", [0.1, 0.1], history(0.0))
        write_training(tmp_path / "bert" / f"seed{seed}", [0.5, 0.5 + 0.2 * seed], {"epoch": [0], "rank_loss": [0.4]})
    return Study(Results(tmp_path), "loss_weighting", "dev")


def test_loss_weighting(weightings):
    trainings = weightings.trainings(WEIGHTING, ["gdmtl"])
    reference = weightings.own_trainings("bert")
    table = studies.loss_weighting(weightings, trainings, reference, ["RR@10", "nDCG@10"])
    assert table.index.tolist() == [
        ("ranking alone (BERT)", ""), ("learned (Eq. 6)", "0"), ("learned (Eq. 6)", "100"), ("fixed at 0.1 (Eq. 2)", "0"),
        ("fixed at 0.5 (Eq. 2)", "0"),
    ]  # fmt: skip
    assert table["seeds"].tolist() == [2] * 5
    assert table["MRR@10"].tolist() == pytest.approx([0.55, 0.7, 0.7, 0.1, 0.3])
    assert table["spread"].tolist() == pytest.approx([0.1 / 2**0.5, 0, 0, 0, 0.2 / 2**0.5])
    assert table["each seed"].tolist() == ["0.500, 0.600", "0.700, 0.700", "0.700, 0.700", "0.100, 0.100", "0.200, 0.400"]
    assert table["NDCG@10"].tolist() == pytest.approx([0.275, 0.35, 0.35, 0.05, 0.15])
    assert table["ranking loss"].tolist() == pytest.approx([0.4, 0.7, 0.7, 0.1, 0.4])
    assert table["query generation loss"].tolist() == pytest.approx([np.nan, 6, 6, 6, 6], nan_ok=True)


def test_learned_sigmas_are_means_over_seeds(weightings):
    sigmas = studies.learned_sigmas(weightings, weightings.trainings(WEIGHTING))
    assert len(sigmas) == 2 * 2 * 4
    last = sigmas[sigmas["step"] == 3].set_index(["steps", "task"])["sigma2"]
    assert last.to_dict() == pytest.approx(
        {(0, "rank"): 0.7, (0, "query_generation"): 2.5, (100, "rank"): 0.7, (100, "query_generation"): 102.5}
    )
    fixed = weightings.trainings(WEIGHTING).query("loss_weighting == 0.5")
    assert studies.learned_sigmas(weightings, fixed).empty


def test_the_reference_has_to_be_there(weightings):
    with pytest.raises(FileNotFoundError, match="mono has no per_query.dev.csv"):
        weightings.own_trainings("mono")


@pytest.fixture
def chosen(tmp_path):
    """BERT and GDMTL by default, without clipping, and GDMTL with the [MASK] expansion, which BERT does not have.

    By default BERT has (.2, .4) with seed 0 and (.4, .6) with seed 1, GDMTL .5 everywhere. Without clipping BERT gains
    (.1, .3) with either seed, GDMTL (.2, .2) with seed 0 and nothing with seed 1. The expansion takes (.1, .3) of
    seed 0's.
    """
    bert, study = {0: [0.2, 0.4], 1: [0.4, 0.6]}, tmp_path / "studies" / "choices"
    for seed, gain in ((0, 0.2), (1, 0.0)):
        write_training(tmp_path / "bert" / f"seed{seed}", bert[seed])
        write_training(tmp_path / "gdmtl" / f"seed{seed}", [0.5, 0.5])
        write_training(study / "not_clipped" / "bert" / f"seed{seed}", np.add(bert[seed], [0.1, 0.3]))
        write_training(study / "not_clipped" / "gdmtl" / f"seed{seed}", [0.5 + gain] * 2)
    write_training(study / "mlm" / "gdmtl" / "seed0", [0.4, 0.2])
    return Results(tmp_path)


def test_choices(chosen):
    """Of generating's gain over BERT, clipping's end changes (.1, -.1) - (.1, .3) = (0, -.2) on means over seeds, by seed
    (.2, .2) - (.1, .3) = 0 on average and -.2. Of the mean over seeds of GDMTL it changes .1 on either query, without doubt."""
    table = studies.choices(Study(chosen, "choices", "dev"), "RR@10")
    assert table[["choice", "system", "twin", "seeds"]].values.tolist() == [
        ["not_clipped", "bert", "", 2], ["not_clipped", "gdmtl", "", 2], ["not_clipped", "gdmtl", "bert", 2],
        ["mlm", "gdmtl", "", 1], ["mlm", "gdmtl", "bert", 1],
    ]  # fmt: skip
    assert table["difference"].tolist() == pytest.approx([0.2, 0.1, -0.1, -0.2, -0.2])
    assert table["by_seed"].explode().tolist() == pytest.approx([0.2, 0.2, 0.2, 0, 0, -0.2, -0.2, -0.2])
    assert table.loc[1, ["low", "high", "p", "p_corrected"]].tolist() == pytest.approx([0.1, 0.1, 0, 0])
    assert table["mark"].tolist() == ["", "▲", "", "", ""]
    # Two queries, (.1, .3): the t-quantile of one degree of freedom, 12.706, times a standard error of .1.
    assert table.loc[0, ["low", "high"]].tolist() == pytest.approx([0.2 - 1.2706, 0.2 + 1.2706], abs=1e-4)
    assert table.loc[0, "p_corrected"] == pytest.approx(2 * table.loc[0, "p"])  # of three tests; the smallest is the other's


def test_of_a_twin_that_is_planned_and_not_there_yet_nothing_is_said(chosen):
    """Nor is its change taken to be 0, as that of a twin which the choice does not concern."""
    variants = {"not_clipped": {"bert": {}, "gdmtl": {}}, "mlm": {"gdmtl": {}}}
    chosen.config = {"studies": {"choices": {"variants": variants}}}
    shutil.rmtree(chosen.folder / "studies" / "choices" / "not_clipped" / "bert")
    write_training(chosen.folder / "studies" / "choices" / "heads" / "bert" / "seed0", [0.5, 0.7])  # else the study had no BERT
    chosen.config["studies"]["choices"]["variants"]["heads"] = {"bert": {}}
    table = studies.choices(Study(chosen, "choices", "dev"), "RR@10")
    assert table[["choice", "system", "twin"]].values.tolist() == [
        ["heads", "bert", ""], ["not_clipped", "gdmtl", ""], ["mlm", "gdmtl", ""], ["mlm", "gdmtl", "bert"],
    ]  # fmt: skip


def test_a_twin_whose_variant_is_its_own_training_stands_for_itself(chosen):
    variants = {"not_clipped": {"bert": {"max_gradient_norm": None}, "gdmtl": {"max_gradient_norm": None}}}
    own = {"bert": {"max_gradient_norm": None}, "gdmtl": {}}
    chosen.config = {"studies": {"choices": {"variants": variants | {"mlm": {"gdmtl": {}}, "heads": {"bert": {}}}}}, "parameters": own}
    shutil.rmtree(chosen.folder / "studies" / "choices" / "not_clipped" / "bert")
    write_training(chosen.folder / "studies" / "choices" / "heads" / "bert" / "seed0", [0.5, 0.7])
    table = studies.choices(Study(chosen, "choices", "dev"), "RR@10")
    assert ["not_clipped", "gdmtl", "bert"] in table[["choice", "system", "twin"]].values.tolist()


def test_a_measure_that_there_is_not_is_named_with_those_that_there_are(sizes):
    study = Study(sizes, "training_size", "dev")
    with pytest.raises(ValueError, match="^unknown measure 'MRR@10'.*: there are values of RR@10"):
        study.means(study.trainings([studies.SIZE]), "MRR@10")


def test_the_denoised_start_of_the_lowest_seed_that_the_config_has(tmp_path):
    for name in ("steps400_seed10", "steps400_seed2", "steps40_seed1"):
        (tmp_path / "denoised" / name).mkdir(parents=True)
    results = Results(tmp_path)
    assert studies.denoised_folder(results, 400).name == "steps400_seed2"
    assert studies.denoised_folder(results, 400, 10).name == "steps400_seed10"
    assert studies.denoised_folder(Results(tmp_path, seeds=[7, 10]), 400).name == "steps400_seed10"
    with pytest.raises(FileNotFoundError, match="no denoised start .*steps400_seed3: run `make figures`"):
        studies.denoised_folder(results, 400, 3)
    with pytest.raises(FileNotFoundError, match="no denoised start .*steps500_seed<k>: run"):
        studies.denoised_folder(results, 500)


def test_choices_need_the_same_seeds_and_queries(chosen):
    write_training(chosen.folder / "studies" / "choices" / "mlm" / "gdmtl" / "seed0", [0.4, 0.2, 0.1])
    with pytest.raises(ValueError, match="mlm, GDMTL, seed 0: expected the RR@10 of the queries that the config's own training"):
        studies.choices(Study(chosen, "choices", "dev"), "RR@10")
    write_training(chosen.folder / "studies" / "choices" / "heads" / "gdmtl" / "seed9", [0.4, 0.2])
    with pytest.raises(ValueError, match="heads: expected a seed of GDMTL that the config's own trainings share; train one"):
        studies.choices(Study(chosen, "choices", "dev"), "RR@10")
