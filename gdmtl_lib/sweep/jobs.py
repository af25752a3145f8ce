"""The jobs of a sweep, as a plan: made once a call from a config, written down, and read by every job.

What a job is made from is in its key, and its stamp, `.jobs/<name>.<key>` in the results folder, is named by it. So
what has changed is a stamp that is not there, modification times mean nothing, and no job is repeated without reason.
`execute` has a function for each kind of job; `papermill_runs/Snakefile` says what each takes of a machine.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import chdir, suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

from gdmtl_lib import __version__
from gdmtl_lib.data.collection import Collection, load_collection
from gdmtl_lib.data.files import as_path, file_hash, write_lines
from gdmtl_lib.data.trec import frame_hash
from gdmtl_lib.experiments.notebook import notebook_parameters
from gdmtl_lib.experiments.runs import SPLIT, open_runs
from gdmtl_lib.experiments.transfer import short_name
from gdmtl_lib.systems import FIRST_STAGE, LABELS, SYSTEMS

from .config import TRAINING, Config
from .costs import NOTEBOOK, Costs, parameters_of
from .trainings import Training, all_trainings, content_of, first_stage_inputs, look_into, rotations, trainings

OVERVIEW, LIKELIHOOD = "02_collection_and_candidates", "12_query_likelihood"
# The notebooks that look at results, and on which splits of the config: `every`, the `validation` split, those with
# `categories`, all at `once`, from the validation split to `another`; the systems that are `generating` on the
# validation split, or of these the `encoders` beside a baseline that is one.
ANALYSES = {
    "04_rerank_and_evaluate": "every", "05_score_distributions": "every", "06_win_tie_loss": "every",
    "07_rank_shifts": "every", "08_query_categories": "categories", "10_transfer": "another",
    "11_architectures": "validation", "01_attention_masks": "once", LIKELIHOOD: "generating",
    "13_generated_queries": "generating", "14_what_changes_inside": "encoders",
}  # fmt: skip
# With folds there is no single checkpoint of a system: these look into the first rotation's, on the turns that it was
# tested on. Left out is what asks for more than that: a second split to take a system to, and turns enough to choose a
# weight on one half and measure on the other (a rotation tests a fifth of them, in some four sessions).
OF_ONE_ROTATION = ("once", "generating", "encoders")
NOT_OF_FOLDS = ("10_transfer", LIKELIHOOD)
# Those that load models and compute with them: where there are GPUs they ask for one.
COMPUTING = tuple(name for name, which in ANALYSES.items() if which in (*OF_ONE_ROTATION, "validation"))
# Those that look at a study of the config.
STUDIES = {
    "training_size": "09_training_size", "loss_weighting": "15_loss_weighting", "choices": "16_choices",
    "denoising": "17_denoising",
}  # fmt: skip
MEMORY = 3000  # MB of a job beside the weights: texts, candidates and an index are mapped or read in parts
PAGE = "page"
STARTED = ".started"  # beside the stamps: when this call of the sweep began


@dataclass(frozen=True)
class Job:
    """One step of a sweep.

    kind: what does it, a function of `execute`, and `given` what that takes, as JSON has it. key: hash of everything it is
    made from, its needs' keys among it. folder: the sweep's results. needs: the names of the jobs before it.
    gpus: how many it takes; on a machine without any it takes cores instead. threads: how many cores. memory: MB.
    measures: the split, system and seed whose results it leaves, where tables show them.
    """

    name: str
    kind: str
    key: str
    folder: str
    given: dict
    needs: list[str]
    gpus: int = 0
    threads: int = 1
    seconds: float = 0.0
    memory: int = MEMORY
    measures: list | None = None

    @property
    def stamp(self) -> Path:
        """There is this file when the job is done; it lists what the job made."""
        return Path(self.folder) / ".jobs" / f"{self.name}.{self.key[:16]}"

    @property
    def failure(self) -> Path:
        """The sentence that it ended with, if it failed."""
        return Path(self.folder) / ".jobs" / f".{self.name}.failed"

    def is_done(self) -> bool:
        """Whether the stamp is there and all that the job made is as it was."""
        try:
            return all(state_of(Path(self.folder) / path) == state for path, state in self.made().items())
        except (OSError, ValueError):
            return False

    def made(self) -> dict[str, str | int]:
        """What its stamp remembers of each file that it made. Raises OSError where there is no stamp."""
        return json.loads(self.stamp.read_text(encoding="utf-8"))


def state_of(path: Path) -> str | int:
    """What a stamp remembers of a file; of what anybody may draw anew, only that it is there. Raises FileNotFoundError
    where it is not."""
    content = content_of(path)
    return "there" if path.suffix in (".ipynb", ".html", ".png", ".pdf", ".tex") or path.parent.name == "tables" else content


def prepare(config: Config, cores: int = 1, gpus: int = 0) -> list[Job]:
    """The jobs of a sweep, the plan written down for them, and the stamps removed of those whose files have gone or
    changed. cores, gpus: what they share. Raises FileNotFoundError for pretrained weights that a training needs and that
    are not to be had."""
    with chdir(config.project):  # what relative paths in a config are relative to
        jobs = [shared_out(job, cores, gpus) for job in plan(config)]
        undone = [job for job in jobs if not job.is_done()]
        lacking = lacking_weights(Training(**job.given["training"]) for job in undone if job.kind == "train")
        if sentences := [sentence for _, sentence in lacking]:
            raise FileNotFoundError("\n".join(sentences))
    folder = Path(config.folder)
    (folder / ".jobs").mkdir(parents=True, exist_ok=True)
    for name, record in (("config", asdict(config)), ("plan", [asdict(job) for job in jobs])):
        path, text = folder / f"{name}.json", json.dumps(record, indent=2) + "\n"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_lines(path, [text])
    for job in undone:
        if not job.is_done():  # another sweep may have done it meanwhile
            job.stamp.unlink(missing_ok=True)
    if undone:
        (folder / ".jobs" / STARTED).touch()
    return jobs


def shared_out(job: Job, cores: int, gpus: int) -> Job:
    """A job with its share of a machine. With GPUs as many trainings at once as there are GPUs for. On a CPU two, of half
    the cores each: one alone leaves cores idle in what cannot be shared out, and more than two would need a large memory."""
    if not job.gpus:
        return job
    at_once = max(1, (gpus or 2) // job.gpus)
    return replace(job, gpus=min(job.gpus, gpus), threads=max(1, cores // at_once))


def read_plan(folder: Path) -> tuple[Config, list[Job]]:
    """What `prepare` has written into a results folder."""
    return Config(**json.loads((folder / "config.json").read_text(encoding="utf-8"))), read_jobs(folder)


def read_jobs(folder: Path) -> list[Job]:
    """The plan in a results folder."""
    return [Job(**job) for job in json.loads((folder / "plan.json").read_text(encoding="utf-8"))]


def lacking_weights(trainings: Iterable[Training]) -> Iterator[tuple[str, str]]:
    """Which systems' pretrained weights are neither here nor to be had, and a sentence that says where they are.
    Nothing is downloaded."""
    from gdmtl_lib.backbones.checkpoints import require_checkpoint  # asks the hub's client, which is slow to import

    systems: dict[str | None, set[str]] = {}
    for training in trainings:
        systems.setdefault(training.given.get("checkpoint"), set()).add(training.system)
    for checkpoint, those in systems.items():
        try:
            require_checkpoint(checkpoint)
        except (OSError, ValueError) as error:
            yield ", ".join(label for system, label in LABELS.items() if system in those), str(error)


def plan(config: Config) -> list[Job]:
    """All steps of a sweep, each after those it needs, the cheapest first. Opens the collection, and raises ValueError or
    FileNotFoundError where it lacks what a step needs."""
    if config.runs:
        return list(_of_runs(config))
    of = _Plan(config)
    if "tune" in config.first_stage:
        of.tune()
    of.measure_first_stage()
    of.analyse(OVERVIEW, None, [])
    for training in trainings(config):
        if config.folds:
            of.train_rotations(training)
        else:
            of.train(training, measured=True)
            for split in list(config.splits)[1:]:
                of.rerank(training, split, config.splits[split])
    for notebook, which in ANALYSES.items():
        if not (config.folds and notebook in NOT_OF_FOLDS):
            of.look_at(notebook, which)
    for study in config.studies:
        of.study(study)
    for transfer in config.transfer:
        of.transfer(**transfer)
    return list(of.jobs.values())


def _of_runs(config: Config) -> Iterator[Job]:
    """The notebooks that take runs of one's own: each anew where its code, a file or what it is given has changed."""
    level = config.splits[SPLIT]
    opened = open_runs(**config.runs, relevance_level=level, folder=config.folder)  # what is wrong is said now
    files = [*config.runs["runs"].values(), *(path for path in config.runs.values() if isinstance(path, str))]
    contents = [content_of(path) if (path := as_path(file)).is_file() else load_collection(file).fingerprint()
                for file in files if not file.startswith("irds:")]  # fmt: skip
    known = config.runs | {"baseline": config.baseline, "relevance_level": level, "results_dir": config.folder}
    for notebook in ANALYSES if len(opened.systems()) > 1 else ["04_rerank_and_evaluate"]:  # the others compare
        given = _given(config, notebook, known)
        if "runs" in given and (ANALYSES[notebook] != "categories" or "category" in opened.collection.queries(SPLIT)):
            does = {"notebook": notebook, "name": notebook, "parameters": given, "computes": False}
            of = _hash([__version__, _code(config, notebook), given, contents])
            yield Job(notebook, "analyse", of, config.folder, does, [], seconds=NOTEBOOK)


class _Plan:
    """A plan in the making: a method for each kind of job adds it to `jobs`, with the key of what it is made from."""

    def __init__(self, config: Config):
        self.config, self.jobs = config, {}
        self.collection = collection = load_collection(config.collection)
        self.data = {split: _split_hash(collection, split) for split in (config.train_split, *config.splits)}
        if config.folds:
            rotations = collection.by_session(config.train_split, config.folds)
            self.data |= {split: _split_hash(rotations, split) for split in rotations.splits}
        if refusal := without_answers(config, collection):
            raise ValueError(refusal)
        self.first_stage, self.fingerprint, self.weights = first_stage_inputs(config), collection.fingerprint(), cache(_weights)
        self.validation = next(iter(config.splits))
        self.away = [split for split in config.splits if split != self.validation][-1:]
        self.looked_into = look_into(config, 0) if config.folds else {"split": self.validation}
        parameters = notebook_parameters(notebook_of(config, TRAINING))
        self.defaults = {name: default for name, (_, default) in parameters.items()}
        self.costs = Costs.of(collection, config.train_split, self.defaults)

    def _add(self, name: str, kind: str, of: object, given: dict, needs: Sequence[Job] = (), **more) -> Job:
        """of: what decides the key. more: the other fields. Raises ValueError where two jobs would have one name."""
        if name in self.jobs:
            raise ValueError(f"config {self.config.name}: two jobs are called {name}, and would write into each other's results")
        self.jobs[name] = Job(name, kind, _hash(of), self.config.folder, given, [need.name for need in needs], **more)
        return self.jobs[name]

    def _of(self, kind: str) -> list[Job]:
        return [job for job in self.jobs.values() if job.kind == kind]

    def _measured(self, *splits: str) -> list[Job]:
        return [job for split in splits for job in self.jobs.values() if job.measures and job.measures[0] == split]

    def tune(self) -> None:
        of = [self.fingerprint, self.data[self.config.train_split], self.first_stage, self.config.depth]
        self._add("tune_bm25", "tune", of, {}, seconds=self.costs.searching(48 * self.config.first_stage["tune"]))

    def measure_first_stage(self) -> None:
        splits = self.config.splits
        of = [__version__, self.fingerprint, [self.data[split] for split in splits], self.first_stage, list(splits.values()),
              self.config.depth]  # fmt: skip
        queries = sum(len(self.collection.queries(split)) for split in splits)
        self._add("measure_bm25", "measure", of, {}, self._of("tune"), seconds=self.costs.searching(queries, index=True))

    def search(self, split: str, depth: int) -> Job | None:
        """BM25 over the training queries, before anything holds a GPU for them, and once for all trainings. None for a
        rotation's some hundred queries, and for runs that are there."""
        if self.config.folds or "run" in self.config.first_stage:
            return None
        of, queries = [self.fingerprint, self.data[split], self.first_stage, depth], len(self.collection.queries(split))
        # Of an index that another job is building it only waits for the end.
        seconds = self.costs.searching(queries * (1 + depth // 200), index=True)
        name, given = f"search_{split}_top{depth}", {"split": split, "depth": depth}
        return self.jobs.get(name) or self._add(name, "search", of, given, self._of("tune"), seconds=seconds)

    def train(self, training: Training, measured: bool = False) -> Job:
        settings = self.defaults | training.given
        learned, validated = (self.data[settings[split]] for split in ("train_split", "validation_split"))
        weights = self.weights(settings["checkpoint"])
        inputs = _hash([__version__, self.fingerprint, learned, self.first_stage,
                        *_decides_training(settings, validated, weights)])  # fmt: skip
        of = [inputs, settings, validated, _code(self.config, TRAINING), *filter(None, [self.config.selection_folds])]
        measures = [training.given["validation_split"], training.system, training.seed] if measured else None
        # How many pairs it learns from, and how many it re-ranks; of rotations, their share.
        relevant, folds = len(self.collection.qrels(self.config.train_split)), self.config.folds
        ranked = len(self.collection.queries(self.validation)) * self.config.depth
        pairs = (relevant * (folds - 2) // folds, ranked // folds) if folds else (relevant, ranked)
        operations = self.costs.training(training.system, training.given, *pairs)
        searched = self.search(settings["train_split"], settings["train_depth"] or settings["depth"])
        needs = [searched] if searched else self._of("tune")
        if "denoised_dir" in training.given:
            needs = [*needs, self.denoise(training, settings, weights)]
        return self._add(
            f"train_{training.name}", "train", of, {"training": asdict(training), "inputs": inputs}, needs,
            gpus=settings["processes"], seconds=self.costs.computing(operations, settings["processes"]),
            memory=MEMORY + 20 * parameters_of(training.system, settings["checkpoint"], settings["layers"]) // 2**20,
            measures=measures,
        )  # fmt: skip

    def _settings(self, training: Mapping) -> dict:
        """All of 03_train's parameters that a training is given, but for where it goes."""
        return self.defaults | training["given"] | {"output_dir": None}

    def denoise(self, training: Training, settings: Mapping, weights: str | None) -> Job:
        """The start that all encoder-decoders of a seed share; planned with the first of them."""
        steps, seed = settings["denoising_steps"], training.seed
        inputs = _hash([__version__, self.fingerprint, steps, seed, weights, settings["layers"], settings["precision"]])
        name = f"denoise_steps{steps}_seed{seed}"
        found = self.jobs.get(name)
        if found and found.given["inputs"] != inputs:
            raise ValueError(
                f"{training.title}: with {steps} denoising steps another system starts from another checkpoint, number "
                "of layers or precision, and they share one denoised start: give them the same, or other denoising_steps"
            )
        given, seconds = {"training": asdict(training), "inputs": inputs}, self.costs.computing(self.costs.denoising(training.given, steps))
        return found or self._add(name, "denoise", inputs, given, gpus=1, seconds=seconds)

    def rerank(
        self, training: Training, split: str, level: int, away: str | None = None, needs: Sequence[Job] = ()
    ) -> Job:
        """Another split of a trained system, that of a rotation (whose number stands in its name already), or one of
        another collection."""
        trained, given = self.jobs[f"train_{training.name}"], {"training": asdict(training), "split": split, "level": level}
        collection, tag, data = self.collection, split, self.data.get(split)
        if away:
            collection = load_collection(away)
            tag, data = f"{short_name(away)}.{split}", _split_hash(collection, split)
            output = Path(self.config.folder) / "transfer" / short_name(away) / training.system / f"seed{training.seed}"
            given |= {"away": away, "output": str(output)}
        folds = self.config.folds  # of which one is tested
        queries = len(collection.queries(self.validation if folds else split)) // (folds or 1)
        operations = self.costs.ranking(training.system, training.given, queries * self.config.depth)
        return self._add(
            f"rerank_{training.name}" + ("" if folds else f"_{tag}"), "rerank", [trained.key, data, level], given, [trained, *needs],
            gpus=trained.gpus, seconds=self.costs.computing(operations, trained.gpus), measures=[tag, training.system, training.seed],
        )  # fmt: skip

    def transfer(self, collection: str, split: str, level: int) -> None:
        """Every trained system taken to a split of another collection, where BM25 has its usual k1 and b."""
        away, tag = load_collection(collection), f"{short_name(collection)}.{split}"
        of = [__version__, away.fingerprint(), _split_hash(away, split), level, self.config.depth]
        given = {"away": collection, "split": split, "level": level}
        seconds = self.costs.searching(len(away.queries(split)), away)
        bm25 = self._add(f"measure_bm25_{tag}", "measure", of, given, seconds=seconds)
        for training in trainings(self.config):
            self.rerank(training, split, level, collection, [bm25])
        given = {"transfer_collection": collection, "transfer_split": split, "transfer_relevance_level": level}
        self.analyse("10_transfer", tag, [bm25, *self._measured(self.validation, tag)], more=given)

    def train_rotations(self, training: Training) -> None:
        """A system and seed in every rotation, and the turns they were tested on joined."""
        level, tested = self.config.splits[self.validation], []
        for rotation, each in enumerate(rotations(self.config, training)):
            self.train(each)
            tested.append(self.rerank(each, f"test{rotation}", level))
        measures = [self.validation, training.system, training.seed]
        given = {"training": asdict(training)}
        self._add(f"join_{training.name}", "join", [job.key for job in tested], given, tested, measures=measures)

    def look_at(self, notebook: str, which: str) -> None:
        """A notebook of `ANALYSES`, on the splits and with the systems that it looks at."""
        config, looked_into = self.config, self.looked_into["split"]
        compared = [name for name in LABELS if name in (FIRST_STAGE, *config.systems)]
        generating = [name for name in config.systems if SYSTEMS[name].generative_tasks]
        baseline = SYSTEMS.get(config.baseline)  # none for BM25
        others = [name for name in generating if baseline and SYSTEMS[name] != baseline]
        encoders = [name for name in others if SYSTEMS[name].backbone == baseline.backbone == "encoder"]
        systems = {"generating": generating, "encoders": encoders}.get(which, compared)
        inside = [looked_into] if systems else []
        splits = {
            "every": list(config.splits), "validation": [self.validation], "once": [None], "another": [None] * len(self.away),
            "categories": [split for split in config.splits if "category" in self.collection.queries(split)],
            "generating": inside, "encoders": inside,
        }[which]  # fmt: skip
        for split in splits:
            needs = self._measured(*(config.splits if which == "another" else [split or looked_into]))
            rotation = self.looked_into if config.folds and which in OF_ONE_ROTATION else {}
            self.analyse(notebook, split, needs, systems, rotation)

    def study(self, study: str) -> None:
        """The trainings of a study, and the notebook that looks at them beside the config's own, which stand for those that
        would repeat them."""
        own = {_hash(self._settings(job.given["training"])): job for job in self._of("train") if job.measures}
        planned = [(each, own.get(_hash(self._settings(asdict(each))))) for each in trainings(self.config, study)]
        other = {each.system for each, same in planned if not same}  # without one a system is not in the study
        trained = [same if same and each.system in other else self.train(each) for each, same in planned]
        if study in STUDIES:
            systems = self.config.studies[study]["systems"]
            more = {"baseline": self._baseline_of(study, systems)}
            self.analyse(STUDIES[study], None, [*self._measured(self.validation), *trained], systems, more)

    def _baseline_of(self, study: str, systems: Sequence[str]) -> str:
        """The config's baseline where a study can be compared with it, else the first system that it can be: one of its own,
        or, where losses are weighted, one that learns to rank alone."""
        alone = [name for name in self.config.systems if not SYSTEMS[name].generative_tasks]
        among = alone if study == "loss_weighting" else systems
        if not among:
            raise ValueError(f"config {self.config.name}: study {study} needs a system that learns to rank alone, as bert, among systems")
        return self.config.baseline if self.config.baseline in among else among[0]

    def analyse(
        self, notebook: str, split: str | None, needs: list[Job], systems: Sequence[str] | None = None, more: Mapping = {}
    ) -> None:
        """more: what a notebook is given beside the config's own parameters, or in their place."""
        config, level = self.config, self.config.splits
        systems = systems or [name for name in LABELS if name in (FIRST_STAGE, *config.systems)]
        split_or_validation = split if split in level else self.validation
        known = {
            "collection": config.collection, "train_split": config.train_split, "splits": list(level),
            "relevance_levels": list(level.values()), "depth": config.depth, "results_dir": config.folder,
            "baseline": config.baseline, "split": split_or_validation, "relevance_level": level[split_or_validation],
            "systems": systems, "system": _compared_with(config.baseline, systems),
            # Of 11, as in Table 10; without BART_S and BERT the tests are against the config's baseline.
            "reference": next((name for name in ("bart_s", "bert") if name in config.systems), config.baseline),
        }  # fmt: skip
        for away in self.away:
            known |= {"transfer_split": away, "transfer_relevance_level": level[away]}
        given = _given(config, notebook, known | more)
        needs = [*self._of("measure"), *needs]
        of = [_code(config, notebook), given, self.data, self.first_stage, [need.key for need in needs]]
        name, computes = notebook if split is None else f"{notebook}_{split}", notebook in COMPUTING
        does = {"notebook": notebook, "name": name, "parameters": given, "computes": computes}
        operations = self._likelihood(given, split) if notebook == LIKELIHOOD else 0
        seconds = self.costs.computing(operations) + 3 * NOTEBOOK * computes
        self._add(name, "analyse", of, does, needs, gpus=int(computes), seconds=seconds)

    def _likelihood(self, given: Mapping, split: str) -> float:
        """Operations of notebook 12: of every pair of a split, or of those of a sample of its queries."""
        trained = next(each for each in trainings(self.config) if each.system == given["system"])
        queries = len(self.collection.queries(split))
        pairs = min(queries, given.get("most_queries") or queries) * self.config.depth
        return self.costs.ranking(trained.system, trained.given, pairs)


def notebook_of(config: Config, name: str) -> Path:
    return Path(config.project) / "notebooks" / f"{name}.ipynb"


def _given(config: Config, notebook: str, known: Mapping) -> dict[str, object]:
    """What a notebook is given: those of its parameters that are known, or that the config sets."""
    known = {**known, **config.notebooks.get(notebook, {})}
    return {name: known[name] for name in notebook_parameters(notebook_of(config, notebook)) if name in known}


def without_answers(config: Config, collection: Collection) -> str | None:
    """The sentence for systems that learn from answers where there are none: which, and how to do without them."""
    every = {each.system for each in all_trainings(config)}
    need = [system for system in LABELS if system in every and SYSTEMS[system].needs_answers]
    try:
        if need:
            collection.answers(config.train_split)
    except (OSError, ValueError) as error:
        rest = ",".join(system for system in config.systems if system not in need)
        return f"{', '.join(LABELS[system] for system in need)}: {error}; or leave it out: --config 'systems=[{rest}]'"
    return None


def _compared_with(baseline: str, systems: Sequence[str]) -> str:
    """The system that a notebook about one pair puts beside the baseline: GDMTL, or the last one where it cannot be."""
    others = [system for system in systems if system != baseline]
    return "gdmtl" if "gdmtl" in others else [baseline, *others][-1]


def _decides_training(settings: Mapping, validation: str, weights: str | None) -> list:
    """Those of 03_train's parameters and data that change what is trained, not only what is shown of it."""
    left_out = set()
    if not settings["validate_every_epoch"]:
        left_out, validation = {"validation_split", "relevance_level"}, ""
    left_out |= {"output_dir", "resume", "device", "processes", "collection", "gradient_cosines_every", "denoised_dir",
                 "keep_epoch_runs"}  # fmt: skip
    kept = {name: value for name, value in settings.items() if name not in left_out}
    return [kept, validation, weights]


def _split_hash(collection: Collection, split: str) -> str:
    """SHA-256 of all that a split holds and of the passages it searches."""
    frames = [frame_hash(collection.queries(split)), frame_hash(collection.qrels(split))]
    with suppress(ValueError):  # most splits have no answers
        frames.append(frame_hash(collection.answers(split)))
    return _hash([*frames, collection.passages_fingerprint(split)])


def _weights(checkpoint: str | None) -> str | None:
    """The hash of the weights in a local folder; what has a name elsewhere is known by it."""
    weights = Path(checkpoint or "") / "model.safetensors"
    return file_hash(weights) if weights.is_file() else checkpoint


def _code(config: Config, notebook: str) -> str:
    """Hash of a notebook's code, whatever its prose and metadata."""
    cells = json.loads(notebook_of(config, notebook).read_text(encoding="utf-8"))["cells"]
    return _hash(["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"])


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
