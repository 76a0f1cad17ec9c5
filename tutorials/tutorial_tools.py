"""What the tutorials share: the finished run that they read, numbers with intervals, figures."""

import os
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from minireason.core.errors import UserError
from minireason.core.files import check_manifest
from minireason.measure.estimates import paired_bootstrap, wilson
from minireason.model.checkpoint import family_of
from minireason.report.style import STYLE, WIDTH

matplotlib.rcParams.update(STYLE)
ROOT = Path(__file__).resolve().parents[1]
RUNS = Path("runs/quickstart"), ROOT / "runs" / "quickstart", ROOT / "data" / "quickstart"


def finished(*stages: str) -> Path:
    """A run folder in which these stages are finished, and as they were then; else the script ends
    with one line.

    MINIREASON_RUN, or runs/quickstart here or in the repository, or else the run that it ships.
    """
    named = os.environ.get("MINIREASON_RUN")
    folder = Path(named) if named else next(path for path in RUNS if path.is_dir())
    lacking = [stage for stage in stages if not (folder / stage / "result.json").is_file()]
    if lacking:
        raise SystemExit(f"{folder}: holds no finished stage {', '.join(lacking)}; run "
                         "`minireason run` first, or let MINIREASON_RUN name a finished run folder")
    try:
        for stage in stages:
            check_manifest(folder / stage)
        family = family_of(folder / stages[0])
    except UserError as error:
        raise SystemExit(str(error)) from None
    if family != "chain":
        raise SystemExit(f"{folder}: is a run of {family}, and the tutorials read one of chain; "
                         "let MINIREASON_RUN name another, such as data/quickstart")
    return folder


def share(successes: float, n: int) -> str:
    """A share of n in percent, with its 95% Wilson interval; a dash for a share of nothing."""
    if n == 0:
        return "–, n = 0"
    low, high = wilson(successes, n)
    return f"{100 * successes / n:.1f}% [{100 * low:.1f}, {100 * high:.1f}], n = {n}"


def mean(values, others=None) -> str:
    """The mean over problems in percent, of values or of values - others, with its 95% bootstrap
    interval."""
    values = np.asarray(values, dtype=float)
    others = np.zeros(len(values)) if others is None else np.asarray(others, dtype=float)
    middle, low, high = (100 * x for x in paired_bootstrap(values, others, draws=2000))
    return f"{middle:.1f} [{low:.1f}, {high:.1f}], n = {len(values)}"


def nats(values: np.ndarray, chosen: np.ndarray | None = None) -> str:
    """The mean of values (P, M) in nats, or of those chosen, with its 95% bootstrap interval; whole
    problems are drawn, as the M thoughts of one are no independent trials."""
    chosen = np.ones(values.shape) if chosen is None else chosen
    totals, counts = (values * chosen).sum(axis=1), chosen.sum(axis=1)        # (P,)
    if not counts.sum():
        return "–, n = 0"
    rows = np.random.default_rng(0).integers(0, len(values), (2000, len(values)))
    rows = rows[counts[rows].sum(axis=1) > 0]
    low, high = np.quantile(totals[rows].sum(axis=1) / counts[rows].sum(axis=1), (0.025, 0.975))
    return f"{totals.sum() / counts.sum():+.2f} [{low:+.2f}, {high:+.2f}], n = {counts.sum():.0f}"


def panels(columns: int = 1, height: float = 3.6) -> tuple[Figure, object]:
    """(figure, its axes) in the house's style; no window opens."""
    figure = Figure(figsize=(WIDTH * columns, height), layout="constrained")
    return figure, figure.subplots(1, columns)


class Saved:
    """A figure in its file: a script ignores it, a notebook shows it."""

    def __init__(self, path: Path):
        self.path = path

    def __repr__(self) -> str:
        return f"figure in {self.path}"

    def _repr_png_(self) -> bytes:
        return self.path.read_bytes()


def keep(figure: Figure, name: str) -> Saved:
    """Save the figure as tutorial_figures/<name>.png."""
    path = Path("tutorial_figures") / f"{name}.png"
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)
    print(f"figure: {path}")
    return Saved(path)
