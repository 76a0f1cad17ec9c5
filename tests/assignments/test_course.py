"""The teacher's kit is true to the repository: every file that it names is there, its hidden tests
run, and its numbers are those of RESULTS.md."""

import re
from pathlib import Path

import grading
import pytest
from wrong_solutions import ASSIGNMENTS, FOLDERS, Local, solution_path

ROOT = ASSIGNMENTS.parents[1]
COURSE = ROOT / "tutorials" / "course"
PAGES = sorted([*COURSE.glob("*.md"), ROOT / "tutorials" / "README.md",
                *ASSIGNMENTS.glob("*/README.md")])
FILE = re.compile(r"`([\w./]+\.(?:py|md|cu|h))`|`((?:cuda_ext|minireason|tests|tutorials)/[\w/]+)`|"
                  r"`(\d\d_\w+)`")
STUDENTS = {"my_solution.py", "my_solution.cu", "report.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_every_link_and_file_name_leads_somewhere(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert (page.parent / target).exists(), target
    places = (page.parent, ROOT, ROOT / "tutorials", ASSIGNMENTS, ROOT / "minireason", COURSE)
    for names in FILE.findall(text):
        name = next(filter(None, names))
        if name not in STUDENTS:
            assert (any((place / name).exists() for place in places)
                    or (ROOT / "tutorials" / f"{name}.py").exists()
                    or any(ASSIGNMENTS.glob(f"*/{name}"))), name


def test_the_kit_is_whole():
    syllabus, exam = (COURSE / "syllabus.md").read_text(), (COURSE / "exam.md").read_text()
    assert len(re.findall(r"^### \d+\. ", syllabus, re.M)) == 10
    assert len(re.findall(r"^\d+\. \*", exam, re.M)) == 30 == len(re.findall(r"\]\s*$", exam, re.M))
    slides = (COURSE / "slides.md").read_text()
    assert slides.startswith("---\nmarp: true\n")
    assert [f"## Week {week}" in slides for week in range(1, 11)] == [True] * 10
    for folder in FOLDERS:
        assert f"`{folder}`" in syllabus, folder
    for tutorial in (ROOT / "tutorials").glob("[01]?_*.py"):
        if tutorial.name < "12":
            assert f"`{tutorial.name}`" in syllabus and tutorial.name in slides, tutorial.name


def test_numbers_on_the_slides_are_those_of_the_results():
    """What the results are said to be stands there in words; the slides repeat it."""
    results = " ".join((ROOT / "docs" / "RESULTS.md").read_text().split())
    slides = (COURSE / "slides.md").read_text()
    for slide, said in (("base 19.3% at level 8; its teachers 20.2%",
                         "The base answers 19.3% right, one sample 11.8%; its teachers, by their "
                         "rules, 20.2%"),
                        ("+21 points [13, 31]", "worth 21 points [13, 31]"),
                        ("+39 points [30, 48]", "adds 39 points [30, 48]"),
                        ("68 to 90% over seeds", "68 to 90% at level 8"),
                        ("+19 points [10, 27]", "they gain 19 points [10, 27]"),
                        ("| 4 samples | 91% | 78% |", "beam search finds 91%, best-of-4 78%"),
                        ("| 64 samples | 92% | 98.7% |", "best-of-N (98.7%) is ahead of both beams "
                         "(92%)")):
        assert slide in slides and said in results, slide


def test_the_example_of_hidden_tests_tells_right_from_wrong(tmp_path):
    hidden = grading.hidden_checks(str(COURSE / "hidden_example.py"), pytest.fail)
    right = solution_path("01_step_checker")
    assert all(check.hidden for check in hidden)
    assert [grading.outcome(check, Local(right), 0) for check in hidden] == ["", ""]
    wrong = tmp_path / "wrong.py"
    wrong.write_text(right.read_text().replace("state = exact if claimed is None else claimed",
                                               "state = exact"))
    assert "expected [False, True, False]" in grading.outcome(hidden[1], Local(wrong), 0)
    wrong.write_text(right.read_text().replace("(?:;{PLAIN_STEP})*", "(?:;{PLAIN_STEP}){{0,9}}"))
    assert "expected (True, True, True)" in grading.outcome(hidden[0], Local(wrong), 0)


def test_rubric_points_of_reports_add_up():
    for folder in ("08_star_filter", "09_grpo_rloo", "10_critic_picks"):
        text = (ASSIGNMENTS / folder / "README.md").read_text()
        graded, rubric = text.split("| rubric for the report")
        points = [int(n) for n in re.findall(r"\| (\d+) \|$", graded, re.M)]
        assert sum(points) == 10 == sum(int(n) for n in re.findall(r"\| (\d+) \|$", rubric, re.M))


@pytest.mark.parametrize("path", [COURSE / "exam.md"], ids=["exam"])
def test_sums_in_the_exam_are_right(path: Path):
    text = path.read_text()
    assert f"about {0.95 ** 8:.0%}" in text and f"= {0.75 / 0.1875 ** 0.5:.2f}.]" in text
    assert f"= {1 - 15 / 70:.3f}.]" in text
    assert f"{100 * (1 - 0.95 ** 4 - 0.05 ** 4):.1f}%" == "18.5%" and "18.5%" in text
    assert f"about {32 ** 0.5:.1f}" in text
