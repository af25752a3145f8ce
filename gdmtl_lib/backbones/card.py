"""A model card: what stands in the README.md of a checkpoint, for people and for the hub."""

import re
from collections.abc import Mapping
from pathlib import Path

import yaml

LICENCES = {"bert-base-uncased": "apache-2.0", "bert-large-uncased": "apache-2.0", "facebook/bart-base": "apache-2.0"}
"""Of the paper's own checkpoints, whose folders may lack the file that says so."""


def describe_base(name: str | Path, folder: Path) -> dict[str, str]:
    """What a card says of the checkpoint that a model starts from: `name` (of a folder its own alone) and, where that
    is known, `license`."""
    name = Path(name).name if Path(name).is_dir() else str(name)
    licence = LICENCES.get(name)
    card = folder / "README.md"
    if card.is_file() and (front := re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8"), re.DOTALL)):
        try:
            licence = yaml.safe_load(front[1]).get("license", licence)
        except (yaml.YAMLError, AttributeError):  # somebody else's card, which may say anything
            pass
    return {"name": name} | ({"license": str(licence)} if licence else {})


def model_card(system, gdmtl: Mapping, about: Mapping) -> str:
    """The text of a card, Markdown after a YAML header.

    system: of `systems`. gdmtl: the configuration's own part. about: `base` as
    `describe_base` gives it; of a trained model also `trained`: `collection`, `queries`, `steps`, `settings` and,
    where there was validation, `measured`, rows of `measure`, `value`, `low`, `high`, `queries`.
    """
    base, trained = about.get("base", {}), about.get("trained", {})
    header = {
        "library_name": "transformers",
        "pipeline_tag": "text-ranking",
        "tags": ["gdmtl", "cross-encoder", "re-ranking", gdmtl["system"]],
        **({"license": base["license"]} if "license" in base else {}),
        **({"base_model": base["name"]} if "/" in base.get("name", "") or base.get("name") in LICENCES else {}),
        **({"datasets": [trained["collection"]]} if trained else {}),
    }
    measured = trained.get("measured", [])
    if measured:
        metrics = [{"type": row["measure"], "value": round(row["value"], 4)} for row in measured]
        task = {"type": "text-ranking", "name": "re-ranking of BM25's candidates"}
        data = {"type": "validation", "name": f"{trained['collection']}, validation queries"}
        header["model-index"] = [{"name": system.label, "results": [{"task": task, "dataset": data, "metrics": metrics}]}]
    lines = [
        f"# {system.label}", "",
        "A re-ranker of *Generalizing Discriminative Retrieval Models using Generative Tasks* (WWW 2021).", "",
        f"- starts from: {base.get('name', 'not known')}, licence: {base.get('license', 'not known')}",
    ]  # fmt: skip
    if trained:
        lines.append(f"- trained on: {trained['collection']}, {trained['queries']} queries, {trained['steps']} steps")
        lines.append("- settings: " + ", ".join(f"{name} {value}" for name, value in trained["settings"].items()))
    if measured:
        lines += ["", "| on validation queries | mean | 95% interval | queries |", "|---|---|---|---|"]
        lines += [
            f"| {row['measure']} | {row['value']:.4f} | {row['low']:.4f} to {row['high']:.4f} | {row['queries']} |"
            for row in measured
        ]
        lines += ["", "The epoch was chosen on these queries: on others expect less."]
    lines += ["", "## How to load it", "", "```python", "import gdmtl_lib as gdmtl", ""]
    lines += ['model = gdmtl.load_model("<folder>")', "scores = gdmtl.rerank_texts(model, query, passages)", "```"]
    if system.backbone == "encoder":
        said, pair = [
            "The ranking path is plain transformers, and opens in sentence-transformers. There the passage comes first",
            "and begins with `rank: `; `CrossEncoder.rank`, which puts the query first, ranks wrongly:",
        ], '("rank: " + passage, query)'  # fmt: skip
        if system.rank_layout == "query_first":
            said, pair = ["The ranking path is plain transformers, and opens in sentence-transformers:"], "(query, passage)"
        lines += [
            "", *said, "", "```python", "from sentence_transformers import CrossEncoder", "",
            f'scores = CrossEncoder("<folder>").predict([{pair} for passage in passages])', "```",
        ]  # fmt: skip
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n\n" + "\n".join(lines) + "\n"
