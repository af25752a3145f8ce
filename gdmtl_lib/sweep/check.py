"""`python -m gdmtl_lib.sweep.check <config>.yaml`: what a sweep lacks here, in one list with the command for each, and
what it will take of this machine. Nothing is downloaded, trained or written."""

import argparse
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager
from itertools import chain
from pathlib import Path

from gdmtl_lib.backbones.gpus import visible_gpus
from gdmtl_lib.data.bm25 import java
from gdmtl_lib.data.collection import load_collection
from gdmtl_lib.evaluation.comparison import detectable_difference
from gdmtl_lib.experiments.notebook import notebook_parameters

from .config import TRAINING, Config, read_config, read_yaml
from .costs import GPU_EFFICIENCY, GPU_RATE, Costs, busy, in_words, parameters_of, speed
from .jobs import Job, lacking_weights, notebook_of, plan, without_answers
from .trainings import all_trainings, first_stage_inputs


def missing(config: Config) -> Iterator[str]:
    """A sentence for each thing that is not here, with what to do."""

    def refusal(words: str, needed: Callable[[], object]) -> Iterator[str]:
        try:
            needed()
        except (OSError, ValueError) as error:
            yield f"{words}: {error}"

    if config.runs:  # whose files read_config and the plan look at
        yield from refusal("runs", lambda: plan(config))
        return
    unopened = list(refusal("data", lambda: load_collection(config.collection)))
    yield from unopened
    if not unopened:
        collection = load_collection(config.collection)
        for split in (config.train_split, *config.splits):
            yield from refusal("data", lambda: (collection.queries(split), collection.qrels(split)))
        if answers := without_answers(config, collection):
            yield f"answers for {answers}"
    names = [config.collection, *(transfer["collection"] for transfer in config.transfer)]
    of_irds = [name[name.index("irds:"):] for name in names if "irds:" in name]  # of rotations, what they are made of
    passages = (refusal("passages", lambda: next(load_collection(name).passages())) for name in of_irds)
    yield from dict.fromkeys(chain.from_iterable(passages))  # each once
    for transfer in config.transfer:
        for sentence in refusal("data for the transfer", lambda: load_collection(transfer["collection"]).qrels(transfer["split"])):
            yield f"{sentence}; or leave it out: --config 'transfer=[]'"
    yield from refusal("first stage", lambda: first_stage_inputs(config))
    every = all_trainings(config)
    yield from (f"weights of {systems}: {sentence}" for systems, sentence in lacking_weights(every))
    yield from refusal("Java", java)
    processes, gpus = max(training.given.get("processes", 1) for training in every), len(visible_gpus())
    if gpus and processes > gpus:
        yield f"GPUs: the config asks for {processes} processes a training, and {gpus} are here; --config gives fewer"


def takes(config: Config, jobs: list[Job]) -> Iterator[str]:
    """What is left to do, and what it takes of this machine: hours, disk, memory, and what the queries can show."""
    undone = [job for job in jobs if not job.is_done()]
    kinds = {kind: [job.seconds for job in undone if job.kind == kind] for kind in dict.fromkeys(job.kind for job in undone)}
    rows = [f"{len(seconds)} x {kind} ({in_words(sum(seconds))})" for kind, seconds in kinds.items()]
    gpus = len(visible_gpus())
    at_once = f"{gpus} GPUs" if gpus else f"{os.cpu_count()} cores, {speed() / 1e9:,.0f} GFLOP/s in a training{busy()}, no GPU"
    yield f"to do: {', '.join(rows) or 'nothing'}; {in_words(sum(map(sum, kinds.values())) / max(1, gpus))} on {at_once}"
    if config.runs:
        return
    trained = [job.given["training"] for job in undone if job.kind == "train"]
    weights = sum(4 * parameters_of(each["system"], *map(each["given"].get, ("checkpoint", "layers"))) for each in trained)
    collection = load_collection(config.collection)
    pairs = sum(len(collection.queries(split)) for split in config.splits) * config.depth
    ranked = 12 * pairs * (1 + sum(job.kind in ("train", "rerank") for job in undone))
    # A training holds its weights, two moments and the kept epoch; an index is about half of the texts it is made of.
    needed = 2 * weights + ranked + 150 * collection.passage_count()
    largest = max((job.memory for job in undone), default=0)
    free = shutil.disk_usage(next(place for place in (Path(config.folder), *Path(config.folder).parents) if place.exists())).free
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
    for what, wanted, there in (("disk", needed / 2**30, free / 2**30), ("memory of the largest job", largest / 2**10, memory / 2**10)):
        enough = "" if wanted < there else ": NOT ENOUGH"
        yield f"{what}: about {wanted:,.1f} GB, {there:,.1f} GB are here{enough}"
    for split in config.splits:
        queries = len(collection.qrels(split)["query_id"].unique())
        if queries > 1:
            seen = detectable_difference(queries, len(config.seeds))
            seeds = f"{len(config.seeds)} seed{'s' * (len(config.seeds) > 1)}"
            yield f"{split}: {queries:,} queries and {seeds} show a true difference in MRR@10 of {seen:.3f} four times in five"


def published(config: Config) -> Iterator[str]:
    """What it takes where the data are not here yet, by the sizes that MS MARCO is published with."""
    if "msmarco-passage" not in config.collection:
        yield "How long it takes is calculated once the data are here."
        return
    parameters = notebook_parameters(notebook_of(config, TRAINING))
    costs = Costs(8_841_823, 76, 11, {name: default for name, (_, default) in parameters.items()})
    pairs = 532_751, 6_980 * config.depth
    operations = sum(costs.training(each.system, each.given, *pairs) for each in all_trainings(config))
    gpus = len(visible_gpus())
    where = f"{gpus} GPUs" if gpus else f"{os.cpu_count()} cores{busy()}, and no GPU"
    yield (
        f"trainings and re-ranking on MS MARCO as it is published: {operations:.1e} operations, {in_words(operations / speed() / max(1, gpus))} "
        f"on {where}; {in_words(operations / GPU_RATE / GPU_EFFICIENCY)} on one H200"
    )
    seconds = costs.searching(502_939 * (1 + config.depth // 200), index=True)
    yield f"BM25 over 502,939 training queries and an index of 8.8 million passages: {in_words(seconds)}; about 30 GB in all"


@contextmanager
def _nothing_fetched() -> Iterator[None]:
    """ir_datasets as without a network: it would fetch gigabytes of what it lacks, which is in the list with its command."""
    from ir_datasets.util import RequestsDownload

    def refuse(download: RequestsDownload) -> None:
        raise FileNotFoundError("a check fetches nothing")

    fetches, RequestsDownload.stream = RequestsDownload.stream, refuse
    logging.disable(logging.WARNING)  # what it announces, too
    try:
        yield
    finally:
        RequestsDownload.stream = fetches
        logging.disable(logging.NOTSET)


def as_snakemake_merges(config: Path, given: Sequence[str]) -> dict:
    """The values of a config, some of them KEY=VALUE instead, as `make figures` gets them: of a mapping, parts."""
    from snakemake.cli import parse_config  # slow to import
    from snakemake.settings.types import ConfigSettings

    if wrong := [each for each in given if not re.fullmatch(r"[a-zA-Z_]\w*=.*", each, re.DOTALL)]:
        raise ValueError(f"--config: expected KEY=VALUE, found {wrong[0]!r}")
    return dict(ConfigSettings(config=parse_config(list(given)), configfiles=[config]).overwrite_config)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m gdmtl_lib.sweep.check", description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--config", dest="values", nargs="*", default=[], metavar="KEY=VALUE", help="values that differ")
    chosen = parser.parse_args(arguments)
    try:
        read_yaml(chosen.config)  # of a key that stands twice Snakemake takes the last, without a word
        values = as_snakemake_merges(chosen.config, chosen.values)
        project = next((each for each in chosen.config.resolve().parents if (each / "notebooks").is_dir()), None)
        if project is None:
            raise ValueError(f"{chosen.config}: expected a config in papermill_runs/configs, beside whose notebooks it runs")
        config = read_config(values, chosen.config.stem, project)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    if visible_gpus():
        import torch  # noqa: F401, slow to import: the GPU's speed is measured with it
    with chdir(project), _nothing_fetched():
        lacking = list(dict.fromkeys(missing(config)))
        print(f"{config.name}: " + (f"{len(lacking)} missing" if lacking else "nothing is missing"))
        print(*(f"  - {sentence}" for sentence in lacking), sep="\n", end="\n" if lacking else "")
        try:
            taken = list(takes(config, plan(config)))
        except (OSError, ValueError):
            taken = list(published(config))
        print(*(f"  {sentence}" for sentence in taken), sep="\n")
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
