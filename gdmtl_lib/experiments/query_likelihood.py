"""What ranking with the likelihood brings and what it costs, beside the ranking head: the numbers of notebook 12."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch

from gdmtl_lib.backbones.devices import pick_device, pick_precision
from gdmtl_lib.data.collection import Collection
from gdmtl_lib.data.provenance import made_from
from gdmtl_lib.data.splits import nested_sample
from gdmtl_lib.data.trec import read_run, write_ordered
from gdmtl_lib.evaluation.comparison import compare
from gdmtl_lib.evaluation.measures import evaluate
from gdmtl_lib.inference.likelihood import cascade_run, choose_weight, interpolate, query_likelihood
from gdmtl_lib.inference.prefix_cache import encode_sources
from gdmtl_lib.inference.rerank import rerank
from .costs import count_flops
from .results import is_kept, record_of

BM25, LIKELIHOOD, RANKING, JOINT = "BM25", "likelihood", "ranking head", "joint"


def halves(query_ids: Sequence[str]) -> tuple[list[str], list[str]]:
    """Two halves of the queries, drawn by a hash of their ids: one to choose on, one to measure."""
    query_ids = list(query_ids)
    if len(query_ids) < 2:
        raise ValueError(f"expected at least two queries to divide, found {len(query_ids)}: choose another split")
    chosen = set(nested_sample(query_ids, len(query_ids) // 2))
    return [each for each in query_ids if each in chosen], [each for each in query_ids if each not in chosen]


def of_queries(frame: pd.DataFrame, query_ids: Sequence[str]) -> pd.DataFrame:
    """The rows of a run or of judgments that are of these queries."""
    return frame[frame["query_id"].isin(set(query_ids))].reset_index(drop=True)


def likelihood_run(
    home: Path, model, collection: Collection, candidates: pd.DataFrame, split: str, precision: str = "auto"
) -> tuple[pd.DataFrame, bool]:
    """The candidates by log P(query | passage), kept in the training's folder as `likelihood.<split>.trec.gz` and used
    again while model, candidates and texts are the same. Returns the run, and whether it was there."""
    path, note = home / f"likelihood.{split}.trec.gz", home / f"likelihood.{split}.json"
    precision = pick_precision(precision, pick_device())
    made = made_from(home / "checkpoint", collection, candidates, precision)
    if is_kept(note, made, path):
        return read_run(path), True
    run = query_likelihood(model, collection, candidates, precision=precision)
    write_ordered(run, path, tag=f"{model.system.name}-likelihood")
    record_of(note, made, path)
    return run, False


def ways_to_rank(
    runs: Mapping[str, pd.DataFrame], qrels: pd.DataFrame, depths: Sequence[int], measure: str, relevance_level: int = 1
) -> tuple[dict[str, pd.DataFrame], float]:
    """The runs of one half of the queries, those that combine two scores among them, and the joint score's weight,
    chosen on the other half. runs: of all queries, as `BM25`, `LIKELIHOOD` and `RANKING`. depths: of the cascades."""
    judged = [query for query in runs[BM25]["query_id"].unique() if query in set(qrels["query_id"])]
    choose_on, measure_on = halves(judged)
    seen = (of_queries(frame, choose_on) for frame in (runs[RANKING], runs[LIKELIHOOD], qrels))
    weight = choose_weight(*seen, measure=measure, relevance_level=relevance_level)
    ways = {name: of_queries(run, measure_on) for name, run in runs.items()}
    ways[JOINT] = interpolate(ways[RANKING], ways[LIKELIHOOD], weight)
    ways |= {cascade_name(depth): cascade_run(ways[LIKELIHOOD], ways[RANKING], depth) for depth in depths}
    return ways, weight


def cascade_name(depth: int) -> str:
    """How a cascade is called, by how many candidates of a query its ranking head reads."""
    return f"cascade, best {depth}"


def effectiveness_of(
    ways: Mapping[str, pd.DataFrame], qrels: pd.DataFrame, measure: str, relevance_level: int = 1
) -> pd.DataFrame:
    """Each way's mean with its interval against the ranking head, as `compare` returns it, on the queries of its run."""
    judged = of_queries(qrels, ways[RANKING]["query_id"].unique())
    values = {name: evaluate(run, judged, [measure], relevance_level) for name, run in ways.items()}
    return compare(values, baseline=RANKING)


def costs(model, collection: Collection, candidates: pd.DataFrame, depths: Sequence[int]) -> pd.DataFrame:
    """What a query costs each way, in floating-point operations, counted on some queries' candidates: a row a way,
    `BM25` without a cost: `way`, `gflop` (a query, nothing stored), `stored` (with the passages' states computed before,
    as far as the likelihood needs them)."""
    queries, how = candidates["query_id"].nunique(), dict(progress=False, device=next(model.parameters()).device.type)
    likelihood, likely = count_flops(model, lambda: query_likelihood(model, collection, candidates, **how))
    builder = model.input_builder()
    passages = builder.passage_tokens(collection.text(candidates["doc_id"].unique()))
    sources = [builder.query_generation(passage, []) for passage in passages]
    # Each by itself: a packed pass costs the same.
    encode = torch.inference_mode()(lambda: [encode_sources(model, [source]) for source in sources])
    _, encoding = count_flops(model, encode)

    def ranking(pairs):
        return count_flops(model, lambda: rerank(model, collection, pairs, **how))[1]

    flops = {BM25: 0, LIKELIHOOD: likely, RANKING: ranking(candidates)}
    flops[JOINT] = likely + flops[RANKING]
    flops |= {cascade_name(most): likely + ranking(likelihood[likelihood["rank"] <= most]) for most in depths}
    table = pd.DataFrame({"way": list(flops), "gflop": list(flops.values())})
    table["stored"] = table["gflop"] - encoding * ~table["way"].isin((BM25, RANKING))
    return table.assign(**{name: table[name] / queries / 1e9 for name in ("gflop", "stored")})


def with_verdicts(table: pd.DataFrame, costs: pd.DataFrame, tolerance: float) -> pd.DataFrame:
    """Effectiveness (from `effectiveness_of`) and cost (from `costs`) side by side, and what the interval of each
    difference to the ranking head says: `way, mean, difference, low, high, verdict, gflop, stored`.

    tolerance: a loss that one would not mind. Verdicts are `better`, `as good` (the interval excludes a loss of the
    tolerance), `worse` and, where the queries are too few, `cannot tell`.
    """
    table = table.rename(columns={"system": "way"}).merge(costs, on="way", validate="1:1")
    table["verdict"] = [
        "-" if way == RANKING else "better" if low > 0 else "as good" if low > -tolerance else "worse" if high < 0
        else "cannot tell"
        for way, low, high in zip(table["way"], table["low"], table["high"])
    ]  # fmt: skip
    return table[["way", "mean", "difference", "low", "high", "verdict", "gflop", "stored"]]


def advice(table: pd.DataFrame, tolerance: float, queries: int) -> list[str]:
    """When each way is the right choice, in sentences made of the numbers alone: a way is only advised where its
    interval excludes a loss that one would mind. table: from `with_verdicts`. queries: how many were measured."""
    ways = table.set_index("way")
    best, head = ways["mean"].idxmax(), ways.loc[RANKING]
    sentences = [f"Highest mean: {best}, {ways['mean'][best]:.3f}, at {ways['gflop'][best]:.1f} GFLOP a query."]
    for column, when in (("gflop", "nothing stored"), ("stored", "the passages' states stored")):
        cheaper = ways[ways[column] < head[column]]
        sure = cheaper[cheaper["verdict"].isin(("better", "as good"))]
        unsure = list(cheaper.index[cheaper["verdict"] == "cannot tell"])
        if len(sure):
            way = sure[column].idxmin()
            sentences.append(
                f"With {when}, the cheapest way that loses less than {tolerance:g}: {way}, {sure['mean'][way]:.3f} against "
                f"{head['mean']:.3f} (difference from {sure['low'][way]:+.3f} to {sure['high'][way]:+.3f}, 95%), "
                f"at {sure[column][way] / head['gflop']:.0%} of the ranking head's cost."
            )
        else:
            lose = "more" if (cheaper["high"] < -tolerance).all() else f"something, whether less {queries} queries cannot tell"
            found = f"{queries} queries cannot tell for {'; '.join(unsure)}" if unsure else f"all are shown to lose {lose}"
            sentences.append(f"With {when}, no cheaper way is sure to lose less than {tolerance:g}: {found}.")
    worse = list(ways.index[ways["verdict"] == "worse"])
    return [*sentences, f"Shown to be worse than the ranking head: {'; '.join(worse) or 'none'}."]
