"""Every tutorial runs in its tiny form, as a script and as a notebook, and every grader tells right
from typically wrong."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pytest
import torch
from jupyter_client.manager import KernelManager

from cuda_ext import build
from minireason.core.files import write_manifest
from minireason.model import checkpoint
from minireason.stages import rl

TUTORIALS = Path(__file__).resolve().parents[1] / "tutorials"
sys.path.append(str(TUTORIALS))
import notebooks  # noqa: E402

KEY_LINES = {   # tutorial: what it must print
    "01_problem_and_verifier": ("tricks that win: naive grader 8 of 10, verifier 0 of 10",
                                "falsely: 0.0% [0.0, ", "share 0 keys", "split by key:    0.0%"),
    "02_transformer_by_hand": ("masked:   outputs that moved: [8]", "counted 52,912, model 52,912",
                               "loss by hand", "without RoPE", "trained weights: largest"),
    "03_pretraining": ("validation loss", "width 32: a = ", "straight line"),
    "04_chain_of_thought": ("level 8: direct ", "p^k", "level 8, SFT, here: "),
    "05_star": ("by hand the same", "kept with a wrong step: ", "round 2: kept "),
    "06_reinforcement_learning": ("dJ/dz: by autograd", "baseline the best", "k3 0.1",
                                  "least variance: by hand", "gradient of a silent group: ",
                                  "no gradient for rho from 1.28", "after 2 updates ",
                                  "the run, greedy, step"),
    "07_votes_and_critics": ("all 28 subsets 0.4643, library 0.4643", "AUC by last: ", "checked",
                             "Monte Carlo       steps: AUC", "expected calibration error",
                             "coverage (oracle bound) - critic best-of-N"),
    "08_search_and_flywheel": ("charged ", "tree - best-of-N: ", "filter critic "),
    "09_quiet_thoughts": ("flat against shared: ", "thought with a wrong step, nats: ",
                          "silent groups, ", "own thoughts - base, thinking aloud: ",
                          "own thoughts - no thoughts, at once: "),
    "10_thoughts_that_disappear": ("fewer than 5 bits: 0.0", "after </think>, swapped: ",
                                   "without the swap: ", "internalized - direct: "),
    "11_when_to_think": ("p = 0.988: slope ", "level 2, examples with a thought: ",
                         "break-even price by level: ", "share that thinks, ",
                         "closed at 12 tokens: ", "exit at 0.9: ",
                         "choosing - a coin with as many tokens: "),
    "12_sampler_and_cache": ("naive 1420, cached 55", "row 5 together and alone: ",
                             "1, 3 and 512 rows are the same: True", "as reported: "),
    "13_allocating_compute": ("chosen by bin: ", "scored on the other half (%): ",
                              "by hand equal the library's", "until sure: factor"),
    "14_self_correction": ("not counted: 23+4=28", "wrong steps withdrawn: ",
                           "a first wrong step from a right one: AUC", "backtracking - control: "),
    "15_countdown_search": ("one move leads to 19 states", "distance - random at 10 moves: ",
                            "streams that end in a solution: "),
    "16_scaling_laws": ("grows as C^0.452, by hand C^0.452", "unseen points ", "loss by N: "),
    "17_cuda_kernel": ("rescaled ", "T =  64: naive   332,800 numbers read",
                       "tiled: largest score"),
    "18_two_processes_and_export": ("every one sent 1500, by the formula 1500", "rank 1 of 2",
                                    "Qwen3ForCausalLM: largest difference", "same bits: True"),
}

NEED_A_RUN = [name for name in KEY_LINES
              if "RUN = finished(" in (TUTORIALS / f"{name}.py").read_text()]
NEED_A_COMPILER = ("17_cuda_kernel",)


@pytest.fixture(scope="module")
def finished_run(ladder, tmp_path_factory) -> Path:
    """The tiny ladder with one step of reinforcement learning, as a run folder has it."""
    run = tmp_path_factory.mktemp("tutorials") / "run"
    shutil.copytree(ladder, run)
    shutil.copytree(run / "critic", run / "rl_critic")
    rl.run(rl.Config(init=f"{run}/star", out=f"{run}/rl", device="cpu", steps=1,
                       prompts_per_step=2, group_size=2, max_level=2, eval_every=1,
                       validation_n=4, eval_n=2))
    return run


def run_tutorial(name: str, run: Path, folder: Path, monkeypatch) -> dict:
    """Run the script as `python tutorials/NAME.py` would, in an empty folder."""
    monkeypatch.setenv("MINIREASON_TUTORIAL_SMALL", "1")
    monkeypatch.setenv("MINIREASON_RUN", str(run))
    monkeypatch.syspath_prepend(TUTORIALS)
    monkeypatch.chdir(folder)
    with matplotlib.rc_context():
        return runpy.run_path(str(TUTORIALS / f"{name}.py"), run_name="__main__")


def test_every_tutorial_is_tested():
    assert sorted(KEY_LINES) == sorted(path.stem for path in TUTORIALS.glob("[0-9]*.py"))


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelManager]:
    """One kernel for all notebooks, so that torch is imported once."""
    manager = KernelManager(kernel_name="python3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINIREASON_TUTORIAL_SMALL", "1")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(TUTORIALS), *sys.path]))
        manager.start_kernel()
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("name", KEY_LINES)
def test_a_notebook_runs_and_says_what_it_teaches(name, finished_run, tmp_path, kernel):
    """Made from the script and executed in a kernel, its figure inline."""
    if name in NEED_A_COMPILER:
        need_host_compiler()
    notebook = notebooks.notebook_of(TUTORIALS / f"{name}.py")
    here = f"""%reset -f
import os
os.environ["MINIREASON_RUN"] = {str(finished_run)!r}
os.chdir({str(tmp_path)!r})"""
    notebook.cells.insert(0, notebooks.nbformat.v4.new_code_cell(here))
    out = notebooks.execute(notebook, tmp_path, km=kernel)
    for line in KEY_LINES[name]:
        assert line in out, f"{name} does not print {line!r}"
    figures = list((tmp_path / "tutorial_figures").glob("*.png"))
    assert [path.stem[:2] for path in figures] == [name[:2]]
    assert figures[0].stat().st_size > 5000
    shown = [x.data for cell in notebook.cells for x in cell.get("outputs", []) if "data" in x]
    assert ["image/png" in data for data in shown] == [True]


@pytest.mark.parametrize("name", NEED_A_RUN)
def test_a_tutorial_survives_a_policy_that_is_never_right(name, finished_run, tmp_path,
                                                          monkeypatch, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    for stage in ("pretrain", "sft", "star", "rl"):
        model, tokenizer = checkpoint.load(run / stage)
        checkpoint.save(run / stage, model.init_weights(torch.Generator().manual_seed(1)),
                        tokenizer)
        write_manifest(run / stage, "result.json", (run / stage / "result.json").read_text())
    run_tutorial(name, run, tmp_path, monkeypatch)
    assert "figure: " in capsys.readouterr().out


@pytest.mark.parametrize("name", NEED_A_RUN)
def test_without_a_run_a_tutorial_says_what_to_do(name, tmp_path, monkeypatch):
    with pytest.raises(SystemExit) as stop:
        run_tutorial(name, tmp_path / "nowhere", tmp_path, monkeypatch)
    message = str(stop.value.code)
    assert "run `minireason run` first" in message and "nowhere" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", KEY_LINES)
def test_a_tutorial_ends_in_its_claim_and_three_exercises(name):
    """An asserted claim, one closing sentence, and exercises with folded hints and answers."""
    text = (TUTORIALS / f"{name}.py").read_text()
    assert text.startswith(f"# %% [markdown]\n# # {int(name[:2])}. ")
    assert 'os.environ.get("MINIREASON_TUTORIAL_SMALL")' in text
    *_, claim, code, last = text.split("# %%")
    assert "# ## The claim" in claim and re.search(r"^\s*assert ", code, re.M), "no claim"
    closing, tried = last.split("# ## Try it")
    prose = " ".join(line.lstrip("# ") for line in closing.splitlines()).strip()
    assert re.search(r"In one sentence: [^.]+\.$", prose), "no closing sentence"
    questions, hints, answers = re.split("<details><summary>(?:Hints|Answers)</summary>", tried)
    for part in (questions, hints, answers):
        numbers = re.findall(r"^# (\d)\. \S", part, re.M)
        assert numbers == ["1", "2", "3"], f"exercises, hints, answers 1 to 3, not {numbers}"


@pytest.mark.parametrize("path", sorted((TUTORIALS / "notebooks").glob("*.ipynb")),
                         ids=lambda path: path.stem)
def test_a_committed_notebook_is_what_its_script_says(path):
    assert notebooks.faults(path) == []


def test_prose_is_renewed_and_other_code_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "HERE", tmp_path)
    (tmp_path / "tutorial_tools.py").write_text("")
    script, path = tmp_path / "30_toy.py", tmp_path / "30_toy.ipynb"
    script.write_text("# %% [markdown]\n# Old.\n\n# %%\nprint(6 * 7)\n")
    done = notebooks.notebook_of(script)
    done.cells[-1].outputs = [notebooks.nbformat.v4.new_output("stream", text="42\n")]
    script.write_text(script.read_text().replace("Old", "New"))
    notebooks.write(done, path)
    assert [fault.split(":")[0] for fault in notebooks.faults(path)] == [
        "its prose is not the script's", "without a figure"]
    renewed = notebooks.with_prose_of(done, notebooks.notebook_of(script))
    assert renewed.cells[2].source == "New." and renewed.cells[-1].outputs[0].text == "42\n"
    notebooks.write(renewed, path)
    assert notebooks.faults(path) == ["without a figure"]
    script.write_text(script.read_text().replace("6", "8"))
    assert "of other code than the script's" in notebooks.faults(path)[0]
    with pytest.raises(ValueError, match="the code has changed"):
        notebooks.with_prose_of(renewed, notebooks.notebook_of(script))


def test_a_colab_link_names_the_repository():
    script = TUTORIALS / "02_transformer_by_hand.py"
    link, setup, *_ = notebooks.notebook_of(script, "me/mine").cells
    assert "google.com/github/me/mine/blob/main/tutorials/notebooks/02_transf" in link.source
    assert '"https://github.com/me/mine"' in setup.source and "%pip install" in setup.source


# ---- assignments ---------------------------------------------------------------------------------

ASSIGNMENTS = TUTORIALS / "assignments"
LIBRARY_CALLS = {   # folder: a solution that calls the library
    "01_step_checker": """
from minireason.problems import chain
compute, parse = chain.compute, chain.parse
def check_steps(prompt, steps):
    return chain.check_steps(chain.read(prompt), steps)
def verify(prompt, completion):
    verdict = chain.verify(chain.read(prompt), completion)
    return verdict.correct, verdict.steps_valid, verdict.well_formed
""",
    "02_attention": """
import torch
from minireason.model import attention
qk_norm, causal_attention = attention.head_norm, attention.attention_reference
def rope(x, positions, theta):
    cos, sin = attention.rope_tables(int(positions.max()) + 1, x.shape[-1], theta)
    return attention.rotate(x, cos[positions, None], sin[positions, None])
def self_attention(qkv, q_gain, k_gain, n_heads, n_kv_heads, theta, eps):
    q, k, v = attention.split_heads(qkv, n_heads, n_kv_heads)
    at = torch.arange(qkv.shape[1])
    q, k = rope(qk_norm(q, q_gain, eps), at, theta), rope(qk_norm(k, k_gain, eps), at, theta)
    return causal_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2).flatten(-2)
""",
    "03_votes": """
import numpy as np
from minireason.measure.estimates import best_of_n, pass_at_k, vote
from minireason.search.vote import agreement
def weighted_vote(answers, weights, right):
    return vote(answers, weights, answers == right)
def majority(answers):
    return next((a for a, good in zip(answers, agreement(answers)) if good), None)
""",
    "04_policy_gradient": """
import torch
from minireason.training.losses import group_advantages, policy_gradient_loss, token_weights
""",
    "05_beam_search": """
from minireason.search.steps import Node, Task
def beam_search(draw, value, beams, width, longest, budget):
    task, kept, finished = Task(Node([]), budget, longest), [()], []
    while kept:
        candidates = {}
        for prefix in kept:
            n = min(width, task.left // longest)
            if n == 0:
                candidates = {}
                break
            for step in draw(prefix, n):
                task.charge(step.tokens, finished=True)
                if step.state == "complete":
                    finished.append((*prefix, step.text))
                if step.state == "open":
                    candidates[*prefix, step.text] = None
        kept = sorted(candidates, key=value, reverse=True)[:beams]
    return max(finished, key=value, default=None), task.spent
""",
    "06_allocation": """
import numpy as np
from minireason.search import allocate as library
difficulty_bins = library.difficulty_bins
def strategies(correct, tokens):
    return [library.Strategy("s", i, c, t) for i, (c, t) in enumerate(zip(correct, tokens))]
def choose(correct, tokens, bins, used, price):
    return library.choose(strategies(correct, tokens), bins, used, price)
def allocate(correct, tokens, bins, fold, price):
    found = library.allocate(strategies(correct, tokens), bins, fold, [price])
    return found.correct, found.tokens
def saved(reference, tokens, rows):
    factors = reference[rows].mean(axis=1) / tokens[rows].mean(axis=1)
    low, high = np.quantile(factors, (0.025, 0.975))
    return float(reference.mean() / tokens.mean()), float(low), float(high)
""",
    "07_cuda_kernel": """
#include "vocabulary.h"

constexpr int THREADS = 128;

static __device__ float power(float x, float largest) { return expf(x - largest); }

template <bool LARGEST> static __device__ float reduce(float x, float *shared) {
    int t = threadIdx.x;
    shared[t] = x;
    __syncthreads();                                      // written
    for (int n = THREADS / 2; n > 0; n /= 2) {
        float other = t < n ? shared[t + n] : 0.f;
        if (t < n) shared[t] = LARGEST ? fmaxf(shared[t], other) : shared[t] + other;
        __syncthreads();                                  // reduced
    }
    float all = shared[0];
    __syncthreads();                                      // read
    return all;
}

__global__ void softmax_row(const float *scores, float *weights, int n_queries, int n_keys) {
    float *shared = shared_memory<float>();
    int t = threadIdx.x, query = blockIdx.x;
    int64_t first = (int64_t(blockIdx.y) * n_queries + query) * n_keys;
    const float *row = scores + first;
    int seen = n_keys - n_queries + query + 1;
    float largest = -INFINITY, sum = 0.f;
    for (int j = t; j < seen; j += THREADS) largest = fmaxf(largest, row[j]);
    largest = reduce<true>(largest, shared);
    for (int j = t; j < seen; j += THREADS) sum += power(row[j], largest);
    sum = reduce<false>(sum, shared);
    for (int j = t; j < n_keys; j += THREADS)
        weights[first + j] = j < seen ? power(row[j], largest) / sum : 0.f;
}

EXPORT int causal_softmax(const float *scores, float *weights, int n_matrices, int n_queries,
                          int n_keys, void *stream) {
    dim3 grid(n_queries, n_matrices);
    return launch(softmax_row, grid, THREADS, THREADS * sizeof(float), stream, scores, weights,
                  n_queries, n_keys);
}
""",
}
WHOLE, ANY, ZEROS, HIDDEN, SEVERAL, LARGE, BARRIERS, MEMORY = (     # the checks of assignment 7
    "values: rows of whole blocks", "values: rows of any length",
    "mask: zeros where nothing is seen", "mask: hidden scores are NaN",
    "launch: several matrices, and none", "large scores", "barriers: every order of warps",
    "memory: nothing out of bounds")
MISTAKES = [   # (folder, what replaces a part of the right solution, the checks that it must lose)
    ("01_step_checker", "fractions are cut", """
def compute(left, operator, right):
    return left // right if operator == "/" and right else chain.compute(left, operator, right)
""", {"compute on all operands"}),
    ("01_step_checker", "values outside 0..99", """
def compute(left, operator, right):
    if operator == "/":
        return chain.compute(left, operator, right)
    return {"+": left + right, "-": left - right, "*": left * right}[operator]
""", {"compute on all operands"}),
    ("01_step_checker", "does not read to the end", """
def parse(completion):
    head, end, _ = completion.partition("<eos>")
    return chain.parse(head + end)
""", {"parse: format tricks", "parse: random mutations"}),
    ("01_step_checker", "blanks are forgiven", """
def parse(completion):
    return chain.parse(completion.replace(" ", "").strip())
""", {"parse: format tricks", "parse: random mutations"}),
    ("01_step_checker", "errors are counted twice", """
def check_steps(prompt, steps):
    exact = chain.read(prompt).steps
    return [i < len(exact) and step == exact[i] for i, step in enumerate(steps)]
""", {"check_steps: one error is counted once", "check_steps: malformed steps"}),
    ("01_step_checker", "true arithmetic is enough", """
def check_steps(prompt, steps):
    found = [chain._STEP.fullmatch(step) for step in steps]
    return [bool(m) and compute(int(m[1]), m[2], int(m[3])) == int(m[4]) for m in found]
""", {"check_steps: true steps that are not the next"}),
    ("01_step_checker", "the answer is not compared with the last step", """
def verify(prompt, completion):
    parsed = parse(completion)
    if parsed is None:
        return False, False, False
    marks = check_steps(prompt, parsed[0])
    whole = all(marks) and len(marks) == chain.read(prompt).level
    return parsed[1] == chain.read(prompt).answer, whole, True
""", {"verify: known completions", "verify: random mutations"}),
    ("01_step_checker", "no steps are all right", """
def verify(prompt, completion):
    parsed = parse(completion)
    if parsed is None:
        return False, False, False
    correct = parsed[1] == chain.read(prompt).answer
    return correct, correct and all(check_steps(prompt, parsed[0])), True
""", {"verify: known completions", "verify: random mutations"}),
    ("02_attention", "epsilon outside the root", """
def qk_norm(x, gain, eps):
    return x / (x.pow(2).mean(-1, keepdim=True).sqrt() + eps) * gain
""", {"qk_norm: epsilon"}),
    ("02_attention", "the mean is taken away", """
def qk_norm(x, gain, eps):
    return torch.nn.functional.layer_norm(x, x.shape[-1:], gain, eps=eps)
""", {"qk_norm: values", "qk_norm: epsilon", "self_attention: plain",
      "self_attention: grouped heads and gains"}),
    ("02_attention", "neighbours are paired", """
def rope(x, positions, theta):
    cos, sin = attention.rope_tables(int(positions.max()) + 1, x.shape[-1], theta)
    cos, sin = cos[positions, None], sin[positions, None]
    a, b = x[..., ::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
""", {"rope: values", "rope: any positions", "self_attention: plain",
      "self_attention: grouped heads and gains"}),
    ("02_attention", "positions always from 0", """
def rope(x, positions, theta, right=rope):
    return right(x, torch.arange(len(positions)), theta)
""", {"rope: any positions", "rope: only the distance matters"}),
    ("02_attention", "key heads in the wrong order", """
def causal_attention(q, k, v):
    group = q.shape[1] // k.shape[1]
    return attention.attention_reference(q, k.repeat(1, group, 1, 1), v.repeat(1, group, 1, 1))
""", {"causal_attention: grouped heads", "self_attention: grouped heads and gains"}),
    ("02_attention", "masked after the softmax", """
def causal_attention(q, k, v):
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1).tril() @ v
""", {"causal_attention: values", "causal_attention: grouped heads",
      "causal_attention: the future is invisible", "causal_attention: large scores",
      "causal_attention: gradients", "self_attention: plain",
      "self_attention: grouped heads and gains"}),
    ("02_attention", "exponentials overflow", """
def causal_attention(q, k, v):
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    weights = (q @ k.mT / q.shape[-1] ** 0.5).exp().tril()
    return weights / weights.sum(-1, keepdim=True) @ v
""", {"causal_attention: large scores"}),
    ("02_attention", "rotated before the norm's gain", """
def self_attention(qkv, q_gain, k_gain, n_heads, n_kv_heads, theta, eps):
    q, k, v = attention.split_heads(qkv, n_heads, n_kv_heads)
    at = torch.arange(qkv.shape[1])
    q, k = qk_norm(rope(q, at, theta), q_gain, eps), qk_norm(rope(k, at, theta), k_gain, eps)
    return causal_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2).flatten(-2)
""", {"self_attention: grouped heads and gains"}),
    ("03_votes", "with replacement", """
def pass_at_k(n, correct, k):
    return 1 - (1 - correct / n) ** k
""", {"pass_at_k: all subsets", "pass_at_k: many samples", "pass_at_k: certain cases"}),
    ("03_votes", "binomials as floats", """
import math
def pass_at_k(n, correct, k):
    return 1.0 - float(math.comb(n - correct, k)) / float(math.comb(n, k))
""", {"pass_at_k: many samples"}),
    ("03_votes", "no answer has a vote", """
from collections import Counter
def majority(answers):
    return Counter(answers).most_common(1)[0][0] if answers else None
""", {"majority: samples without an answer"}),
    ("03_votes", "ties by name", """
from collections import Counter
def majority(answers):
    votes = Counter(a for a in answers if a is not None)
    return min(votes, key=lambda a: (-votes[a], a)) if votes else None
""", {"majority: votes", "majority: ties"}),
    ("03_votes", "heads are counted", """
def weighted_vote(answers, weights, right, vote=weighted_vote):
    return vote(answers, np.ones(len(weights)), right)
""", {"weighted_vote: weights", "weighted_vote: ties",
      "weighted_vote: samples without an answer"}),
    ("03_votes", "a tie goes to the first", """
def weighted_vote(answers, weights, right):
    valid = answers >= 0
    if not valid.any():
        return 0.0
    ids = np.unique(answers[valid])
    return float(ids[np.argmax([weights[answers == a].sum() for a in ids])] == right)
""", {"weighted_vote: ties"}),
    ("03_votes", "the first of equal scores", """
def best_of_n(correct, scores, n, right=best_of_n):
    return right(correct, scores - 1e-9 * np.arange(len(scores)), n)
""", {"best_of_n: ties", "best_of_n: 64 samples, an oracle, a constant"}),
    ("03_votes", "the best of all samples", """
def best_of_n(correct, scores, n):
    return float(correct[scores == scores.max()].mean())
""", {"best_of_n: all subsets", "best_of_n: ties",
      "best_of_n: 64 samples, an oracle, a constant"}),
    ("04_policy_gradient", "the mean of the batch", """
def group_advantages(rewards, group_size, how, right=group_advantages):
    return (rewards - rewards.mean()).float() if how == "reinforce" else right(
        rewards, group_size, how)
""", {"group_advantages: reinforce", "group_advantages: silent groups"}),
    ("04_policy_gradient", "the sample's standard deviation", """
def group_advantages(rewards, group_size, how, right=group_advantages):
    scale = (group_size - 1) ** 0.5 / group_size ** 0.5 if how == "grpo" else 1
    return right(rewards, group_size, how) * scale
""", {"group_advantages: grpo", "group_advantages: float32, groups of two"}),
    ("04_policy_gradient", "rounding speaks in a silent group", """
def group_advantages(rewards, group_size, how):
    groups = rewards.float().view(-1, group_size)
    gains = groups - groups.sum(1, keepdim=True) / group_size
    if how == "rloo":
        gains = gains * group_size / (group_size - 1)
    if how == "grpo":
        gains = gains / (groups.std(dim=1, keepdim=True, correction=0) + 1e-12)
    return gains.flatten()
""", {"group_advantages: silent groups"}),
    ("04_policy_gradient", "the other samples include itself", """
def group_advantages(rewards, group_size, how, right=group_advantages):
    return right(rewards, group_size, "reinforce" if how == "rloo" else how)
""", {"group_advantages: rloo", "group_advantages: float32, groups of two"}),
    ("04_policy_gradient", "a sequence weighs by its length", """
def token_weights(lengths, how, constant, right=token_weights):
    return right(lengths, "token" if how == "sequence" else how, constant)
""", {"token_weights: sequence"}),
    ("04_policy_gradient", "clamped without the minimum", """
def policy_gradient_loss(logprobs, old, advantages, weights, low, high):
    ratio = (logprobs - old).exp().clamp(1 - low, 1 + high)
    return -(weights * ratio * advantages).sum()
""", {"policy_gradient_loss: equal bounds", "policy_gradient_loss: two bounds",
      "policy_gradient_loss: moved the wrong way", "policy_gradient_loss: micro-batches add up"}),
    ("04_policy_gradient", "one bound for both sides", """
def policy_gradient_loss(logprobs, old, advantages, weights, low, high,
                         right=policy_gradient_loss):
    return right(logprobs, old, advantages, weights, low, low)
""", {"policy_gradient_loss: two bounds", "policy_gradient_loss: micro-batches add up"}),
    ("04_policy_gradient", "a mean over tokens", """
def policy_gradient_loss(logprobs, *rest, right=policy_gradient_loss):
    return right(logprobs, *rest) / len(logprobs)
""", {name for name in (
        "policy_gradient_loss: on policy", "policy_gradient_loss: inside the bounds",
        "policy_gradient_loss: equal bounds", "policy_gradient_loss: two bounds",
        "policy_gradient_loss: moved the wrong way",
        "policy_gradient_loss: micro-batches add up")}),
    ("05_beam_search", "width without a look at the budget",
     ("min(width, task.left // longest)", "min(width, task.left)"),
     {"the account: never a token too much", "budgets of a few tokens",
      "goes on while a step can be paid", "returns it when the budget cut it short"}),
    ("05_beam_search", "all or nothing", (
        "min(width, task.left // longest)", "width * (task.left >= width * longest)"),
     {"budgets of a few tokens", "goes on while a step can be paid"}),
    ("05_beam_search", "the first finished", ("max(finished, key=value, default=None)",
                                              "(finished or [None])[0]"),
     {"returns the best finished prefix", "returns it when the budget cut it short",
      "dead ends"}),
    ("05_beam_search", "equal prefixes fill the beam", (
        "sorted(candidates, key=value, reverse=True)[:beams]",
        "sorted([p for p in candidates for _ in range(2)], key=value, reverse=True)[:beams]"),
     {"keeps the best prefixes, best first", "equal prefixes are one", "a trap for greedy search"}),
    ("05_beam_search", "the worst first", ("[:beams]", "[:beams][::-1]"),
     {"keeps the best prefixes, best first"}),
    ("05_beam_search", "greedy", ("[:beams]", "[:1]"),
     {"keeps the best prefixes, best first", "a trap for greedy search"}),
    ("05_beam_search", "goes on after dead steps", ('if step.state == "open"',
                                                    'if step.state != "complete"'),
     {"dead ends"}),
    ("05_beam_search", "discarded branches are free", (
        "task.spent\n", "sum(1 for _ in finished)\n"),
     {"the account: never a token too much", "budgets of a few tokens",
      "goes on while a step can be paid", "returns the best finished prefix",
      "returns it when the budget cut it short", "keeps the best prefixes, best first",
      "equal prefixes are one", "dead ends", "a trap for greedy search"}),
    ("06_allocation", "hard ones first", """
def difficulty_bins(ease, bins):
    return library.difficulty_bins(-np.asarray(ease), bins)
""", {"difficulty_bins: sizes and direction", "difficulty_bins: ties"}),
    ("06_allocation", "bins of equal width", """
def difficulty_bins(ease, bins):
    return np.minimum(((1 - np.asarray(ease)) * bins).astype(int), bins - 1)
""", {"difficulty_bins: sizes and direction", "difficulty_bins: ties"}),
    ("06_allocation", "looks at all problems", """
def choose(correct, tokens, bins, used, price):
    return library.choose(strategies(correct, tokens), bins, np.ones(len(bins), dtype=bool), price)
""", {"choose: the price of tokens", "choose: looks at used problems only",
      "choose: empty bins"}),
    ("06_allocation", "ties to the first strategy", """
def choose(correct, tokens, bins, used, price):
    worth, best = correct - price * tokens, []
    for b in range(bins.max() + 1):
        mine = used & (bins == b) if (used & (bins == b)).any() else used
        best.append(int(worth[:, mine].mean(axis=1).argmax()))
    return np.array(best)
""", {"choose: ties go to the cheaper"}),
    ("06_allocation", "tokens cost nothing", """
def choose(correct, tokens, bins, used, price):
    return library.choose(strategies(correct, tokens), bins, used, 0.0)
""", {"choose: the price of tokens", "choose: looks at used problems only"}),
    ("06_allocation", "scored on what was chosen on", """
def allocate(correct, tokens, bins, fold, price):
    found = library.allocate(strategies(correct, tokens), bins, 1 - fold, [price])
    choices = [library.choose(strategies(correct, tokens), bins, fold == f, price) for f in (0, 1)]
    strategy, problem = np.stack(choices)[fold, bins], np.arange(len(bins))
    return correct[strategy, problem], tokens[strategy, problem]
""", {"allocate: values", "allocate: chance stays chance", "allocate: uneven folds"}),
    ("06_allocation", "a mean of ratios", """
def saved(reference, tokens, rows):
    ratios = reference / tokens
    return (float(ratios.mean()),
            *map(float, np.quantile(ratios[rows].mean(axis=1), (0.025, 0.975))))
""", {"saved: the factor", "saved: its interval"}),
    ("06_allocation", "each mean over other problems", """
def saved(reference, tokens, rows):
    factors = reference[rows].mean(axis=1) / tokens[rows[::-1]].mean(axis=1)
    return (float(reference.mean() / tokens.mean()),
            *map(float, np.quantile(factors, (0.025, 0.975))))
""", {"saved: its interval"}),
    ("07_cuda_kernel", "exponentials overflow", ("expf(x - largest)", "expf(x)"), {LARGE}),
    ("07_cuda_kernel", "the largest score starts at 0", ("largest = -INFINITY", "largest = 0.f"),
     {LARGE}),
    ("07_cuda_kernel", "the largest is read before all have written",
     ("__syncthreads();                                      // written",
      "if (!LARGEST) __syncthreads();"), {BARRIERS}),
    ("07_cuda_kernel", "no barrier after the last step",
     ("__syncthreads();                                  // reduced",
      "if (n > 1) __syncthreads();"), {BARRIERS}),
    ("07_cuda_kernel", "written again before all have read",
     ("__syncthreads();                                      // read", ""),
     {WHOLE, ANY, ZEROS, HIDDEN, SEVERAL, LARGE, BARRIERS}),
    ("07_cuda_kernel", "threads without a key leave before a barrier",
     ("float largest = -INF", "if (t >= seen) return;\n    float largest = -INF"),
     {ANY, ZEROS, HIDDEN, SEVERAL, BARRIERS}),
    ("07_cuda_kernel", "only whole blocks of keys are summed",
     ("j < seen; j += THREADS) sum", "j < seen / THREADS * THREADS; j += THREADS) sum"),
     {ANY, ZEROS, HIDDEN, SEVERAL}),
    ("07_cuda_kernel", "written past the row",
     ("j < n_keys; j += THREADS)", "j - t < n_keys; j += THREADS)"), {MEMORY}),
    ("07_cuda_kernel", "hidden weights are not written",
     ("j < n_keys; j += THREADS)", "j < seen; j += THREADS)"), {ZEROS, HIDDEN}),
    ("07_cuda_kernel", "a mask that multiplies",
     ("j < seen ? power(row[j], largest) / sum : 0.f", "(j < seen) * power(row[j], largest) / sum"),
     {HIDDEN}),
    ("07_cuda_kernel", "the first matrix only",
     ("dim3 grid(n_queries, n_matrices)", "dim3 grid(n_queries)"), {SEVERAL}),
]


def no_nvcc() -> str:
    raise build.BuildError("nvcc not found")


def need_host_compiler() -> None:
    """Skip where assignment 7 cannot be graded."""
    if shutil.which("g++") is None:
        pytest.skip("NOT CHECKED: assignment 7 needs g++")
    found = build.run(["g++", "-print-file-name=libasan.so"])
    if not Path(found.strip()).is_absolute():
        pytest.skip("NOT CHECKED: this compiler comes without AddressSanitizer")


@pytest.fixture
def graded(tmp_path, monkeypatch, capsys):
    """Grade a source text: (exit code, {check that was lost: its line}, last line).

    Without `apart` all checks run in this process, which is faster.
    """
    monkeypatch.setattr(sys, "path", [*sys.path])         # a grader adds its folder
    monkeypatch.setattr(build, "find_nvcc", no_nvcc)      # slow, and worth no points

    def run(folder: str, source: str, *options: str,
            apart: bool = True) -> tuple[int, dict[str, str], str]:
        if folder == "07_cuda_kernel":
            need_host_compiler()
        solution = tmp_path / "solution.py"
        solution.write_text(source)
        grader = str(ASSIGNMENTS / folder / "grade.py")
        found = runpy.run_path(grader)
        grading = sys.modules["grading"]
        if not apart:
            monkeypatch.setattr(grading, "run_check", lambda checks, number, grader, path, seconds:
                                grading.outcome(checks[number], path))
        capsys.readouterr()
        code = found["grade"](found["CHECKS"], grader, [str(solution), *options])
        *lines, total = capsys.readouterr().out.splitlines()
        names = sorted((check.name for check in found["CHECKS"]), key=len, reverse=True)
        assert len(lines) == len(names)
        lost = {next(name for name in names if f"  {name}" in line): line
                for line in lines if line.startswith("FAIL")}
        return code, lost, total

    return run


def starter(folder: str) -> Path:
    return ASSIGNMENTS / folder / ("starter.cu" if folder == "07_cuda_kernel" else "starter.py")


def test_every_assignment_is_tested():
    folders = sorted(path.name for path in ASSIGNMENTS.iterdir() if path.is_dir()
                     and path.name != "__pycache__")
    assert folders == sorted(LIBRARY_CALLS)
    for folder in folders:
        assert {"README.md", "grade.py", starter(folder).name} <= {
            path.name for path in (ASSIGNMENTS / folder).iterdir()}
        assert sum(name == folder for name, *_ in MISTAKES) >= 5


@pytest.mark.parametrize("folder", LIBRARY_CALLS)
def test_the_library_gets_full_points_and_the_starter_none(folder, graded):
    assert graded(folder, LIBRARY_CALLS[folder]) == (0, {}, "20 / 20 points")
    code, lost, total = graded(folder, starter(folder).read_text())
    assert (code, total) == (1, "0 / 20 points")
    assert all("nothing is written yet" in line for line in lost.values())


@pytest.mark.parametrize("folder,mistake,change,lost", MISTAKES,
                         ids=[f"{folder}: {mistake}" for folder, mistake, *_ in MISTAKES])
def test_a_typical_mistake_loses_its_checks_only(folder, mistake, change, lost, graded):
    right = LIBRARY_CALLS[folder]
    if isinstance(change, tuple):
        assert right.count(change[0]) == 1
    source = right.replace(*change) if isinstance(change, tuple) else right + change
    code, found, _ = graded(folder, source, apart=False)
    assert set(found) == lost and code == 1
    for line in found.values():
        assert "expected" in line and "came" in line


def test_a_crash_or_an_endless_loop_costs_its_own_checks_only(graded):
    broken = {"raise ZeroDivisionError('oh')": "ZeroDivisionError: 'oh'",
              "import os; os._exit(0)": "end of the process",
              "raise SystemExit(0)": "SystemExit",
              "\n    while True:\n        pass": "an endless loop?"}
    for body, told in broken.items():
        source = LIBRARY_CALLS["03_votes"] + f"\ndef majority(answers): {body}\n"
        code, lost, total = graded("03_votes", source, "--seconds", "2")
        assert (code, total) == (1, "16 / 20 points")
        assert set(lost) == {"majority: votes", "majority: ties",
                             "majority: samples without an answer"}
        assert all(told in line for line in lost.values())


def test_where_nothing_forks_a_grader_says_the_same(graded, monkeypatch, tmp_path):
    graded("03_votes", "", apart=True)                    # imports what all graders share
    monkeypatch.setattr(sys.modules["grading"], "start_method", lambda: "spawn")
    found = runpy.run_path(str(ASSIGNMENTS / "03_votes" / "grade.py"))
    names = [check.name for check in found["CHECKS"]]
    run_check = sys.modules["grading"].run_check
    source = LIBRARY_CALLS["03_votes"] + "\ndef pass_at_k(n, correct, k): return 2.0\n"
    path = tmp_path / "other.py"
    path.write_text(source)
    grader = str(ASSIGNMENTS / "03_votes" / "grade.py")
    assert run_check(found["CHECKS"], names.index("majority: ties"), grader,
                     str(path), 60) == ""
    assert "came 2" in run_check(found["CHECKS"], 0, grader, str(path), 60)


def test_nan_never_passes(graded):
    source = LIBRARY_CALLS["04_policy_gradient"] + """
def token_weights(lengths, how, constant):
    return torch.full((len(lengths),), float("nan"))
"""
    assert len(graded("04_policy_gradient", source)[1]) == 3


def test_a_grader_runs_as_a_command(tmp_path):
    command = [sys.executable, str(ASSIGNMENTS / "03_votes" / "grade.py")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and done.stdout.endswith("0 / 20 points\n")
    done = subprocess.run([*command, "nowhere.py"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and "nowhere.py: no such file" in done.stderr


# ---- assignment 7 compiles its solution ----------------------------------------------------------

KERNEL = LIBRARY_CALLS["07_cuda_kernel"]


def test_a_kernel_that_crashes_or_never_ends_costs_its_checks_only(graded):
    at = "int seen = n_keys - n_queries + query + 1;"
    faults = """
    if (n_keys == 31) *(volatile int *)nullptr = 0;
    for (volatile bool on = n_keys == 258; on;) { }
"""
    code, lost, total = graded("07_cuda_kernel", KERNEL.replace(at, at + faults), "--seconds", "2")
    assert (code, total, set(lost)) == (1, "14 / 20 points", {ANY, ZEROS})
    assert "SEGV" in lost[ANY] and "an endless loop?" in lost[ZEROS]


def test_a_read_out_of_bounds_is_shown_with_its_line(graded):
    loop = "j < seen; j += THREADS) largest = fmaxf(largest, row[j]);"
    assert KERNEL.count(loop) == 1
    source = KERNEL.replace(loop, """j - t < seen; j += THREADS) {
    float x = row[j];
    if (j < seen) largest = fmaxf(largest, x);
}""")
    _, lost, _ = graded("07_cuda_kernel", source, apart=False)
    assert set(lost) == {MEMORY}
    number = source.splitlines().index("    float x = row[j];") + 1
    assert f"a read of 4 bytes out of bounds in line {number}: " in lost[MEMORY]


def test_what_does_not_compile_says_so(graded):
    code, lost, total = graded("07_cuda_kernel", KERNEL.replace("int t = ", "int u = "),
                               apart=False)
    assert (code, total, len(lost)) == (1, "0 / 20 points", 8)
    assert "expected a file that compiles, came solution.cu:" in lost[LARGE]


def test_without_a_compiler_assignment_7_says_so_in_one_line(graded, monkeypatch):
    need_host_compiler()
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SystemExit) as stop:
        graded("07_cuda_kernel", KERNEL)
    assert str(stop.value.code).startswith("not graded: no-such-compiler not found: install g++")
    assert "\n" not in str(stop.value.code)


@pytest.mark.parametrize(("body", "told"), [
    ("exit 0", "nvcc: compiles for a GPU as well (sm_80, sm_90)"),
    ("echo '/a/b/solution.cu(7): error: no' >&2; exit 1",
     "nvcc: does not compile for a GPU: solution.cu(7): error: no"),
])
def test_nvcc_is_asked_where_it_is_found(body, told, tmp_path, monkeypatch):
    nvcc = tmp_path / "nvcc"
    nvcc.write_text(f"#!/bin/sh\n{body}\n")
    nvcc.chmod(0o755)
    monkeypatch.setattr(sys, "path", [*sys.path])
    runpy.run_path(str(ASSIGNMENTS / "07_cuda_kernel" / "grade.py"))
    gpu_line = sys.modules["emulated"].gpu_line
    monkeypatch.setattr(build, "find_nvcc", no_nvcc)
    assert gpu_line(tmp_path / "solution.cu") == ""
    monkeypatch.setattr(build, "find_nvcc", lambda: str(nvcc))
    assert gpu_line(tmp_path / "solution.cu") == told
