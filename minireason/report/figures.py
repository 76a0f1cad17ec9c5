"""The figures of training, from loaded runs: one run shows intervals, several show their range.

Each function takes the runs (one per seed), returns a matplotlib Figure and writes nothing. Beside
the figure of RL's diagnostics stand four signs that it goes wrong, each with its limit.
"""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minireason.measure.evaluate import MANY_CUT
from minireason.problems import FAMILIES
from minireason.report import runs as results
from minireason.report import style
from minireason.report.runs import group_by, level_of, rows_of, select
from minireason.report.style import BLACK, BLUE, GREEN, ORANGE, RED, SEEDS

SHARES = {  # stage: {method of its train rows: (colour, marker, label, line)}
    "star": {
        "share_solved": (GREEN, "o", "problems solved (of all)", "-"),
        "share_rationalized": (ORANGE, "s", "problems added by the hint (of all)", "-"),
        "share_wrong_steps": (RED, "^", "right answer, wrong steps (of kept)", "-")},
    "flywheel": {
        "single": (BLACK, "o", "one sample", "-"),
        "searched": (BLUE, "D", "chosen by search", "-"),
        "coverage": (RED, "v", "coverage (oracle bound)", "--"),
        "precision": (GREEN, "^", "right among those kept", ":")}}
DIAGNOSTICS = {  # title: {key of RL's metrics: colour}
    "reward": {"reward": BLUE}, "entropy (nats per token)": {"entropy": BLUE},
    "approx. KL to the sampler (nats)": {"approx_kl": BLUE},
    "clip fraction": {"clip_fraction": BLUE},
    "silent groups, cut completions (share)": {
        "share_silent": BLUE, "share_cut": RED},
    "length (tokens)": {"length_right": GREEN, "length_wrong": RED}}
MANY_SILENT = 0.75    # share of groups: with a quarter left, the gradient's noise has doubled
LITTLE_ENTROPY = 0.5  # nats per completion: two samples are the same text with chance exp(-0.5)
MUCH_LONGER = 1.5     # last length / first; levels are drawn alike throughout, which moves it by 5%
SOLVED = 0.95         # share of right samples above which little entropy is no loss


def along(rows: list[dict], field: str, x: str = "") -> tuple[np.ndarray, list[tuple]]:
    """Field x (mean over seeds) and (mean, low, high) in percent at each value of a field."""
    groups = group_by(rows, field).values()
    places = [np.mean([row[x or field] for row in members]) for members in groups]
    return np.array(places), list(map(style.spread, groups))


def draw_limit(axes: Axes, runs: list[dict], method: str, name: str = "",
               label: str = "its teachers", colour: str = style.GREY) -> None:
    """Dashed: what imitating the authors of the pretraining text reaches, on one set or by level.

    A validation set has the limit of the test set of its level. Nothing without authors.
    """
    rows = results.limit_rows(runs, method)
    if name:
        for row in select(rows, set=(name, name.replace("-validation-", "-test-"))):
            axes.axhline(100 * row["accuracy"], color=colour, linestyle="--", linewidth=1.1,
                         label=label)
    elif rows:
        levels, spreads = along([{**row, "level": level_of(row["set"])} for row in rows], "level")
        axes.plot(levels, np.array(spreads)[:, 0], color=colour, linestyle="--", label=label)


def ladder(runs: list[dict], band: dict | None = None) -> Figure:
    """Accuracy against level, one line per policy; band: the committed runs' ranges, shaded."""
    figure, axes = style.canvas()
    rows = [{**row, "level": level_of(row["set"])} for row in results.rung_rows(runs)]
    rungs = group_by(rows, "rung")
    for i, (rung, members) in enumerate(rungs.items()):
        levels, spreads = along(members, "level")
        look = style.RUNGS.get(rung, (RED, "x"))
        style.whiskers(axes, levels + 0.07 * (i - len(rungs) / 2), spreads, *look, rung)
        of_seeds = (band or {"rungs": {}})["rungs"].get(rung, {})
        if of_seeds:
            axes.fill_between(list(map(level_of, of_seeds)),
                              [100 * min(values) for values in of_seeds.values()],
                              [100 * max(values) for values in of_seeds.values()],
                              color=look[0], alpha=style.SHADE, linewidth=0)
    draw_limit(axes, runs, "greedy")
    axes.set_xticks(list(group_by(rows, "level")))
    family = FAMILIES[runs[0]["pretrain"]["config"]["family"]]
    return style.finish(figure, axes, f"level ({family.LEVEL_NAME})")


def pretraining(runs: list[dict]) -> Figure:
    """Training loss against tokens, with the mean of the 20 steps around each over it."""
    figure, axes = style.canvas()
    for i, run in enumerate(runs):
        metrics = run["pretrain"]["metrics"]
        tokens = np.cumsum([line["train/tokens"] for line in metrics]) / 1e6
        loss = np.array([line["train/loss"] for line in metrics])
        window = max(1, min(20, len(loss) // 10))
        smooth = np.convolve(loss, np.ones(window) / window, "valid")
        start = (window - 1) // 2
        axes.plot(tokens, loss, color=BLUE, alpha=0.2, linewidth=0.8)
        axes.plot(tokens[start:start + len(smooth)], smooth, color=SEEDS[i % 5],
                  label=f"seed {run['pretrain']['config']['seed']}")
        entropy = run["pretrain"]["result"].get("entropy_per_token")
        if entropy and not i:
            axes.axhline(entropy, color=style.GREY, linestyle="--", label="entropy of the text")
    axes.set_xlabel("tokens trained on (millions)")
    axes.set_ylabel("loss (nats per token)")
    axes.set_ylim(bottom=0)
    if len(axes.lines) > 2:
        style.legend_below(figure, axes)
    return figure


def by_round(runs: list[dict], stage: str, what: str) -> Figure:
    """Greedy accuracy against the round, one line per level; 0 is the policy it started from."""
    figure, axes = style.canvas()
    start = Path(runs[0][stage]["config"]["init"]).name
    before = results.tagged(results.final_rows(runs, start), round=0)
    rows = before + rows_of(runs, stage=stage, method="greedy")
    sets = group_by(rows, "set")
    for i, (name, members) in enumerate(sets.items()):
        rounds, spreads = along(members, "round")
        style.whiskers(axes, rounds + 0.025 * (i - len(sets) / 2), spreads, style.SHADES[i % 8],
                       "os^Dv<>P"[i % 8], f"level {level_of(name)}")
        draw_limit(axes, runs, "greedy", name, "" if i else "its teachers", style.SHADES[i % 8])
    rounds = group_by(rows, "round")
    axes.set_xticks(list(rounds), [str(number or before[0]["rung"]) for number in rounds])
    return style.finish(figure, axes, what, columns=4)


def train_shares(runs: list[dict], stage: str, what: str) -> Figure:
    """What each round found on new train problems, and how sound the part of it that was kept."""
    figure, axes = style.canvas()
    columns, shade = (1, 0.0) if stage == "star" else (2, style.SHADE)
    on_train = group_by(rows_of(runs, stage=stage, set="train"), "method")
    for method, look in SHARES[stage].items():
        if method in on_train:
            style.whiskers(axes, *along(on_train[method], "round"), *look, shade)
    axes.set_xticks(list(group_by(on_train["kept"], "round")))
    return style.finish(figure, axes, what, "share (%)", columns)


def rl_curve(runs: list[dict]) -> Figure:
    """Validation accuracy against the tokens that RL has generated; several runs show the range."""
    figure, axes = style.canvas()
    lines: dict[str, list[dict]] = {}
    for row in rows_of(runs, stage="rl"):
        if "step" in row:
            what = "one sample" if row["method"] == "sampled" else row["method"]
            lines.setdefault(f"level {level_of(row['set'])}, {what}", []).append(row)
    for i, (label, rows) in enumerate(lines.items()):
        tokens, spreads = along(rows, "step", "generated_tokens")
        one = rows[0]["method"] == "sampled"
        style.whiskers(axes, tokens / 1e6, spreads, SEEDS[i % 5], "os^Dv"[i % 5], label,
                       "-" if one else "-.", style.SHADE)
        draw_limit(axes, runs, "single" if one else "greedy", rows[0]["set"],
                   "its teachers, one sample" if one else "its teachers, greedy", SEEDS[i % 5])
    return style.finish(figure, axes, "tokens generated by RL (millions)",
                        "validation accuracy (%)", 2)


def rl_diagnostics(runs: list[dict]) -> Figure:
    """Reward, entropy, KL, clip fraction, silent groups and lengths against the step."""
    figure = Figure(figsize=(style.WIDTH, 5.4), layout="constrained")
    panels = figure.subplots(3, 2, sharex=True).flat
    for axes, (title, lines) in zip(panels, DIAGNOSTICS.items(), strict=True):
        for key, colour in lines.items():
            for i, run in enumerate(runs):
                logged = [line for line in run["rl"]["metrics"] if f"train/{key}" in line]
                points = [(line["step"], line[f"train/{key}"]) for line in logged]
                axes.plot(*np.reshape(points, (-1, 2)).T, color=colour, linewidth=1,
                          alpha=1 if len(runs) == 1 else 0.6,
                          label="" if i else key.partition("_")[2])
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=8)
        if len(lines) > 1:
            axes.legend(fontsize=8, loc="best")
    figure.supxlabel("RL step", fontsize=9)
    return figure


def first_and_last(metrics: list[dict], key: str) -> np.ndarray:
    """(2,) mean over the first and over the last tenth of the steps that have a key; else NaN."""
    values = [line[f"train/{key}"] for line in metrics if f"train/{key}" in line]
    if not values:
        return np.full(2, np.nan)
    tenth = max(1, len(values) // 10)
    return np.array([np.mean(values[:tenth]), np.mean(values[-tenth:])])


def signs_of(metrics: list[dict]) -> list[tuple[str, str]]:
    """(a number at the first and last steps, "" or what to do about it) for each sign, from the
    metrics of an RL stage; a sign that was not measured is left out."""
    right, cut, silent, entropy = (first_and_last(metrics, key) for key in (
        "accuracy", "share_cut", "share_silent", "entropy"))
    lengths = first_and_last(metrics, "length_wrong")
    if np.isfinite(first_and_last(metrics, "length_right")).all():
        lengths += right * (first_and_last(metrics, "length_right") - np.nan_to_num(lengths))
    nats, solved = entropy * lengths, right[1] > SOLVED
    mend = ("equally right: raise --min-level, so that easy levels are left out"
            if right[1] > 0.5 else "equally wrong: lower --max-level")
    signs = [
        ("completions cut at max_new (%)", 100 * cut, cut[1] > MANY_CUT,
         "thoughts that find no end earn nothing: lower --lr, or start from a policy that was "
         "trained for longer"),
        ("groups without signal (%)", 100 * silent, silent[1] > MANY_SILENT,
         f"the samples of most groups are {mend}, raise --group-size, or draw such groups anew "
         "with --redraws 2"),
        ("entropy (nats per completion)", nats, nats[1] < LITTLE_ENTROPY and not solved,
         "samples of a problem are all the same text, so nothing new is found: train for fewer "
         "steps, lower --lr, or raise --clip-high"),
        ("length (tokens)", lengths, lengths[1] > MUCH_LONGER * lengths[0],
         "thoughts grow without need: lower --lr, or weigh all tokens alike (--aggregation token)")]
    return [(f"{name}: {first:.3g} at first, {last:.3g} at the end", advice if alarming else "")
            for name, (first, last), alarming, advice in signs if np.isfinite([first, last]).all()]


def quiet_thoughts(runs: list[dict], stage: str = "quiet_star") -> Figure:
    """Quiet thoughts: accuracy and loss by thought length, w by kind of token, gain by decile."""
    figure = Figure(figsize=(style.WIDTH, 8), layout="constrained")
    lengths, losses, kinds, deciles = figure.subplots(4, 1, height_ratios=(3, 2, 2, 2))
    sets = group_by(rows_of(runs, stage=stage, method="quiet"), "set")
    for i, (name, members) in enumerate(sets.items()):
        style.whiskers(lengths, *along(members, "tokens"), SEEDS[i % 5], "os^Dv"[i % 5],
                       f"level {level_of(name)}")
        by_length = group_by(members, "tokens").items()
        losses.plot([length for length, _ in by_length],
                    [np.mean([row["nats"] for row in rows]) for _, rows in by_length],
                    color=SEEDS[i % 5], marker="os^Dv"[i % 5])
    for axes in (lengths, losses):
        axes.set(xlabel="tokens per thought at most", ylabel="nats per answer")
    style.percent_axis(lengths)
    lengths.legend(fontsize=8)
    weights = group_by(rows_of(runs, stage=stage, method="weight"), "token")
    kinds.bar(list(weights), [np.mean([row["accuracy"] for row in members])
                              for members in weights.values()], color=BLUE)
    kinds.set(ylim=(0, 1), xlabel="kind of token", ylabel="mean w after it")
    gains = group_by(rows_of(runs, stage=stage, method="gain"), "decile")
    deciles.bar(list(gains), [np.mean([row["gain"] for row in members])
                              for members in gains.values()], color=GREEN)
    deciles.set(xlabel="decile of the line's own loss (10: the hardest tokens)",
                ylabel="gain (nats)")
    return figure
