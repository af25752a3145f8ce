"""What a sweep is asked to do: a config, checked before anything runs."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from gdmtl_lib.data.bm25 import check_parameters
from gdmtl_lib.data.collection import rotations_of
from gdmtl_lib.data.files import read_lines
from gdmtl_lib.evaluation.measures import PAPER_MEASURES, parse_measures
from gdmtl_lib.experiments.notebook import check_value, notebook_parameters, number_of
from gdmtl_lib.experiments.transfer import short_name
from gdmtl_lib.settings import LIKELIHOODS, TrainingSettings
from gdmtl_lib.systems import FIRST_STAGE, SYSTEMS, system_name, unknown_name

TRAINING = "03_train"
# What a notebook can be given by the sweep; it gets those of them that it declares.
SET_BY_SWEEP = {
    "model", "collection", "train_split", "validation_split", "split", "splits", "systems", "baseline", "depth",
    "relevance_level", "relevance_levels", "seed", "output_dir", "results_dir", "resume", "system",
    "transfer_split", "transfer_relevance_level", "run", "k1", "b", "enriched", "denoised_dir",
    "keep_epoch_runs", "runs", "qrels", "queries", "passages", "categories", "transfer_collection",
}  # fmt: skip


@dataclass(frozen=True)
class Config:
    """A sweep, checked: what `papermill_runs/configs/<name>.yaml` says.

    splits: what to re-rank and measure, in this order, with the lowest grade that counts as relevant. The first one is
        the validation split.
    folds: 0, or how many rotations every system is trained in: then the one split is learned from and measured, each
        session with a model that has not seen it.
    systems, seeds: what to train, in this order. baseline: what significance is tested against.
    depth: candidates a query. first_stage: BM25's `k1` and `b`, or to `tune` them on so many training queries, and
        `enriched` passages to search; or a `run` that is there, in place of BM25 (see `first_stage_candidates`).
    parameters: those of 03_train for each system.
    studies: the same systems trained otherwise, on the validation split; by name, `systems`, `seeds` and `variants`: by
        name, the parameters of 03_train for each system.
    selection_folds: 0, or in how many folds of the validation queries the epoch is chosen on the others (Section 5.2).
    transfer: other collections that systems are taken to: `collection`, `split` and its lowest relevant grade, `level`.
    gpus: how many the sweep may use at once; None: those of this machine. folder: where the results go. project: the folder
        with `notebooks`.
    notebooks: parameters of notebooks that look at results, by a notebook's name.
    runs: of a config that trains nothing and looks at runs of one's own: what `open_runs` takes, `runs` by name among it.
    """

    name: str
    collection: str
    train_split: str
    splits: dict[str, int]
    folds: int
    systems: list[str]
    seeds: list[int]
    baseline: str
    depth: int
    first_stage: dict[str, object]
    parameters: dict[str, dict]
    studies: dict[str, dict]
    selection_folds: int
    transfer: list[dict]
    gpus: int | None
    folder: str
    project: str
    runs: dict = field(default_factory=dict)
    notebooks: dict[str, dict] = field(default_factory=dict)


# What a config, its first stage, a transfer and a study hold: the type of each value, and what it is unless given.
_CONFIG = {
    "collection": ("str",), "train_split": ("str",), "splits": ("dict",), "folds": ("int", 0), "systems": ("list[str]",),
    "seeds": ("list[int]",), "baseline": ("str",), "depth": ("int",), "first_stage": ("dict", {}), "parameters": ("dict", {}),
    "overrides": ("dict", {}), "studies": ("dict", {}), "selection_folds": ("int", 0), "transfer": ("list", []),
    "gpus": ("int | None", None), "results": ("str | None", None), "notebooks": ("dict", {}),
}  # fmt: skip
# And a config of runs of one's own: what notebooks 04 to 08 are given, relative to the project's folder.
_RUNS = {
    "runs": ("dict[str, str]",), "qrels": ("str",), "queries": ("str | None", None), "passages": ("str | None", None),
    "categories": ("str | None", None), "relevance_level": ("int", 1), "baseline": ("str | None", None),
    "results": ("str | None", None), "notebooks": ("dict", {}),
}  # fmt: skip
_AS_GIVEN = ("collection", "train_split", "splits", "folds", "seeds", "depth", "first_stage", "selection_folds", "gpus")
_FIRST_STAGE = {"run": ("str",), "k1": ("float",), "b": ("float",), "enriched": ("str",), "tune": ("int",)}
_TRANSFER = {"collection": ("str",), "split": ("str",), "level": ("int",)}
_STUDY = {"systems": ("list[str]",), "seeds": ("list[int]",), "variants": ("dict",)}
_FOLDER = r"\w[\w.-]*"


class _Once(yaml.SafeLoader):
    """YAML in which a key stands once; to its own loader the last one counts, without a word."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if again := next((key for key in keys if keys.count(key) > 1), None):
            raise ValueError(f"key {again!r} stands twice, line {node.start_mark.line + 1} and after: keep one of the two")
        return super().construct_mapping(node, deep)


def read_yaml(source: str | os.PathLike, text: str | None = None) -> dict:
    """The mapping that a file of YAML is, or a text that is from there. Raises ValueError, naming it, for any other."""
    text = "\n".join(line for _, line in read_lines(source)) if text is None else text
    try:
        values = yaml.load(text, _Once)  # noqa: S506, a safe loader
        if not isinstance(values, dict):
            raise ValueError(f"expected `key: value` lines, found {values!r}")
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{source} is no config in YAML: {' '.join(str(error).split())}") from error
    return values


def read_config(values: Mapping[str, object], name: str, project: str | os.PathLike) -> Config:
    """Check a config before anything runs.

    values: the YAML's. `parameters` are 03_train's, for all systems, `overrides` the same for one: `{mono: {...}}`; a
    study's `variants` are parameters that differ: `{half: {train_fraction: 0.5}}`, with `systems` where it is not for
    all of the study's; `notebooks` are parameters of the others: `{14_what_changes_inside: {attribution_pairs: 8}}`; `results`
    is the folder that gets the results folder, `papermill_runs` unless given. With `folds` the
    collection is `folds:<split>:<collection>`, and train, validate and test are the splits of a rotation.
    Or runs that are there, and nothing to train: `runs`, TREC files by name, `qrels`, and what else `open_runs` takes.
    project: the folder with `notebooks` and `papermill_runs`. Raises ValueError for what is wrong, in a sentence.
    """
    project = Path(project).resolve()
    if not re.fullmatch(_FOLDER, name):  # or its results would lie somewhere else than in `papermill_runs`
        raise ValueError(f"config {name!r}: expected a name of letters, digits, '-', '_' and '.'; rename the file")
    values = _plain(values)
    if "runs" in values:
        return _of_runs(name, values, project)
    if isinstance(values.get("transfer"), dict):  # one of them, without a list around it
        values["transfer"] = [values["transfer"]]
    values = _filled(name, values, _CONFIG, "a config has")
    levels = {split: number_of(level, "int") for split, level in values["splits"].items()}
    depth, seeds, folds, selection = (values[key] for key in ("depth", "seeds", "folds", "selection_folds"))
    _expect(name, levels and values["systems"] and seeds, "expected at least one of each of splits, systems and seeds")
    _expect(name, depth >= 1 and min(seeds) >= 0,
            f"expected a depth of 1 or more and seeds of 0 or more, found depth {depth} and seeds {seeds}")  # fmt: skip
    _expect(name, not selection or selection >= 2 and not folds,
            "selection_folds are 2 or more of the validation queries, and not of a config with folds, where every "
            f"rotation has queries of its own to validate on; found {selection}")  # fmt: skip
    _expect(name, max(seeds) < 2**63, f"expected seeds of 63 bits, found {max(seeds)}")
    _expect(name, (gpus := values["gpus"]) is None or gpus >= 0, f"expected gpus of 0 or more, found {gpus}")
    for split, level in levels.items():
        found = f"found {split!r}: {level!r}"
        _expect(name, isinstance(split, str) and type(level) is int and level >= 1,
                f"splits must say the lowest relevant grade of each split, as `dev: 1`; {found}")  # fmt: skip
        _check_folder(name, "a split", split, "part of names of files")
    values |= {"splits": levels, "first_stage": _first_stage(f"{name}, first_stage", values["first_stage"])}
    if folds:
        values |= _whole(name, values)
    _expect(name, folds or values["train_split"] not in levels, f"train_split {values['train_split']} is among splits, which would "
            f"be measured on what was learned from: {', '.join(levels)}; --config adds to the file's splits, it replaces none")  # fmt: skip
    systems = _systems(name, values["systems"])
    baseline = FIRST_STAGE if values["baseline"] == FIRST_STAGE else _system(name, values["baseline"])
    _expect(name, baseline in (FIRST_STAGE, *systems),
            f"baseline {baseline!r} must be {FIRST_STAGE} or among {', '.join(systems)}")  # fmt: skip
    _check_once(name, "seeds", seeds)
    overrides = dict(zip(_systems(name, list(values["overrides"])), values["overrides"].values()))
    known = notebook_parameters(project / "notebooks" / f"{TRAINING}.ipynb")

    def parameters_of(some: list[str], variant: str = "", differ: dict | None = None) -> dict[str, dict]:
        parts = {"parameters": values["parameters"]}, {variant: {} if differ is None else differ}
        own = {system: {f"overrides of {system}": overrides.get(system) or {}} for system in some}
        return {system: _training_parameters(name, system, known, parts[0] | own[system] | parts[1]) for system in some}

    transfer = [_transfer(f"{name}, transfer", given, folds) for given in values["transfer"]]
    places = [f"{short_name(each['collection'])}.{each['split']}" for each in transfer]
    _expect(name, len(set(places)) == len(places), "expected transfers to different places, found one twice among "
            f"{', '.join(places)}, as their results are called: rename a file or folder")  # fmt: skip
    studies = {study: _study(f"{name}, study {study}", study, given) for study, given in values["studies"].items()}
    for study, given in studies.items():
        given["variants"] = {
            variant: parameters_of(some, f"variant {variant} of {study}", differ)
            for variant, (some, differ) in given["variants"].items()
        }
    return Config(
        name=name, systems=systems, baseline=baseline, project=str(project), parameters=parameters_of(systems),
        studies=studies, transfer=transfer, folder=_folder(name, values, project),
        notebooks=_notebooks(f"{name}, notebooks", values["notebooks"], project / "notebooks", PAPER_MEASURES),
        **{key: values[key] for key in _AS_GIVEN},
    )  # fmt: skip


def _of_runs(name: str, values: dict, project: Path) -> Config:
    """A config of runs that are there: nothing is trained, and the notebooks that take runs look at them."""
    if trained := [key for key in values if key in _CONFIG and key not in _RUNS]:
        _expect(name, False, f"expected runs that are there or systems to train, found runs and {', '.join(trained)}; "
                "give each a config of its own")  # fmt: skip
    values = _filled(name, values, _RUNS, "a config of runs has")
    runs, level = values["runs"], values["relevance_level"]
    baseline = values["baseline"] or next(iter(runs), None)
    found = f"found {len(runs)} and {level}"
    _expect(name, runs and level >= 1, f"expected a run or more and a relevance_level of 1 or more, {found}")
    _expect(name, baseline in runs, unknown_name("baseline", baseline, runs, "runs are"))
    files = {key: values[key] for key in ("qrels", "queries", "passages", "categories")}
    for what, path in (*runs.items(), *files.items()):
        is_file = path is not None and what != "passages" and not path.startswith("irds:")  # no collection's name
        _expect(name, not is_file or (project / Path(path).expanduser()).is_file(), f"{what}: no file {path}; paths start from {project}")
    return Config(
        name=name, collection="", train_split="", splits={"runs": level}, systems=[], seeds=[], baseline=baseline, depth=1,
        parameters={}, studies={}, transfer=[], folder=_folder(name, values, project), project=str(project), folds=0,
        first_stage={}, selection_folds=0, gpus=None, runs={"runs": runs} | files,
        notebooks=_notebooks(f"{name}, notebooks", values["notebooks"], project / "notebooks"),
    )  # fmt: skip


def _folder(name: str, values: Mapping, project: Path) -> str:
    return str(Path(values["results"] or project / "papermill_runs").expanduser().resolve() / name)


def _expect(where: str, is_so: object, sentence: str) -> None:
    if not is_so:
        raise ValueError(f"config {where}: {sentence}")


def _refuse_unknown(where: str, values: Mapping, known: Mapping, have: str) -> None:
    if unknown := [key for key in values if key not in known]:
        _expect(where, False, unknown_name("key", unknown[0], known, have))


def _filled(name: str, values: Mapping, known: Mapping, have: str) -> dict:
    """A whole config's values, checked, with the defaults of what is not given."""
    if missing := [key for key, (_, *default) in known.items() if key not in values and not default]:
        _refuse_unknown(name, values, known, have)
        raise ValueError(
            f"config {name} lacks {', '.join(missing)}: add it to the file, or give it as --config {missing[0]}=..."
        )
    return _checked(name, {key: default for key, (_, *of) in known.items() for default in of} | values, known, have)


def _checked(where: str, values: Mapping, known: Mapping, have: str) -> dict:
    """Values as their types have them, numbers that arrived as texts among them."""
    checked = {}
    _refuse_unknown(where, values, known, have)
    for key, value in values.items():
        annotation, *_ = known[key]
        checked[key] = number_of(value, annotation)
        _check(where, key, checked[key], annotation)
    return checked


def _complete(where: str, given: object, known: Mapping) -> dict:
    """A part of the config that has all of the keys and no other, checked."""
    _check(where, "it", given, "dict")
    found = ", ".join(map(str, given)) or "nothing"
    _expect(where, set(given) == set(known), f"expected {', '.join(known)}, found {found}")
    return _checked(where, {key: given[key] for key in known}, known, "it has")


def _first_stage(where: str, given: dict) -> dict:
    """What BM25 is given, checked."""
    checked = _checked(where, given, _FIRST_STAGE, "it has")
    found = ", ".join(f"{key}: {value}" for key, value in checked.items())
    _expect(where, "tune" not in checked or checked["tune"] >= 1 and not {"k1", "b"} & set(checked),
            f"expected k1 and b, or to tune them on 1 training query or more, found {found}")  # fmt: skip
    _expect(where, "run" not in checked or len(checked) == 1,
            f"expected a run or BM25's parameters, found {', '.join(checked)}")  # fmt: skip
    with _said_of(where):
        check_parameters(1, checked.get("k1", 0), checked.get("b", 0))
    return checked


def _whole(name: str, values: Mapping) -> dict:
    """What a config with folds measures: the collection and the split that its rotations are made of."""
    rotations, levels, folds = rotations_of(values["collection"]), values["splits"], values["folds"]
    _expect(name, folds >= 3 and rotations is not None and rotations[2] in (5, folds),
            "expected folds of 3 or more and the collection folds:<split>:<collection>, found folds "
            f"{folds} and the collection {values['collection']!r}")  # fmt: skip
    named = values["train_split"] == "train" and list(levels) == ["validate", "test"]
    _expect(name, named and len(set(levels.values())) == 1,
            "with folds expected train_split train and splits {validate: n, test: n}, the parts of every rotation, "
            f"found {values['train_split']} and {levels}")  # fmt: skip
    none_left = "with folds every query is tested on, and none is left for"
    _expect(name, not values["studies"], f"{none_left} studies: give them a config of their own")
    _expect(name, "tune" not in values["first_stage"], f"{none_left} tune: give k1 and b")
    whole, split, _ = rotations
    return {"collection": whole, "train_split": split, "splits": {split: levels["test"]}}


def _transfer(where: str, given: object, folds: int) -> dict:
    """A collection that systems are taken to, checked."""
    _expect(where, not folds, "with folds there is no one checkpoint to take anywhere; give it a config without")
    given, sentence = _complete(where, given, _TRANSFER), "level is the lowest relevant grade, 1 or more, found"
    _expect(where, given["level"] >= 1, f"{sentence} {given['level']}")
    return given


def _study(where: str, study: object, given: object) -> dict:
    """A study's systems, seeds and variants, checked; of each variant its systems, and the rest as it stands there."""
    _check_folder(where, "a study", study)
    given = _complete(where, given, _STUDY)
    for key in _STUDY:
        _expect(where, given[key], f"expected at least one of each of {', '.join(_STUDY)}, found no {key}")
    _check_once(where, "seeds", given["seeds"])
    for variant in given["variants"]:
        _check_folder(where, "a variant", variant)
    systems, variants = _systems(where, given["systems"]), {}
    for variant, differ in given["variants"].items():
        rest, some = differ, systems
        if isinstance(differ, dict):
            rest, some = {name: differ[name] for name in differ if name != "systems"}, differ.get("systems", systems)
        _check(where, f"systems of {variant}", some, "list[str]")
        is_there = some and set(some := _systems(where, some)) <= set(systems)
        _expect(where, is_there, f"expected systems of {variant} among {', '.join(systems)}, found {some}")
        variants[variant] = some, rest
    return given | {"systems": systems, "variants": variants}


def _check_folder(where: str, what: str, name: object, part: str = "the name of a folder") -> None:
    _expect(where, isinstance(name, str) and re.fullmatch(_FOLDER, name),
            f"{what} is {part}, of letters, digits, '.', '-' and '_'; found {name!r}"
            + ("" if isinstance(name, str) else ": put it into quotes"))  # fmt: skip


def _check_once(where: str, key: str, found: list) -> None:
    _expect(where, len(set(found)) == len(found), f"expected each of {key} once, found {', '.join(map(str, found))}")


def _systems(where: str, names: list[str]) -> list[str]:
    systems = [_system(where, name) for name in names]
    _check_once(where, "systems", systems)
    return systems


def _notebooks(where: str, given: Mapping, folder: Path, kept: Sequence[str] = ()) -> dict[str, dict]:
    """Parameters of the notebooks that look at results, checked. kept: the measures that results have, if not any."""
    known = sorted(path.stem for path in folder.glob("*.ipynb") if path.stem not in ("00_index", TRAINING))
    if unknown := [notebook for notebook in given if notebook not in known]:
        _expect(where, False, unknown_name("notebook", unknown[0], known, "03_train has `parameters`; others are"))
    return {
        notebook: _of_notebook(where, notebook, notebook_parameters(folder / f"{notebook}.ipynb"), {notebook: parameters}, kept)
        for notebook, parameters in given.items()
    }


def _of_notebook(name: str, notebook: str, known: dict, parts: dict[str, dict], kept: Sequence[str] = ()) -> dict:
    """A notebook's parameters, checked. known: those it declares. parts: what is given, by where it stands; later ones win.
    kept: as of `_notebooks`."""
    given, own = {}, [parameter for parameter in known if parameter not in SET_BY_SWEEP]
    for where, parameters in parts.items():
        _check(name, where, parameters, "dict")
        for parameter, value in parameters.items():
            _expect(f"{name}, {where}", parameter not in SET_BY_SWEEP,
                    f"{parameter} is set by the sweep; a config has {', '.join(_CONFIG)}")  # fmt: skip
            if parameter not in own:
                _expect(f"{name}, {where}", False, unknown_name("parameter", parameter, own, f"{notebook} has"))
            annotation, _ = known[parameter]
            given[parameter] = number_of(value, annotation)
            _check(name, f"{where}: {parameter}", given[parameter], annotation, parameter)
            if parameter == "measure" and value is not None:
                with _said_of(f"{name}, {where}"):
                    parse_measures([value], 1)
                there = not kept or value in kept or notebook == "12_query_likelihood"  # which measures what it compares
                _expect(f"{name}, {where}", there, unknown_name("measure", value, kept, "of trained systems there are"))
    return given


def _training_parameters(name: str, system: str, known: dict, parts: dict[str, dict]) -> dict:
    """One system's parameters of 03_train, and whether a training would refuse them."""
    given = _of_notebook(name, TRAINING, known, parts)
    settings = {parameter: default for parameter, (_, default) in known.items()} | given
    with _said_of(f"{name}, {system}"):
        TrainingSettings(**{field: settings[field] for field in TrainingSettings.__dataclass_fields__})
        if (measure := settings["selection_measure"]) not in LIKELIHOODS:
            parse_measures([measure], 1)
    return given


def _system(name: str, system: object) -> str:
    with suppress(ValueError):
        if system_name(system) in SYSTEMS:
            return system_name(system)
    sentence = unknown_name("system", system, SYSTEMS, "expected some of")
    raise ValueError(f"config {name}: {sentence} ({FIRST_STAGE} is always there)")


def _check(name: str, key: str, value: object, annotation: str, parameter: str = "") -> None:
    with _said_of(name):
        if annotation != "dict":
            check_value(key, value, annotation, parameter)
        elif not isinstance(value, dict):
            raise ValueError(f"{key} must be a mapping, found {value!r}")


@contextmanager
def _said_of(where: str) -> Iterator[None]:
    """A refusal inside says what part of the config it is of."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"config {where}: {error}") from None


def _plain(value: object) -> object:
    """Ordered and other mappings as dicts, for comparing and for JSON."""
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, Mapping) else value
