"""TREC CAsT 2019: conversations whose turns are queries, and judgments of two collections' passages.

A turn's id is `<session>_<turn>`. A judged passage is `MARCO_<MS MARCO's id>` or `CAR_<TREC CAR's id>`; the paper's
tables are of the MS MARCO part (Section 5.1).
"""

import re
from collections.abc import Iterable

import pandas as pd

# The organisers' manually resolved queries, of all 50 sessions.
RESOLVED = "evaluation_topics_annotated_resolved_v1.0.tsv"
RESOLVED_URL = f"https://raw.githubusercontent.com/daltonj/treccastweb/master/2019/data/evaluation/{RESOLVED}"
MS_MARCO_PREFIX, CAR_PREFIX = "MARCO_", "CAR_"


def ms_marco_part(qrels: pd.DataFrame) -> pd.DataFrame:
    """The judgments of MS MARCO's passages, under MS MARCO's own ids; those of TREC CAR's, and turns that have no
    other, are left out. Judgments of one collection, whose ids carry no prefix, are returned as they are. Raises
    ValueError where ids with a prefix and ids without one are mixed.
    """
    marco, car = (qrels["doc_id"].str.startswith(prefix) for prefix in (MS_MARCO_PREFIX, CAR_PREFIX))
    if not (marco | car).any():
        return qrels
    if not (marco | car).all():
        row = qrels[~(marco | car)].iloc[0]
        raise ValueError(
            f"expected every judged passage to be {MS_MARCO_PREFIX}... or {CAR_PREFIX}..., as CAsT has them, "
            f"found {row['doc_id']!r} (query {row['query_id']!r}): keep the two kinds of judgments in two files"
        )
    part = qrels[marco].reset_index(drop=True)
    return part.assign(doc_id=part["doc_id"].str.removeprefix(MS_MARCO_PREFIX))


def sessions_of(query_ids: Iterable[str]) -> list[str] | None:
    """The session of every turn, `31` for `31_4`; None where the ids are not those of turns."""
    matches = [re.fullmatch(r"(\d+)_\d+", query_id) for query_id in query_ids]
    return [match[1] for match in matches] if matches and all(matches) else None
