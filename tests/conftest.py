"""What all tests share: no network, markers, and toy checkpoints that any text can be fed to."""

import os

# Before any import of huggingface_hub, which reads it once.
os.environ["HF_HUB_OFFLINE"] = "1"

if "PYTEST_XDIST_WORKER" in os.environ:  # tests run side by side: threads of theirs would only get in the way
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import shutil
import string
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run."""
    for item in items:
        if item.get_closest_marker("gpu"):
            import torch

            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        if item.get_closest_marker("browser") and shutil.which("chromium") is None:
            item.add_marker(pytest.mark.skip(reason="no chromium on the PATH"))


WORDS = (
    "rank sum answer the a an of in on at to is are was were and or by for with from what who where when why "
    "how many long water river city glacier ice blue old new first war king north south light year day food"
).split()


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
