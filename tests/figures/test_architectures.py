import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from transformers import AutoTokenizer

from gdmtl_lib.figures import architectures as architecture_plots
from gdmtl_lib.inputs import InputBuilder
from gdmtl_lib.inside.interactions import ranking_attentions
from gdmtl_lib.systems import SYSTEMS


def texts_of(figure):
    return [text.get_text() for axis in figure.axes for text in axis.texts]


@pytest.fixture(scope="module")
def tokenizers(toy_bert_folder, toy_bart_folder):
    folders = {"encoder": toy_bert_folder, "encoder_decoder": toy_bart_folder}
    return {backbone: AutoTokenizer.from_pretrained(folder) for backbone, folder in folders.items()}


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_inputs_drawn_are_those_that_are_built(name, tokenizers):
    """Each text is one token of its own, so that a box stands for a token, and a prefix for as many as it has."""
    system = SYSTEMS[name]
    tokenizer = tokenizers[system.backbone]
    builder = InputBuilder(tokenizer, system, decoder_start_id=-9)
    texts = {"passage": -1, "query": -2, "answer": -3}
    for task in system.tasks:
        given = [[texts["passage"]], [texts["query"]]] + ([[texts["answer"]]] if task == "answer_generation" else [])
        sequence = getattr(builder, task)(*given)
        special = {"start": [-9], "[CLS]": [builder.first], "<s>": [builder.first], "[SEP]": [builder.end], "</s>": [builder.end]}
        prefix = {"rank:": "rank", "sum:": "query_generation", "answer:": "answer_generation"}
        drawn = {
            side: [
                token
                for box in boxes
                for token in (special.get(box) or ([texts[box]] if box in texts else builder.prefix_ids[prefix[box]]))
            ]
            for side, boxes in architecture_plots.inputs_of(system, task).items()
        }
        assert drawn == {"encoder": sequence.input_ids} | ({"decoder": sequence.decoder_ids} if sequence.decoder_ids else {})


def test_a_diagram_names_what_the_system_has():
    words = texts_of(architecture_plots.architectures(["gdmtl_plus"]))
    assert words.count("encoder layers") == 3 and words.count("mixed attention") == 2
    assert "bidirectional attention" in words and "decoder layers" not in words
    assert "ranking loss: hinge" in words and "answer generation loss: cross-entropy" in words
    assert any("sigma" in word for word in words)
    words = texts_of(architecture_plots.architectures(["mono", "bart_s"]))
    assert words.count("decoder layers") == 1 and words.count("cross-attention") == 1
    assert "ranking loss: cross-entropy of relevance" in words and "state of the last token" in words
    assert not any("sigma" in word for word in words)  # a single task needs no weights


def test_the_first_stage_cannot_be_drawn():
    with pytest.raises(ValueError, match="bm25 is the first stage and has no model"):
        architecture_plots.architectures(["bm25"])


def test_interactions_are_orange_where_the_texts_meet(tokenizers):
    attentions = {"bart_s": ranking_attentions("bart_s", tokenizers["encoder"], "ice water river", "old king")}
    figure = architecture_plots.interactions(attentions)
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert titles == [f"BART_S: {name}" for name in ("self-attention, encoder", "self-attention, decoder", "cross-attention")]
    orange = np.array(architecture_plots.to_rgb(architecture_plots._MEETS))
    counts = [int((axis.images[0].get_array() == orange).all(axis=-1).sum()) for axis in figure.axes]
    assert counts == [0, 0, 6]
    labels = figure.axes[2].get_yticklabels()
    assert [label.get_text() for label in labels] == ["[CLS]", "old", "king"]
    assert [label.get_weight() for label in labels] == ["normal", "bold", "bold"]


def costs(**changes):
    table = pd.DataFrame(
        {
            "system": ["bert", "gdmtl", "bart_s"], "mean": [0.50, 0.505, 0.40], "gflops": [1.0, 1.0, 0.6],
            "ranking_parameters": [100, 100, 400], "training_seconds": [60.0, 120.0, np.nan],
        }
    ).assign(low=lambda table: table["mean"] - 0.02, high=lambda table: table["mean"] + 0.02)  # fmt: skip
    return table.assign(**changes)


def test_cost_has_a_dot_for_each_system_where_its_cost_is_known():
    figure = architecture_plots.cost(costs(), "RR@10", first_stage=0.3)
    left, right = figure.axes
    assert left.get_xlabel() == "ranking a pair, GFLOPs" and left.get_ylabel() == "mean MRR@10"
    dots = left.collections[1]
    # BERT and GDMTL cost the same and stand side by side, 0.035 of the span apart.
    assert np.allclose(dots.get_offsets(), [[0.993, 0.5], [1.007, 0.505], [0.6, 0.4]])
    assert np.allclose(dots.get_sizes() / dots.get_sizes().max(), [0.25, 0.25, 1.0])
    assert np.ma.getmaskarray(right.collections[1].get_offsets())[:, 0].tolist() == [False, False, True]  # not known
    assert [text.get_text() for text in left.texts] == ["BM25"] and not right.texts
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["BERT", "GDMTL", "BART_S"]


def test_every_pair_has_its_interval_and_the_papers_beside():
    table = pd.DataFrame(
        {
            "measure": ["RR@10", "RR@10", "nDCG@10"], "baseline": "gdmtl_s", "system": ["gdmtl", "gdmtl_c", "gdmtl"],
            "difference": [0.02, -0.01, 0.5], "low": [0.01, -0.03, 0.4], "high": [0.03, 0.01, 0.6], "mark": ["▲", "", "▲"],
        }
    )  # fmt: skip
    [axis] = architecture_plots.pair_intervals(table, "RR@10").axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["GDMTL against GDMTL_S", "GDMTL_C against GDMTL_S"]
    ours, dots = axis.collections
    assert [segment[:, 0].tolist() for segment in ours.get_segments()] == [[0.01, 0.03], [-0.03, 0.01]]
    assert [text.get_text() for text in axis.texts] == ["▲", ""]
    with_paper = table.assign(**{"low (paper)": [0.0038, np.nan, np.nan], "high (paper)": [0.0171, np.nan, np.nan]})
    [axis] = architecture_plots.pair_intervals(with_paper, "RR@10").axes
    assert axis.collections[2].get_segments()[0][:, 0].tolist() == [0.0038, 0.0171]
    assert axis.get_legend().get_texts()[0].get_text() == "the paper's"


def test_cost_without_times_is_one_panel():
    figure = architecture_plots.cost(costs(training_seconds=np.nan)[:1], "nDCG@10")
    assert len(figure.axes) == 1 and plt.get_fignums() == []
