"""Studies to play with: the figures of studies under controls, as in `widgets`."""

from collections.abc import Mapping

import ipywidgets
import pandas as pd

from gdmtl_lib.experiments import studies
from gdmtl_lib import figures as plots
from gdmtl_lib.evaluation.measures import PAPER_NAMES
from gdmtl_lib.systems import LABELS
from .results import Explorer


def explore_training_size(
    study: studies.Study,
    trainings: pd.DataFrame,
    queries: Mapping[float, int],
    first_stage: pd.DataFrame,
    baseline: str,
    measure: str = "RR@10",
) -> Explorer:
    """Figure 7: choose systems (several with Ctrl or Shift) and the measure. Marks are corrected over all systems.

    first_stage: BM25's per-query values. The other arguments as for `plots.training_size`.
    """
    means = study.means(trainings)
    # All of them at once: a change of the measure only draws.
    tables = {name: studies.training_size(study, trainings, baseline, name) for name in means["measure"].unique()}
    bm25 = first_stage.groupby("measure")["value"].mean()

    def draw(systems, measure):
        rows, by_seed = tables[measure], means[means["measure"] == measure]
        if not systems:
            raise ValueError("systems: choose at least one")
        rows = rows[rows["system"].isin(systems)]
        return plots.training_size(rows, by_seed, queries, bm25[measure], baseline, measure)

    names = list(trainings["system"].unique())
    options = [(LABELS[system], system) for system in names]
    controls = {
        "systems": ipywidgets.SelectMultiple(options=options, value=names, rows=min(len(names), 5), description="systems"),
        "measure": _measure(means, measure),
    }
    return Explorer(draw, controls)


def explore_loss_weighting(
    study: studies.Study,
    trainings: pd.DataFrame,
    reference: pd.DataFrame,
    first_stage: pd.DataFrame,
    sigmas: pd.DataFrame,
    measure: str = "RR@10",
) -> Explorer:
    """The weightings of the losses under another measure.

    reference: the trainings of the system that learns to rank alone. first_stage: BM25's per-query values. sigmas:
    what `studies.learned_sigmas` returns.
    """
    means = pd.concat([study.means(trainings), study.means(reference)], ignore_index=True)
    bm25 = first_stage.groupby("measure")["value"].mean()
    [system], [baseline] = (part["system"].unique() for part in (trainings, reference))

    def draw(measure):
        of_measure = means[means["measure"] == measure]
        weighted, alone = (of_measure[of_measure["system"] == name] for name in (system, baseline))
        return plots.loss_weighting(weighted, alone, bm25[measure], sigmas, measure)

    return Explorer(draw, {"measure": _measure(means, measure)})


def _measure(means: pd.DataFrame, measure: str) -> ipywidgets.Dropdown:
    known = means["measure"].unique()
    options = [(PAPER_NAMES.get(name, name), name) for name in known]
    return ipywidgets.Dropdown(options=options, value=measure, description="measure")
