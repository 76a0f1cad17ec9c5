"""report.html: one file by itself, from page.html.j2 and sections.html.j2; any family, any stage.

The page shows the stages in the ladder's order (STAGES), those of one kind together. To add a
section, write one block (a macro of sections.html.j2, listed in its `sections` under the stage's
kind) and one figure function that takes the runs (figures.py). Without a block a stage gets its
rows as one table, so a new stage is on the page from its first run.
"""

import base64
from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from matplotlib.figure import Figure

from minireason import stages
from minireason.core.config import write_atomic
from minireason.measure.evaluate import answer_of, marked_steps
from minireason.problems import FAMILIES
from minireason.report import figures, figures_testtime, style, tables
from minireason.report import runs as results

MARKS = {"right": "✓", "wrong": "✗ wrong", "withdrawn": "↺ withdrawn by the policy"}


def render(template: str, **values: object) -> str:
    """A template of this folder; it may call what the report's modules offer."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined,
        autoescape=select_autoescape(["html.j2"]), trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {"results": results, "tables": tables, "figures": figures,
                            "testtime": figures_testtime, "MARKS": MARKS}
    environment.filters["markdown"] = tables.markdown
    return environment.get_template(template).render(values).strip()


def write_page(folder: Path) -> Path:
    """report.html with every figure inside, and the figures as PNG beside it; returns its path."""
    run = results.load_run(folder)
    (folder / "figures").mkdir(exist_ok=True)
    kinds: dict[str, dict[str, dict]] = {}     # each where its last stage stands: all critics
    for name, stage in run.items():
        kinds[stage["stage"]] = {**kinds.pop(stage["stage"], {}), name: stage}

    def picture(name: str, function: Callable[..., Figure], *arguments: object) -> Markup:
        path = style.save(folder / "figures" / f"{name}.png", function, [run], *arguments)
        return Markup(base64.b64encode(path.read_bytes()).decode())

    path = folder / "report.html"
    write_atomic(path, render(
        "page.html.j2", title=f"minireason: {folder.name}", run=run, picture=picture,
        machine=results.load_machine(folder), kinds=kinds, completions=completions,
        help={stage.name: stage.help for stage in stages.STAGES},
        missing=[s.name for s in stages.STAGES if s.in_run and s.name not in run]) + "\n")
    return path


def completions(stage: dict, name: str) -> list[dict]:
    """The kept first samples on one set, with the verifier's marks."""
    family, found = FAMILIES[stage["config"]["family"]], []
    for record in stage["examples"][name]:
        problem, text = family.read(record["prompt"]), record["example"]
        verdict, kind = family.verify(problem, text), "wrong"
        if verdict.correct:
            kind = "right" if verdict.steps_valid else "right answer, wrong steps"
        found.append({"problem": problem, "text": text, "right": verdict.correct, "kind": kind,
                      "steps": marked_steps(problem, text), "answer": answer_of(problem, text),
                      "value": record["values"][0]})
    return found
