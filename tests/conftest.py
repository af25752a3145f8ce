"""What all tests share: no network, markers, and toy checkpoints that any text can be fed to."""

import os
import random

# Before any import of huggingface_hub, which reads it once.
os.environ["HF_HUB_OFFLINE"] = "1"

if "PYTEST_XDIST_WORKER" in os.environ:  # tests run side by side: threads of theirs would only get in the way
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import multiprocessing
import shutil
import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from gdmtl_lib.systems import SYSTEMS

# Two workers and a training share two cores: how long an example takes says nothing.
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")

# The limits of processor time are those of an idle machine; a busy host's cores were up to twice as slow.
PATIENCE = 2

# Files that take more than a quarter of a minute, the longest first.
LONGEST = [
    "notebooks/test_notebooks.py", "notebooks/test_rehearsal.py", "browser/test_browser.py", "training/test_loop.py",
    "trust/test_sweep.py", "sweep/test_runs.py", "figures/test_figures.py", "trust/test_load.py", "inference/test_processes.py",
    "trust/test_leak.py", "trust/test_fuzz.py", "trust/test_damage.py", "trust/test_scale.py", "trust/test_resume.py",
    "inference/test_rerank.py", "notebooks/test_hostile.py",
]  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, or two workers do not end together; and skip what this machine cannot run."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
    for item in items:
        if item.get_closest_marker("gpu"):
            import torch

            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        if item.get_closest_marker("browser") and shutil.which("chromium") is None:
            item.add_marker(pytest.mark.skip(reason="no chromium on the PATH"))


GENERATING = [name for name, system in SYSTEMS.items() if system.generative_tasks]
ALL_TOYS = [*SYSTEMS, *(f"{name} on BART" for name in SYSTEMS if SYSTEMS[name].backbone == "encoder_decoder")]

WORDS = (
    "rank sum answer the a an of in on at to is are was were and or by for with from what who where when why "
    "how many long water river city glacier ice blue old new first war king north south light year day food"
).split()


def hub_at(monkeypatch, port: int) -> None:
    """The hub is what answers on loopback, as if HF_ENDPOINT had been set before the start."""
    import huggingface_hub

    constants, endpoint = huggingface_hub.constants, f"http://127.0.0.1:{port}"
    template = endpoint + constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)


@pytest.fixture
def one_thread():
    """For timings, and for `in_a_child`: a fork of a process whose products threads share would wait for theirs."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def in_a_child(function: Callable[[], object]) -> multiprocessing.Process:
    """Start a function in a fork of this process, which has all modules loaded."""
    child = multiprocessing.get_context("fork").Process(target=function)
    child.start()
    return child


@pytest.fixture(scope="session", autouse=True)
def products_are_measured():
    """Which library multiplies, before a test gives this process another cache folder than the processes have that it starts."""
    from gdmtl_lib.backbones.devices import products_measured

    products_measured()


@pytest.fixture(autouse=True)
def known_systems():
    """The systems, tasks and losses that a test makes known are forgotten after it."""
    from gdmtl_lib.losses import LISTWISE
    from gdmtl_lib.systems import GENERATIVE_TASKS, LABELS, RANK_LOSSES, SYSTEMS, TASK_LABELS

    before = [(known, dict(known)) for known in (SYSTEMS, LABELS, GENERATIVE_TASKS, TASK_LABELS, RANK_LOSSES, LISTWISE)]
    yield
    for known, kept in before:
        known.clear()
        known.update(kept)


@pytest.fixture(scope="session")
def toy_bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BERT checkpoint with random weights: 2 layers, hidden 32, 4 heads, 154 word pieces, 512 positions."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("toy-bert")
    characters = string.ascii_lowercase + string.digits
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.punctuation, *characters]
    pieces += [f"##{character}" for character in characters]
    pieces += [word for word in WORDS if word not in pieces]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    BertTokenizer(vocab=vocabulary, model_max_length=512).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=512,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def toy_bart_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BART with random weights: 2 and 2 layers, hidden 32, 4 heads, 330 BPE tokens, 512 positions."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import BartConfig, BartModel, BartTokenizer

    folder = tmp_path_factory.mktemp("toy-bart")
    bpe = ByteLevelBPETokenizer()
    # The special tokens' order gives BART's own ids: bos 0, pad 1, eos 2.
    bpe.train_from_iterator(
        [" ".join(WORDS)] * 2,
        vocab_size=330,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        show_progress=False,
    )
    bpe.save_model(str(folder))
    BartTokenizer.from_pretrained(folder, model_max_length=512).save_pretrained(folder)
    config = BartConfig(
        vocab_size=bpe.get_vocab_size(),
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=512,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BartModel(config).save_pretrained(folder)
    return folder


def spread(model, factor: float, embeddings: float | None = None):
    """A toy model with larger weights: fresh ones attend almost evenly, and score different texts almost alike."""
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            parameter.data *= embeddings if embeddings and "embed" in name else factor
    return model


@pytest.fixture(scope="module")
def toys(toy_bert_folder, toy_bart_folder):
    """Every system on a toy checkpoint; the encoder-decoders also warm-started from the toy BERT. Weights as small as
    fresh ones make all states alike and the gradients of a pair cancel."""
    from gdmtl_lib.pretrained import build_model

    folders = [toy_bart_folder if name.endswith("on BART") else toy_bert_folder for name in ALL_TOYS]
    return {
        name: spread(build_model(name.split()[0], checkpoint=folder), 5) for name, folder in zip(ALL_TOYS, folders)
    }


def random_tokens(model, rng, shortest, longest):
    return [rng.randrange(5, model.config.vocab_size) for _ in range(rng.randint(shortest, longest))]


def random_sequences(model, rng, instances=4, longest=60):
    """The sequences of random instances, of many lengths, in the order training builds them."""
    builder, sequences = model.input_builder(max_length=64, target_length=16), []
    for _ in range(instances):
        query, answer = random_tokens(model, rng, 1, 12), random_tokens(model, rng, 1, 20)
        passages = [random_tokens(model, rng, 1, longest) for _ in range(2)]
        sequences += [builder.rank(passage, query) for passage in passages]
        if "query_generation" in model.system.tasks:
            sequences.append(builder.query_generation(passages[0], query))
        if "answer_generation" in model.system.tasks:
            sequences.append(builder.answer_generation(passages[0], query, answer))
    return sequences


def random_batches(model, batches, longest=60):
    """The generator and the sequences of batches of 1 to 8 instances, from one token to full length."""
    for seed in range(batches):
        rng = random.Random(seed)
        yield rng, random_sequences(model, rng, instances=rng.randint(1, 8), longest=rng.choice([1, 5, longest]))


def outputs(model, batch):
    """Scores, and the logits of each task, in fp32."""
    import torch

    with torch.inference_mode():
        output = model(batch)
    return [output.scores.float(), *(logits.float() for logits in output.logits.values())]


@pytest.fixture(scope="session")
def write_random_results() -> Callable[[Path, Mapping[str, Sequence[int | None]], Sequence[str]], None]:
    """Writes the results folder of a config on the sample without training: twenty passages a query, the relevant ones
    among them, with scores from a random generator; later systems give relevant passages more.

    Takes the folder, the seeds of each system ((None,) for BM25) and the splits.
    """

    def write(folder: Path, systems: Mapping[str, Sequence[int | None]], splits: Sequence[str]) -> None:
        import numpy as np
        import pandas as pd

        import gdmtl_lib as gdmtl
        from gdmtl_lib.evaluation.measures import write_values
        from gdmtl_lib.data.trec import canonical_order, write_run

        collection, generator = gdmtl.load_collection("sample"), np.random.default_rng(0)
        doc_ids = np.array(list(collection.doc_ids()))
        for split in splits:
            qrels = collection.qrels(split)
            pairs = qrels.loc[qrels["relevance"] > 0, ["query_id", "doc_id"]]
            relevant = set(pairs.itertuples(index=False, name=None))
            rows = {
                (query, doc)
                for query in qrels["query_id"].unique()
                for doc in generator.choice(doc_ids, 18, replace=False)
            }
            pairs = pd.DataFrame(sorted(rows | relevant), columns=["query_id", "doc_id"])
            grades = np.array([pair in relevant for pair in pairs.itertuples(index=False, name=None)], dtype=float)
            for strength, (system, seeds) in enumerate(systems.items(), start=1):
                for seed in seeds:
                    where = folder / system if seed is None else folder / system / f"seed{seed}"
                    run = canonical_order(pairs.assign(score=strength * grades + generator.normal(size=len(pairs))))
                    write_run(run, where / f"run.{split}.trec.gz")
                    write_values(gdmtl.evaluate(run, qrels), where / f"per_query.{split}.csv")

    return write


def as_matrix(spans, columns: int):
    """Who attends to whom, from the definition of a span: in a causal one the last row sees every column."""
    import torch

    rows = []
    for span in spans:
        assert span.start == len(rows)  # in order, every row once
        for row in range(span.start, span.end):
            last = span.key_end - (span.end - 1 - row) if span.causal else span.key_end
            rows.append([span.key_start <= column < last for column in range(columns)])
    return torch.tensor(rows)


@pytest.fixture(scope="session")
def tokenizers(toy_bert_folder, toy_bart_folder):
    from transformers import AutoTokenizer

    from gdmtl_lib.backbones.checkpoints import DEFAULT_CHECKPOINT, find_checkpoint

    return {
        "bert": AutoTokenizer.from_pretrained(toy_bert_folder),
        "bart": AutoTokenizer.from_pretrained(toy_bart_folder),
        "minilm": AutoTokenizer.from_pretrained(find_checkpoint(DEFAULT_CHECKPOINT)),
    }


@pytest.fixture(scope="session")
def builder_of(tokenizers):
    """The builder of a system on its family's toy tokenizer, or on another."""
    from gdmtl_lib.inputs import InputBuilder
    from gdmtl_lib.systems import SYSTEMS

    def make(name: str, family: str | None = None, **lengths):
        system = SYSTEMS[name]
        family = family or ("bert" if system.backbone == "encoder" else "bart")
        return InputBuilder(tokenizers[family], system, decoder_start_id=2, **lengths)

    return make


def plain_pack(sequences) -> dict:
    """What `pack` does for an encoder, token by token in lists: the oracle of its arrays, and what it is timed against."""
    ids, segments, positions, spans, read = [], [], [], [], []
    score_at, predict_at, targets = [], {}, {}
    for sequence in sequences:
        start = len(ids)
        ids += list(sequence.input_ids)
        segments += list(sequence.segment_ids)
        positions += [place for place in range(len(sequence.input_ids))]
        middle, end = start + sequence.source_length, len(ids)
        spans.append((start, middle, start, middle, False))
        if end > middle:
            spans.append((middle, end, start, end, True))
        if sequence.task == "rank":
            score_at.append(start + sequence.score_at)
            read.append(score_at[-1])
            continue
        for place, target in enumerate(sequence.targets):
            read.append(start + sequence.predict_from + place)
            predict_at.setdefault(sequence.task, []).append(read[-1])
            targets.setdefault(sequence.task, []).append(target)
    return dict(input_ids=ids, segment_ids=segments, position_ids=positions, spans=spans, score_at=score_at,
                predict_at=predict_at, targets=targets, read_at=sorted(set(read)))  # fmt: skip
