"""Models on pretrained weights: a system is built on a checkpoint, or one that was trained is opened again.

An encoder takes the checkpoint's weights as they are; an encoder-decoder takes BART's, or is warm-started from an
encoder's (Rothe et al., 2020).
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import safetensors
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers import BartConfig

from gdmtl_lib.backbones.card import describe_base
from gdmtl_lib.backbones.checkpoints import DEFAULT_CHECKPOINT, NOT_THIS_MODEL, find_checkpoint
from gdmtl_lib.backbones.checkpoints import check_finite, check_sums, check_weights, reading, weight_files
from gdmtl_lib.data.files import as_path, kind_of
from gdmtl_lib.backbones.families import cut_layers, ranking_class, why_refused

from .models import EncoderGDMTL, class_for, quiet
from .settings import is_number, is_whole
from .systems import PUBLISHED, SYSTEMS, System, get_system


def build_model(
    system: str, checkpoint: str | None = None, layers: int | None = None, seed: int = 0,
    fresh_vocabulary: bool = False, attention_dropout: float | None = None, activation_dropout: float | None = None,
):
    """A system of the paper on pretrained weights, its new heads drawn from `seed`.

        model = gdmtl.build_model("gdmtl")

    system: a name of `SYSTEMS`. checkpoint: a folder or a name; by default all systems start from
    `DEFAULT_CHECKPOINT` (MiniLM), which needs no network; the paper's own is `SYSTEMS[system].checkpoint`.
    An encoder-decoder system given a BERT checkpoint is warm-started from it (Rothe et al., 2020).
    `monobert` is a published re-ranker with its own head of two classes, `castorini/monobert-large-msmarco` by default.
    layers: keep the first so many layers (of the encoder and of the decoder); all by default.

    Language-model heads start from the checkpoint's own masked-language-model head where it has one, and share the word
    embeddings. fresh_vocabulary: their transforms are drawn anew, and so is a vocabulary matrix of their own.
    attention_dropout, activation_dropout: instead of the checkpoint's (BERT has no dropout at its activations). The
    authors' code has a fresh vocabulary, and 0 for both in BART.

    Raises ValueError for an unknown system, layers out of range, a checkpoint of another family, or one that is not
    whole; FileNotFoundError for a checkpoint that cannot be found.
    """
    system = get_system(system)
    checkpoint = checkpoint or (system.checkpoint if system.name in PUBLISHED else DEFAULT_CHECKPOINT)
    folder = find_checkpoint(checkpoint)
    config = _config(folder, system, checkpoint)
    depth = config.encoder_layers if config.model_type == "bart" else config.num_hidden_layers
    layers = depth if layers is None else layers
    if not is_whole(layers) or not 1 <= layers <= depth:
        raise ValueError(f"layers must be between 1 and the checkpoint's {depth}, found {layers!r}")
    if not is_whole(seed) or not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed must be a whole number of 64 bits, found {seed!r}")
    layers, seed = int(layers), int(seed)
    tokenizer = _tokenizer(folder, config)
    check_weights(folder)
    with quiet(), _in_fp32(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = _opened(AutoModel, folder, may_lack="pooler.")
        config = _configure(config, system, layers, tokenizer)
        config.gdmtl |= {"fresh_vocabulary": True} if fresh_vocabulary else {}
        _set_dropout(config, "attention_dropout", attention_dropout, "attention_probs_dropout_prob")
        _set_dropout(config, "activation_dropout", activation_dropout)
        torch.manual_seed(seed)
        model = class_for(config)(config, tokenizer)
        if system.backbone == "encoder":
            _copy(backbone, model.base_model)
            fresh_heads = not fresh_vocabulary and not _copy_masked_lm_head(folder, model)
            if system.name in PUBLISHED:
                _copy_two_classes(folder, model)
        elif backbone.config.model_type == "bart":
            _copy(backbone, model.model)
            # BART's own head is its embeddings; a denoised start has written passages, and its heads are to write queries.
            denoised = getattr(backbone.config, "gdmtl", {}).get("denoised")
            model.config.gdmtl |= {"denoised": denoised} if denoised else {}
            fresh_heads = bool(denoised)
        else:
            _warm_start(backbone, model.model)
            fresh_heads = not fresh_vocabulary
        model.config.gdmtl["fresh_heads"] = fresh_heads and bool(system.generative_tasks)
    check_finite(model, weight_files(folder)[0])
    model.config.gdmtl_card = {"base": describe_base(checkpoint, folder)}
    return model.eval()


@contextmanager
def _in_fp32() -> Iterator[None]:
    """Whatever dtype torch was told to take by default: another one would round the weights that are copied."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _opened(kind: type, folder: Path, may_lack: str = ""):
    """A checkpoint as one of transformers' models, with every weight. may_lack: what the names of others begin with;
    transformers draws what is not there, and says so in a warning only."""
    with reading(weight_files(folder)[0], NOT_THIS_MODEL):
        model, found = kind.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
        if lacks := sorted(name for name in found["missing_keys"] if not may_lack or f".{may_lack}" not in f".{name}"):
            raise ValueError(f"it lacks {len(lacks)} weights that config.json speaks of, for example {lacks[0]}")
    return model


def load_model(folder: str | os.PathLike):
    """Open a checkpoint that `save_pretrained` wrote; every weight must be there, and every file as it was saved. A
    model that is open is returned as it is.

        model = gdmtl.load_model("mine/checkpoint")

    Raises FileNotFoundError for a missing folder and ValueError, naming the file, for one that is not a checkpoint of
    this library, or that is damaged; and as `check_model`.
    """
    if isinstance(folder, nn.Module):
        check_model(folder)
        return folder
    folder = as_path(folder, "folder")
    if not folder.is_dir():
        raise FileNotFoundError(f"no checkpoint folder {folder}: train one first, or give the folder that holds it")
    needed = [folder / "config.json", *weight_files(folder)]
    if missing := [path.name for path in needed if not path.is_file()]:
        inside = folder / "checkpoint"
        advice = f"; did you mean {inside}?" if (inside / "config.json").is_file() else ""
        raise ValueError(f"{folder} is not a checkpoint folder: it has no {' and no '.join(missing)}{advice}")
    about = _json(folder / "config.json")
    if "gdmtl" not in about:
        raise ValueError(
            f"{folder} is a plain checkpoint, not one that gdmtl has saved: "
            f"give it to build_model as `checkpoint` to start from it"
        )
    check_sums(folder)
    with reading(folder / "config.json"):
        system = str(about["gdmtl"]["system"])
    try:
        config = _config(folder, get_system(system), folder)
    except ValueError as error:
        if system in {**SYSTEMS, **PUBLISHED}:
            raise
        raise ValueError(f"{folder}: {error}. One of your own is made known first, with systems.add_system") from None
    tokenizer = _tokenizer(folder, config)
    check_weights(folder)
    with torch.random.fork_rng(devices=[]), reading(needed[1], NOT_THIS_MODEL):
        model, found = class_for(config).from_pretrained(
            folder, config=config, tokenizer=tokenizer, dtype=torch.float32, use_safetensors=True,
            output_loading_info=True,
        )
        if wrong := {what: sorted(map(str, keys))[:5] for what, keys in found.items() if keys}:
            raise ValueError("; ".join(f"{what.replace('_', ' ')} {', '.join(keys)}" for what, keys in wrong.items()))
    check_finite(model, needed[1])
    return model.eval()


def check_model(model) -> None:
    """Refuse with ValueError what is no model of this library, and one whose weights were cast."""
    if not isinstance(getattr(model, "system", None), System):
        raise ValueError(f"model: expected what build_model returns, found {kind_of(model)}")
    if found := next((weight.dtype for weight in model.parameters() if weight.dtype != torch.float32), None):
        raise ValueError(f"model: expected weights in torch.float32, found {found}: call .float(), and use precision= instead")


def _json(path: Path) -> dict:
    with reading(path, "is not valid JSON"):
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError(f"expected an object, found {type(values).__name__}")
        return values


def _config(folder: Path, system: System, where: str | os.PathLike):
    """A checkpoint's configuration; ValueError, with the reason, for one that the system cannot stand on."""
    _json(folder / "config.json")
    with reading(folder / "config.json"):
        config = AutoConfig.from_pretrained(folder)
    families = "bert" if system.backbone == "encoder" else "bert or bart"
    reason = why_refused(config) if system.backbone == "encoder" else None
    if system.backbone == "encoder_decoder" and config.model_type not in ("bert", "bart"):
        reason = "its weights fit neither encoder nor decoder of BART"
    if reason is not None:
        raise ValueError(
            f"{system.name} needs a checkpoint of the {families} family, "
            f"but {where} is of {config.model_type!r}: {reason}"
        )
    return config


def _tokenizer(folder: Path, config):
    for path in folder.glob("*.json"):  # or a wrong one would be named below
        if path.name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"):
            _json(path)
    with reading(folder / "tokenizer.json"):
        tokenizer = AutoTokenizer.from_pretrained(folder, split_special_tokens=True)
    last = max(tokenizer.vocab_size - 1, *tokenizer.added_tokens_decoder)
    if last >= config.vocab_size:
        raise ValueError(
            f"{folder}: its tokenizer knows tokens up to number {last}, but there are embeddings of {config.vocab_size}"
            ": call resize_token_embeddings(len(tokenizer)) of the model that tokens were added to, and save it again"
        )
    return tokenizer


def _configure(config, system: System, layers: int, tokenizer):
    """The configuration of a system's model: the checkpoint's, with what this library and CrossEncoder need to know."""
    if system.backbone == "encoder_decoder" and config.model_type == "bert":
        config = BartConfig(
            vocab_size=config.vocab_size,
            d_model=config.hidden_size,
            encoder_attention_heads=config.num_attention_heads,
            decoder_attention_heads=config.num_attention_heads,
            encoder_ffn_dim=config.intermediate_size,
            decoder_ffn_dim=config.intermediate_size,
            activation_function=config.hidden_act,
            max_position_embeddings=config.max_position_embeddings,
            dropout=config.hidden_dropout_prob,
            attention_dropout=config.attention_probs_dropout_prob,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.cls_token_id,
            eos_token_id=tokenizer.sep_token_id,
            decoder_start_token_id=tokenizer.cls_token_id,
            forced_eos_token_id=None,
        )
    if config.model_type == "bart":
        config.encoder_layers = config.decoder_layers = layers
        config.architectures = ["BartForSequenceClassification"]
    else:
        cut_layers(config, layers)
        config.architectures = [ranking_class(config).__name__]
        if hasattr(config, "classifier_pooling"):  # ModernBERT's: the score is read at the first token
            config.classifier_pooling = "cls"
    config.gdmtl = {"system": system.name, "inputs": {"max_length": 256, "target_length": 56}}
    # CrossEncoder would put a sigmoid over the score; the score itself is what ranks.
    config.sentence_transformers = {"activation_fn": "torch.nn.modules.linear.Identity"}
    return config


def _set_dropout(config, what: str, value: float | None, also_called: str = "") -> None:
    name = next((name for name in (what, also_called) if hasattr(config, name)), None)
    if value is not None and (name is None or not is_number(value) or not 0 <= value < 1):
        expected = "a number from 0 to below 1" if name else f"None: {config.model_type} has no such dropout"
        raise ValueError(f"{what}: expected {expected}, found {value!r}")
    if value is not None:
        setattr(config, name, float(value))


def _copy_two_classes(folder: Path, model: EncoderGDMTL) -> None:
    """Make one score of a head of two classes, not relevant and relevant: the difference of their logits, which is the
    log-odds of relevance."""
    head = _opened(AutoModelForSequenceClassification, folder)
    weights, classes = dict(model.named_parameters()), head.classifier
    if getattr(classes, "weight", torch.empty(0)).shape[0] != 2:
        raise ValueError(f"{folder} has no head of two classes, not relevant and relevant: give a published monoBERT")
    for name, parameter in head.named_parameters():
        if not name.startswith("classifier.") and name in weights:  # the pooler's too
            weights[name].data.copy_(parameter.data)
    model.classifier.weight.data.copy_(classes.weight.data[1:] - classes.weight.data[:1])
    model.classifier.bias.data.copy_(classes.bias.data[1:] - classes.bias.data[:1])


def _copy(backbone: nn.Module, into: nn.Module) -> None:
    """Copy the weights that both have; layers beyond those kept and a pooler that is missing stay behind."""
    result = into.load_state_dict(backbone.state_dict(), strict=False)
    missing = [name for name in result.missing_keys if not name.startswith("pooler.")]
    if missing:
        raise ValueError(f"the checkpoint lacks weights of its own architecture: {', '.join(missing[:5])}")


def _copy_masked_lm_head(folder: Path, model: EncoderGDMTL) -> bool:
    """Start every language-model head from the checkpoint's masked-language-model head. False if it has none that shares
    the embeddings."""
    dense, norm, bias = model.family.masked_lm
    weights = [safetensors.safe_open(path, framework="pt") for path in weight_files(folder)]
    if not any(bias in file.keys() for file in weights):
        return False
    masked_lm = _opened(AutoModelForMaskedLM, folder)
    if not torch.equal(masked_lm.get_output_embeddings().weight, masked_lm.get_input_embeddings().weight):
        return False  # its matrix is its own, and what was learned with it fits no embeddings
    for head in model.generation_heads.values():
        head.transform.dense.load_state_dict(masked_lm.get_submodule(dense).state_dict())
        head.transform.LayerNorm.load_state_dict(masked_lm.get_submodule(norm).state_dict())
        head.bias.data.copy_(masked_lm.get_parameter(bias).data)
    return True


def _warm_start(bert: nn.Module, bart: nn.Module) -> None:
    """An encoder-decoder from an encoder (Rothe, Narayan and Severyn, 2020): both are post-norm, so BERT's weights
    fit BART's layers one to one. Cross-attention starts from the self-attention of the same layer."""
    embeddings = bert.embeddings
    for side in (bart.encoder, bart.decoder):
        side.embed_tokens.weight.data.copy_(embeddings.word_embeddings.weight.data)
        # BART has no segments: segment 0 goes into the positions, which BART counts from 2.
        positions = embeddings.position_embeddings.weight.data + embeddings.token_type_embeddings.weight.data[0]
        side.embed_positions.weight.data[side.embed_positions.offset :].copy_(positions)
        side.layernorm_embedding.load_state_dict(embeddings.LayerNorm.state_dict())
        for layer, source in zip(side.layers, bert.encoder.layer):
            attentions = [(layer.self_attn, layer.self_attn_layer_norm)]
            if side is bart.decoder:
                attentions.append((layer.encoder_attn, layer.encoder_attn_layer_norm))
            own, output = source.attention.self, source.attention.output
            for attention, norm in attentions:
                projections = (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj, norm)
                for into, of in zip(projections, (own.query, own.key, own.value, output.dense, output.LayerNorm)):
                    into.load_state_dict(of.state_dict())
            layer.fc1.load_state_dict(source.intermediate.dense.state_dict())
            layer.fc2.load_state_dict(source.output.dense.state_dict())
            layer.final_layer_norm.load_state_dict(source.output.LayerNorm.state_dict())
