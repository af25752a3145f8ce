import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gdmtl_lib.experiments import costs
from gdmtl_lib.data.collection import load_collection
from gdmtl_lib.packing import pad
from gdmtl_lib.pretrained import build_model, load_model
from gdmtl_lib.experiments.results import Results

TOKENS = ["encoder_tokens", "decoder_tokens"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, toy_bert_folder, toy_bart_folder):
    """Results of toys: three systems, gdmtl with two seeds and their times."""
    folder = tmp_path_factory.mktemp("results")
    for system, toy in (("bert", toy_bert_folder), ("gdmtl", toy_bert_folder), ("gdmtl_s", toy_bart_folder), ("bart_c", toy_bart_folder)):
        build_model(system, checkpoint=toy).save_pretrained(folder / system / "seed0" / "checkpoint")
    (folder / "gdmtl" / "seed1").mkdir()
    for seed, seconds in ((0, [1.0, 3.0]), (1, [5.0, 5.0])):
        timing = pd.DataFrame({"step": [0, 1], "seconds": seconds, "tokens": [100, 300]})
        timing.to_csv(folder / "gdmtl" / f"seed{seed}" / "timing.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def pairs():
    return pd.DataFrame({"query": ["old king", "ice"], "passage": ["water river city", "food from the new north"]})


def checkpoint(folder, system):
    return folder / system / "seed0" / "checkpoint"


@pytest.mark.parametrize("system", ["bert", "gdmtl", "gdmtl_s"])
def test_parameters_are_those_of_the_model(checkpoints, system):
    model = load_model(checkpoint(checkpoints, system))
    counts = costs.parameter_counts(checkpoint(checkpoints, system))
    assert sum(counts.values()) == sum(parameter.numel() for parameter in model.parameters())
    assert counts["generation heads"] == sum(parameter.numel() for parameter in model.generation_heads.parameters())
    assert (counts["decoder"] > 0) == (system == "gdmtl_s")
    encoder = model.bert.encoder if system != "gdmtl_s" else model.model.encoder.layers
    assert counts["encoder"] == sum(parameter.numel() for parameter in encoder.parameters())


def test_a_weight_that_belongs_to_no_part_is_refused(tmp_path):
    from safetensors.numpy import save_file

    save_file({"lm_head.weight": np.zeros((2, 2), dtype=np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="expected the weights of a system of this library, found lm_head.weight"):
        costs.parameter_counts(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no weights: expected .*model.safetensors; train"):
        costs.parameter_counts(tmp_path / "none")


def layer_flops(length, d, f):
    """Queries, keys, values and output; scores and mixing; feed-forward."""
    return 8 * length * d * d + 4 * length * length * d + 4 * length * d * f


@pytest.mark.parametrize("system", ["bert", "gdmtl_s", "bart_c"])
@pytest.mark.parametrize(("words", "asked"), [(6, 2), (60, 9)])
def test_operations_are_those_of_the_formula(checkpoints, system, words, asked):
    """Two layers, d = 32, f = 64; the head is 2 d^2 + 2 d. A decoder's layer adds cross-attention: queries and output,
    keys and values, scores and mixing. Counted on a device that computes nothing, and by the polynomial."""
    model = load_model(checkpoint(checkpoints, system)).to("meta")
    builder = model.input_builder()
    [passage], [query] = builder.passage_tokens(["water " * words]), builder.tokens(["king " * asked])
    sequence = builder.rank(passage, query)
    s, t, d = len(sequence.input_ids), len(sequence.decoder_ids), 32
    expected = 2 * layer_flops(s, d, 64) + 2 * d * d + 2 * d
    if t:
        expected += 2 * (layer_flops(t, d, 64) + 4 * t * d * d + 4 * s * d * d + 4 * t * s * d)
    assert costs.pair_flops(model, sequence) == expected == costs.ranking_flops(model)(s, t)


@pytest.mark.parametrize("system", ["bert", "gdmtl_s"])
def test_operations_are_those_that_torch_counts(checkpoints, system):
    """Of one pass over one padded pair, with attention spelt out as products. transformers' BertModel runs the pooler
    once more, on what nobody reads: 2 d^2, d = 32."""
    model = load_model(checkpoint(checkpoints, system))
    builder = model.input_builder()
    [passage], [query] = builder.passage_tokens(["water river city from the north"]), builder.tokens(["old king"])
    sequence = builder.rank(passage, query)
    batch = pad([sequence], model.tokenizer.pad_token_id)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model(batch)
    unread = 2 * 32 * 32 if system == "bert" else 0
    assert counter.get_total_flops() == costs.pair_flops(model, sequence) + unread


class Layer(torch.nn.Linear):
    """7 rows from 3 to 5 numbers, then attention of one head of 5 among them."""

    def run(self):
        with torch.inference_mode():
            states = self(torch.ones(7, 3))[None, None]
            mask = torch.ones(1, 1, 7, 7, dtype=torch.bool)
            return torch.nn.functional.scaled_dot_product_attention(states, states, states, mask)


def test_products_and_attention_are_counted():
    """2 * 7 * 3 * 5 of the layer; 2 * 7 * 7 * 5 for the attention's weights and as much for its values."""
    layer = Layer(3, 5)
    result, flops = costs.count_flops(layer, layer.run)
    assert result.shape == (1, 1, 7, 5) and flops == 210 + 2 * 490
    assert all(parameter.requires_grad for parameter in layer.parameters())


def test_parameters_learn_on_after_an_error():
    layer = Layer(3, 5)
    layer.bias.requires_grad_(False)
    with pytest.raises(ZeroDivisionError):
        costs.count_flops(layer, lambda: 1 / 0)
    assert layer.weight.requires_grad and not layer.bias.requires_grad


def test_lengths_are_those_of_the_systems_inputs(checkpoints, pairs):
    """[CLS] rank : and two [SEP] are five; both pairs have five words and six."""
    assert [costs.ranking_cost(checkpoint(checkpoints, "bert"), pairs)[name] for name in TOKENS] == [10.5, 0.0]
    both = costs.ranking_cost(checkpoint(checkpoints, "bart_c"), pairs)
    assert both["encoder_tokens"] == both["decoder_tokens"]
    separate = costs.ranking_cost(checkpoint(checkpoints, "gdmtl_s"), pairs)
    assert separate["decoder_tokens"] < separate["encoder_tokens"] < both["encoder_tokens"]
    assert separate["gflops"] < both["gflops"]


def test_a_trainings_time(checkpoints, tmp_path):
    assert costs.training_cost(checkpoints / "gdmtl" / "seed0") == {"training_seconds": 4.0, "tokens_per_second": 100.0}
    assert all(np.isnan(value) for value in costs.training_cost(tmp_path).values())


def test_costs_of_systems(checkpoints, pairs):
    table = costs.system_costs(Results(checkpoints), ["bm25", "bert", "gdmtl", "gdmtl_c"], pairs).set_index("system")
    assert list(table.index) == ["bert", "gdmtl"]  # BM25 has no model, and gdmtl_c none here
    assert table.loc["gdmtl", "ranking_parameters"] == table.loc["bert", "ranking_parameters"]
    assert table.loc["gdmtl", "parameters"] > table.loc["bert", "parameters"]
    assert table.loc["gdmtl", "gflops"] == table.loc["bert", "gflops"]  # generation heads rest
    assert table.loc["gdmtl", "training_seconds"] == 7.0 and table.loc["gdmtl", "tokens_per_second"] == 70.0
    assert np.isnan(table.loc["bert", "training_seconds"])
    assert list(costs.system_costs(Results(checkpoints), ["bm25"], pairs).columns)[0] == "system"


def test_costs_beside_what_is_reached():
    """Values 0, 0.5 and 1: mean 0.5, standard deviation 0.5, t of two degrees of freedom 4.3027."""
    values = pd.DataFrame({"query_id": list("abc"), "measure": "RR@10", "value": [0.0, 0.5, 1.0]})
    other = values.assign(measure="nDCG@10", value=9.0)
    table = costs.with_effectiveness(pd.DataFrame({"system": ["bert"]}), {"bert": pd.concat([values, other])}, "RR@10")
    margin = 4.30265 * 0.5 / 3**0.5
    assert table[["mean", "low", "high"]].to_numpy()[0] == pytest.approx([0.5, 0.5 - margin, 0.5 + margin], abs=1e-5)
    one = costs.with_effectiveness(pd.DataFrame({"system": ["bert"]}), {"bert": values[:1]}, "RR@10")
    assert one["mean"][0] == 0.0 and np.isnan(one["low"][0])


def test_pairs_are_taken_evenly_and_reranked(checkpoints):
    collection = load_collection("sample")
    query, docs = collection.queries("dev")["query_id"][0], list(collection.doc_ids())[:9]
    candidates = pd.DataFrame({"query_id": query, "doc_id": docs})
    pairs = costs.sample_pairs(collection, candidates, count=3)
    assert pairs["doc_id"].tolist() == [docs[0], docs[4], docs[8]]
    assert pairs["passage"].tolist() == collection.text(pairs["doc_id"]) and len(set(pairs["query"])) == 1
    assert len(costs.sample_pairs(collection, candidates, count=100)) == 9
    assert costs.reranking_speed(checkpoint(checkpoints, "bert"), collection, pairs, device="cpu") > 0
