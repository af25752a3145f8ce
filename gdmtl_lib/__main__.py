"""The command line: `python -m gdmtl_lib compare a.run b.run --qrels q.txt`, and rerank, generate, evaluate.

Each command is a few calls of the library; whatever more is wanted is a notebook.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

import gdmtl_lib as gdmtl
from gdmtl_lib.data.files import decode_line, read_lines
from gdmtl_lib.evaluation.measures import PAPER_MEASURES, PAPER_NAMES, summarize
from gdmtl_lib.evaluation.tables import marked_effectiveness
from gdmtl_lib.experiments.metadata import write_metadata
from gdmtl_lib.experiments.results import labelled
from gdmtl_lib.experiments.runs import Runs, open_runs
from gdmtl_lib.settings import check_count

DEVICES = ("auto", "cpu", "cuda", "mps")
_EXAMPLES = """examples:
  python -m gdmtl_lib compare bm25.run mine.run.gz --qrels qrels.txt --output compared
  python -m gdmtl_lib evaluate mine.run --qrels irds:msmarco-passage/dev/small --measures RR@10 nDCG@10
  python -m gdmtl_lib rerank papermill_runs/sample/gdmtl/seed0/checkpoint --candidates bm25.run --collection sample --output mine.run
  python -m gdmtl_lib generate papermill_runs/sample/gdmtl/seed0/checkpoint passages.txt -n 3
"""


def compare(options) -> None:
    opened = _open(options)
    if len(opened.systems()) < 2:
        raise ValueError("one run: there is nothing to compare it with; `evaluate` measures it")
    by_path = dict(zip(options.runs, opened.systems()))
    baseline, _ = opened.pair(by_path.get(options.baseline, options.baseline))
    values = opened.values_by_system()
    tests = gdmtl.compare(values, baseline, options.measures)
    shown = {name: of[of["measure"].isin(options.measures)] for name, of in values.items()}
    effectiveness = marked_effectiveness(shown, tests)
    columns = ["measure", "system", "baseline", "mean", "difference", "low", "high", "p", "p_corrected", "mark"]
    differences = labelled(tests[tests["system"] != baseline].assign(baseline=baseline))[columns].replace({"measure": PAPER_NAMES})
    small = dict.fromkeys(("p", "p_corrected"), "{:.2g}".format)
    opened.save_table(effectiveness, "effectiveness")
    opened.save_table(differences.reset_index(drop=True), "differences")
    print(f"{opened!r}; marks and differences are against {baseline}")
    print(f"\n{effectiveness.rename_axis(None).to_string()}\n\n{differences.to_string(index=False, float_format='%.4f', formatters=small)}")
    print("""
Better ▲ p < 0.01, △ p < 0.05; worse ▼, ▽. Paired t-tests, Holm-corrected over the runs of one measure; low and high: the
95% interval of the difference, not corrected. RBP's second number: what unjudged passages could add. Equal scores are ordered
by passage id, as trec_eval does it.""")
    print(f"written: effectiveness and differences, .csv and .tex, in {opened.folder / 'tables'}")


def evaluate(options) -> None:
    opened = _open(options)
    rows = {name: summarize(values).set_index("measure")["text"] for name, values in opened.values_by_system().items()}
    print(pd.DataFrame(rows).T[options.measures].rename(columns=PAPER_NAMES).to_string())


def rerank(options) -> None:
    collection = gdmtl.load_collection(options.collection)
    model = gdmtl.load_model(options.checkpoint)
    run = gdmtl.rerank(
        model, collection, options.candidates, output=options.output, precision=options.precision,
        device=options.device,
    )  # fmt: skip
    write_metadata(options.output, model.system.name, collection.name)
    print(f"written: {options.output}, {len(run):,} pairs of {run['query_id'].nunique():,} queries")


def generate(options) -> None:
    # A line a passage: what else Python's text files take for a line's end (U+2028, a form feed) is part of one.
    lines = (
        ((number, decode_line(Path("-"), number, raw)) for number, raw in enumerate(sys.stdin.buffer, 1))
        if options.passages == "-" else read_lines(options.passages)
    )  # fmt: skip
    passages = [line.strip() for _, line in lines]
    check_count("n", options.n)
    how = dict(method="sample", n=options.n, seed=options.seed) if options.n > 1 else {}
    texts = [passage for passage in passages if passage]
    how |= {"device": options.device}
    written = iter(gdmtl.generate(gdmtl.load_model(options.checkpoint), texts, **how) if texts else ())
    for passage in passages:  # of an empty line an empty one, or the lines would not be those of the passages
        queries = next(written) if passage else ""
        print("\t".join([queries] if isinstance(queries, str) else queries))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m gdmtl_lib", description="Rank, write and compare; a thin command line over gdmtl_lib.",
        epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(function, words):
        added = commands.add_parser(function.__name__, help=words, description=words)
        added.set_defaults(command=function)
        return added.add_argument

    judged = []
    for function, words in (
        (compare, "Test runs of any tool against each other: means with marks, differences with intervals."),
        (evaluate, "Measure runs of any tool."),
    ):
        add = command(function, words)
        add("runs", nargs="+", help="TREC run files, plain or .gz")
        add("--qrels", required=True, help="a file of TREC judgments, or irds:<id> of ir_datasets")
        add("--measures", nargs="+", default=list(PAPER_MEASURES), help="in ir-measures' notation (default: the paper's six)")
        add("--level", type=int, default=1, help="the lowest grade that counts as relevant (default: 1)")
        judged.append(add)
    judged[0]("--baseline", help="the run the others are tested against, by the name of its file (default: the first)")
    judged[0]("--output", default=".", help="where tables/ with CSV and LaTeX goes (default: here)")

    add = command(rerank, "Re-rank the candidates of a run with a trained system.")
    add("checkpoint", help="the folder of a trained system")
    add("--candidates", required=True, help="a TREC run: whose passages are scored")
    add("--collection", required=True, help="where the texts are: sample, a folder, irds:<id>, ...")
    add("--output", required=True, help="the run to write, .gz if you like; an interrupted call goes on from it")
    add("--precision", default="auto", choices=("auto", "fp32", "bf16", "fp16"))
    add("--device", default="auto", choices=DEVICES)

    add = command(generate, "Write queries for passages with a trained system, a line a passage.")
    add("checkpoint", help="the folder of a trained system that writes")
    add("passages", help="a file with a passage a line; - for what is piped in")
    add("-n", type=int, default=1, help="queries a passage, sampled where more than one (default: the likeliest)")
    add("--seed", type=int, default=0, help="of the sampling, where -n is more than 1")
    add("--device", default="auto", choices=DEVICES)

    given = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(given or ["--help"])
    try:
        options.command(options)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError, RuntimeError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")


def _open(options) -> Runs:
    how = dict(relevance_level=options.level, measures=options.measures, folder=getattr(options, "output", "."))
    opened = open_runs(options.runs, options.qrels, **how)
    print("".join(f"{gap}\n" for gap in opened.gaps()), end="", file=sys.stderr)
    return opened


if __name__ == "__main__":
    warnings.formatwarning = lambda message, *_, **__: f"{message}\n"
    main()
