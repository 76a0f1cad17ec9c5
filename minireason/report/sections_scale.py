"""Sections of the two scaling axes: reinforcement learning, process critic and search."""

from minireason.report import figures, figures_scale, figures_search
from minireason.report.markup import Page, grid, percent, points, section, share, table, text
from minireason.report.runs import level_of


def rl(page: Page) -> str:
    """What reinforcement learning added, and its diagnostics."""
    if "rl" not in page.run:
        return ""
    config, result = page.run["rl"]["config"], page.run["rl"]["result"]
    accuracy = result["accuracy"]
    rows = [[str(level_of(name)), share(accuracy["sampled_before"][name]),
             share(accuracy["sampled"][name]), share(accuracy["cot"][name])]
            for name in accuracy["sampled"]]
    last = result["curve"][-1]
    return section(
        "Reinforcement learning",
        text(f"{config['steps']} steps of {config['prompts_per_step']} train problems, levels",
             f"{config['min_level']} to {config['max_level']}, {config['group_size']} samples",
             f"each; advantage {config['advantage']}, {last['generated_tokens'] / 1e6:.2f} million",
             f"tokens generated, {last['flops']:.2e} FLOPs."),
        grid(page.figure("rl_curve", "Validation accuracy against generated tokens",
                         figures_scale.rl_curve),
             page.figure("rl_diagnostics", "Diagnostics against the step",
                         figures_scale.rl_diagnostics)),
        table(["level", "one sample before (%)", "one sample after (%)", "greedy after (%)"], rows),
        *coverage(page))


def coverage(page: Page) -> list[str]:
    """pass@1, pass@N and best-of-N before and after RL, on the sets that both were measured on."""
    before, after = (page.run.get(stage, {}).get("result", {}).get("curves", {})
                     for stage in ("testtime", "rl_testtime"))
    rows = []
    for name in (name for name in after if name in before):
        n = str(min(before[name]["samples"], after[name]["samples"]))
        for what, at, method in (("pass@1", "1", "single"), (f"pass@{n}", n, "coverage"),
                                 (f"critic best-of-{n}", n, "critic_best_of_n")):
            rows.append([str(level_of(name)), what, *(
                share(curve[name]["points"][at][method]) for curve in (before, after))])
    return [text("What one sample gains and what many samples reach; pass@N asks the verifier."),
            table(["level", "", "before RL (%)", "after RL (%)"], rows)] if rows else []


def revise(page: Page) -> str:
    """How often the self-correcting policy withdraws a wrong step, a right one, and mends it."""
    if "revise" not in page.run:
        return ""
    result = page.run["revise"]["result"]
    rows = [[str(level_of(name)), *(share({**rates[kind], "accuracy": rates[kind]["share"]})
                                    for kind in ("detection", "false_alarm", "mended")),
             share(result["accuracy"]["sampled"][name])]
            for name, rates in result["withdrawals"].items()]
    return section(
        "Self-correction",
        text(f"Taught on {result['pool_with_errors']} problems' own wrong steps, each withdrawn",
             "before the right one. One sample a test problem, T = 1:"),
        table(["level", "wrong steps withdrawn (%)", "right steps withdrawn (%)",
               "wrong ones mended (%)", "accuracy (%)"], rows))


def critics(page: Page) -> str:
    """What each critic was taught, and how well it judges whole samples and single steps."""
    found = {name: stage for name, stage in page.run.items()
             if stage["stage"] == "critic" and "label_accuracy" in stage["result"]}
    if not found:
        return ""
    rows, drawn = [], []
    for name, stage in found.items():
        result = stage["result"]
        rows.append([name, stage["config"]["labels"], f"{100 * result['label_accuracy']:.1f}",
                     *(f"{result[key]:.3f}" for key in ("auc", "auc_min", "auc_product",
                                                        "auc_steps")), str(result["held_out"])])
        if result.get("monte_carlo"):
            drawn.append(page.figure(f"labels_{name}", f"Monte Carlo labels of {name}, "
                                       f"{result['monte_carlo']['step_ends']} step ends",
                                       figures_scale.labels, name))
    return section(
        "Step labels",
        text("A label is right if it says what the exact verifier says of all steps up to there.",
             "AUC is the probability that the critic puts a right one above a wrong one; whole",
             "samples are scored by the last value, the lowest, or the product."),
        table(["critic", "labels", "right labels (%)", "AUC last", "AUC min", "AUC product",
               "AUC of steps", "samples"], rows), grid(*drawn))


def flywheel(page: Page) -> str:
    """Search writes the training data, turn by turn."""
    if "flywheel" not in page.run:
        return ""
    config, turns = page.run["flywheel"]["config"], page.run["flywheel"]["result"]["turns"]
    names = list(turns[0]["accuracy"]["cot"])[-3:]
    rows = [[str(i), percent(turn.get("precision")), f"{turn['auc']:.3f}",
             *(share(turn["accuracy"]["cot"][name]) for name in names)]
            for i, turn in enumerate(turns, 1)]
    return section(
        "Flywheel",
        text(f"Each turn: {config['problems']} new train problems, {config['n']} samples each,",
             f"one chosen by {config['search']}, kept by the filter “{config['filter']}”; the",
             "pretrained model" if config["restart"] else "last policy", "is trained on those and",
             "tested greedily on the frozen sets."),
        grid(page.figure("flywheel_levels", "Accuracy per level after each turn",
                         figures.flywheel_levels),
             page.figure("flywheel", "What search finds, and how much of what is kept is right",
                         figures_scale.flywheel)),
        table(["turn", "right among kept (%)", "critic's AUC",
               *(f"level {level_of(name)} (%)" for name in names)], rows))


def search(page: Page) -> str:
    """Every method at equal tokens, where search gains, what allocation saves, and one tree."""
    if "search" not in page.run:
        return ""
    config, parts = page.run["search"]["config"], []
    for name, found in page.run["search"]["result"]["sets"].items():
        level = level_of(name)
        drawn = [page.figure(f"search_k{level}", f"Accuracy at equal tokens, level {level}",
                             figures_search.equal_tokens, name)]
        shown = page.run["search"]["trees"].get(name)
        if shown:
            drawn.append(page.figure(
                f"tree_k{level}", f"Tree search on {shown['prompt']}, right in "
                f"{100 * shown['pass_rate']:.0f}% of single samples; red rings are wrong steps",
                figures_search.tree, name))
        parts += [
            f"<h3>Level {level}</h3>", text(
                f"{found['n_problems']} test problems; N stands for the tokens of N samples,",
                f"{found['unit']} each, whatever the method. No method asks the verifier; only",
                "coverage does, which is a bound."), grid(*drawn), *differences(found),
            text("Tokens that an allocation chosen out of sample spends, beside critic best-of-N",
                 "at the largest N; “oracle” bins know each problem's pass rate. The saving is one",
                 "at equal accuracy where the last interval says so:"),
            table(["allocation", "tokens a problem", "of best-of-N's (%) [95%]", "factor [95%]",
                   "accuracy, points [95%]"],
                  [allocation(who, row) for who, row in found["allocation"].items()])]
    return section("Search", text(f"Critic-guided search, {config['width']} steps a prefix."),
                   *parts)


def differences(found: dict) -> list[str]:
    """Each method minus critic best-of-N at equal N, by difficulty: the largest N, then all."""
    against = found["against_best_of_n"]
    if not against:
        return []
    last = max((what.split()[1] for what in against), key=int)
    bins = next(row for what, row in against.items() if what.endswith(f" {last}"))["bins"]
    header = ["method, N", "all", *(f"bin {i}" for i, _ in enumerate(bins, 1))]
    rows = {what: [what.replace("_", " "), points(row["all"]), *map(points, row["bins"])]
            for what, row in against.items()}
    first = [f"best-of-N {last} (%)", f"{100 * found['curves']['best_of_n'][last]['mean']:.1f}",
             *(f"{100 * b['best_of_n']:.1f}" for b in bins)]
    return [text("Difference to critic best-of-N at equal N in points [95%, paired], over all",
                 f"problems and by difficulty: {bins[0]['n']} problems a bin, 1 is easiest by the",
                 "pass rate of other samples. “Vote” answers by the values summed over equal",
                 "answers:"),
            table(header, [first, *(r for what, r in rows.items() if what.endswith(f" {last}"))]),
            "<details><summary>At every N</summary>", table(header, list(rows.values())),
            "</details>"]


def allocation(who: str, row: dict) -> list[str]:
    """What one way to allocate saves against best-of-N, and what that does to the accuracy."""
    low, high = (100 / row[f"factor_{end}"] for end in ("high", "low"))
    return [who, f"{row['tokens']:.0f}", f"{100 / row['factor']:.0f} [{low:.0f}, {high:.0f}]",
            f"{row['factor']:.2f} [{row['factor_low']:.2f}, {row['factor_high']:.2f}]",
            f"{100 * row['difference']:+.1f} [{100 * row['difference_low']:+.1f}, "
            f"{100 * row['difference_high']:+.1f}]"]
