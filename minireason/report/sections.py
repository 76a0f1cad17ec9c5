"""The ladder's sections of report.html: each returns HTML, or "" where its stage is missing.

A section says what is measured on how many problems, shows a figure and gives the numbers as a
table. To add one: write its function and name it in report.SECTIONS.
"""

from html import escape

from minireason.measure.evaluate import answer_of, marked_steps
from minireason.problems import FAMILIES
from minireason.report import figures, figures_search
from minireason.report.markup import Page, grid, percent, points, section, share, table, text
from minireason.report.runs import STAGES, level_of, rungs

MARKS = {"right": "✓", "wrong": "✗ wrong", "withdrawn": "↺ withdrawn by the policy"}


SAMPLED = {"testtime": "", "rl_testtime": ", after RL"}   # stages that draw N samples


def curves(page: Page, stage: str = "testtime") -> dict[str, dict]:
    """Test-time curves by set name, none without the stage."""
    return page.run[stage]["result"]["curves"] if stage in page.run else {}


def ladder(page: Page) -> str:
    """Accuracy of every stage on every level."""
    steps = rungs(page.run, rounds=True)
    names = list(steps["direct answer"])
    sizes = sorted({point["n"] for points in steps.values() for point in points.values()})
    rows = [[rung, *(share(points[name]) for name in names)] for rung, points in steps.items()]
    hardest = figures_search.hardest(page.run)
    return section(
        "The ladder",
        text("Greedy accuracy on frozen test problems that no stage was trained on,",
             f"n = {' to '.join(map(str, sizes))} a level, with Wilson 95% intervals.",
             "Sampled methods at the largest N are from the test-time stage."
             if curves(page) else ""),
        grid(page.figure("ladder", "Accuracy of every stage against level", figures.ladder),
             page.figure("climb", f"The whole climb at level {level_of(hardest)}",
                         figures_search.climb, hardest)),
        "<details><summary>Numbers (percent)</summary>",
        table(["stage", *(f"level {level_of(name)}" for name in names)], rows), "</details>")


def pretraining(page: Page) -> str:
    """The loss curve of the base model."""
    stage = page.run["pretrain"]
    if not stage["metrics"]:
        return ""
    last = stage["metrics"][-1]["train/loss"]
    return section(
        "Pretraining",
        text(f"{stage['tokens'] / 1e6:.2f} million tokens; the last step's loss is {last:.3f} nats",
             "per token. Facts, direct answers and a thin tail of worked lines."),
        grid(page.figure("pretraining", "Training loss, each step and smoothed",
                         figures.pretraining)))


def star(page: Page) -> str:
    """What the policy taught itself, round by round."""
    if "star" not in page.run:
        return ""
    config, rounds = page.run["star"]["config"], page.run["star"]["result"]["rounds"]
    rows = [[str(i), str(r["kept"]), *(percent(r.get(key)) for key in
             ("share_solved", "share_rationalized", "share_wrong_steps"))]
            for i, r in enumerate(rounds, 1)]
    return section(
        "STaR",
        text(f"Each round: {config['problems']} new train problems of levels {config['min_level']}",
             f"to {config['max_level']}, {config['n']} samples each; a rationale is kept if its",
             "answer is right" + (" and every step is." if config["keep"] == "steps" else ";"),
             "" if config["keep"] == "steps" else
             "the verifier then says how many of those have a wrong step."),
        grid(page.figure("star_levels", "Accuracy per level after each round", figures.star_levels),
             page.figure("star_shares", "What was kept, and what was right for wrong reasons",
                         figures.star_shares)),
        table(["round", "kept", "solved (%)", "by the hint (%)", "wrong steps (% of kept)"], rows))


def testtime(page: Page) -> str:
    """Accuracy against samples and against tokens, and the paired differences."""
    parts = []
    for stage, when in SAMPLED.items():
        for name, curve in curves(page, stage).items():
            title = f"level {level_of(name)}{when}"
            parts.append(f"<h3>L{title[1:]}</h3>" + text(
                f"{curve['n_problems']} test problems, {curve['samples']} samples each at T =",
                f"{curve['temperature']:g}, {curve['tokens_per_sample']:.1f} tokens a sample on",
                "average. Bands are 95% bootstrap intervals over problems. Coverage asks the",
                "verifier which sample is right, so it is a bound and not a method."))
            parts.append(grid(*(
                page.figure(f"{stage}_{axis}_k{level_of(name)}", f"Accuracy against {what}, "
                            f"{title}", figures.testtime, name, axis, stage)
                for axis, what in (("samples", "samples"), ("tokens", "generated tokens")))))
            rows = [[pair.replace("_", " "), points(d)] for pair, d in curve["differences"].items()]
            parts.append(table([f"paired difference at N = {curve['samples']}", "points [95%]"],
                               rows))
    return section("Test-time compute", *parts) if parts else ""


def calibration(page: Page) -> str:
    """May the critic's value be read as a probability?"""
    parts = []
    for stage, judge in zip(SAMPLED, ("critic", "rl_critic"), strict=True):
        if stage not in page.run:
            continue
        bins, critic = page.run[stage]["result"]["calibration"], page.run.get(judge)
        if critic:
            parts.append(text(
                f"On {critic['result']['held_out']} held-out samples of train problems, {judge}",
                "puts a right one above a wrong one with probability",
                f"{critic['result']['auc']:.3f} (AUC; 0.5 is chance)."))
        parts.append(grid(*(
            page.figure(f"{stage}_calibration_k{level_of(name)}", "Test-time samples by the "
                        f"critic's value at their end, level {level_of(name)}{SAMPLED[stage]}; "
                        "area shows how many", figures.calibration, name, stage) for name in bins)))
    return section("The critic", *parts) if parts else ""


def samples(page: Page) -> str:
    """Completions of the final policy, each step marked by the verifier."""
    parts, stage = [], "rl_testtime" if "rl_testtime" in page.run else "testtime"
    for name, records in page.run.get(stage, {}).get("examples", {}).items():
        family = FAMILIES[page.run[stage]["config"]["family"]]
        problems = [family.read(record["prompt"]) for record in records]
        judged = [(record, problem, family.verify(problem, record["example"]))
                  for record, problem in zip(records, problems, strict=True)]
        shown = []
        kinds = {"right": lambda v: v.steps_valid, "right answer, wrong steps":
                 lambda v: v.correct and not v.steps_valid, "wrong": lambda v: not v.correct}
        for title, belongs in kinds.items():
            chosen = [item for item in judged if belongs(item[2])][:3]
            shown += [completion(*item, title) for item in chosen]
        parts += [text(f"First samples of test problems of level {level_of(name)}; a step is right "
                       "if it follows exactly from the state that the step before it claimed."),
                  grid(*shown, kind="samples")]
    return section("Sample completions", *parts) if parts else ""


def completion(record: dict, problem, verdict, title: str) -> str:
    """One completion; every step with its mark in words and colour."""
    text_of = record["example"]
    marked = "".join(f'<li class="{mark}"><code>{escape(step)}</code> {MARKS[mark]}</li>'
                     for step, mark in marked_steps(problem, text_of))
    answer = answer_of(problem, text_of)
    if answer is None:
        marked = f'<li class="wrong"><code>{escape(text_of)}</code> ✗ malformed</li>'
    end = f"answer {answer}" if answer is not None else "no answer"
    truth = "" if verdict.correct else f", the right one is {problem.answer}"
    return (f'<div class="sample"><p><code>{escape(problem.prompt)}</code></p><ol>{marked}</ol>'
            f'<p class="{"right" if verdict.correct else "wrong"}">{escape(end + truth)} '
            f"({escape(title)}; critic's value {record['values'][0]:.2f})</p></div>")


def cost(page: Page) -> str:
    """Seconds and tokens a stage, and every setting."""
    rows, details = [], []
    for name, stage in page.run.items():
        seconds = stage["result"].get("seconds")
        rows.append([name, "–" if seconds is None else f"{seconds:.0f}",
                     f"{stage['tokens']:,}" if stage["tokens"] else "–"])
        settings = [[key, str(value)] for key, value in stage.get("config", {}).items()]
        details.append(f"<details><summary>{escape(name)}</summary>"
                       f"{table(['setting', 'value'], settings)}</details>")
    parameters = page.run["pretrain"]["result"].get("parameters")
    size = f"{parameters:,} parameters; " if parameters else ""
    return section("Configuration and cost", text(f"{size}{page.machine}."),
                   table(["stage", "seconds", "tokens trained on"], rows), *details)


def missing(page: Page) -> str:
    """Names the stages that this run did not finish; nothing is shown in their place."""
    absent = [name for name in STAGES if name not in page.run]
    return text(f"Not in this run: {', '.join(absent)}.") if absent else ""
