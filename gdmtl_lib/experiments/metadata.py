"""What a run says of itself: a YAML file beside it, in the schema of ir_metadata (Breuer, Keller and Schaer, 2022).

The run itself stays plain TREC, which every tool reads.
"""

import os
import platform
from collections.abc import Mapping
from pathlib import Path

import yaml

from gdmtl_lib.data.files import write_lines
from gdmtl_lib.data.provenance import versions
from gdmtl_lib.systems import FIRST_STAGE, LABELS

_LIBRARIES = ("torch", "transformers", "ir-measures")


def metadata_path(run: str | os.PathLike) -> Path:
    """Where the metadata of a run lie: `run.dev.trec.gz` has `run.dev.ir-metadata.yml` beside it."""
    run = Path(run)
    return run.with_name(f"{run.name.removesuffix('.gz').rpartition('.')[0] or run.name}.ir-metadata.yml")


def write_metadata(run: str | os.PathLike, system: str, collection: str | None = None, /, **first_stage) -> None:
    """Write what a run was made with, on and by.

    run: its file. system: who made it, a name or a label. collection: what was searched, as `load_collection` takes it.
    first_stage: as for `first_stage_candidates`, which proposed what a system re-ranked.
    """
    given = {key: value for key, value in first_stage.items() if value is not None}
    method = given.pop("run", "org.apache.lucene.search.similarities.BM25Similarity")  # a run that is there, or BM25
    stages: list[Mapping] = [{"name": FIRST_STAGE, "method": str(method), **given}]
    if system != FIRST_STAGE:
        stages.append({"name": system, "method": f"cross-encoder {LABELS[system]}", "reranks": FIRST_STAGE})
    found = {"name": collection}
    if collection and collection.startswith("irds:"):
        found["ir_datasets"] = f"https://ir-datasets.com/{collection.removeprefix('irds:').partition('/')[0]}"
    content = {
        "tag": system,
        "platform": {
            "hardware": {"cpu": {"architecture": platform.machine(), "number of cores": os.cpu_count()}},
            "operating system": {"kernel": f"{platform.system()} {platform.release()}"},
            "software": {
                "libraries": {"python": _listed(versions(_LIBRARIES))},
                "retrieval toolkit": _listed(versions(("pyserini",)))[1:],
            },
        },
        "implementation": {"source": {"lang": ["python"]}},
        "method": {"automatic": True, "score ties": "by doc_id, descending, as trec_eval", "retrieval": stages},
    } | ({"data": {"test collection": found}} if collection else {})
    write_lines(metadata_path(run), [yaml.safe_dump(content, sort_keys=False, allow_unicode=True)])


def _listed(found: Mapping[str, str]) -> list[str]:
    return [f"{name}=={version}" for name, version in found.items()]
