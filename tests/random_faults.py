"""Random single faults over every file, stage and command of a tiny run: fault_run.py --faults N.

What may come of a fault: one line that refuses (exit code 2), or what would have come without it.
"""

import contextlib
import dataclasses
import io
import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from unittest import mock

from damage import damaged
from faults import KINDS, Disk
from kill_run import differences
from small_run import finished, outcome, quietly, small_stages, stopped, trial
from tiny_run import flags, tiny_stages

from minireason import chat, cli, evalset
from minireason.core import files
from minireason.core.config import PATHS
from minireason.core.errors import UserError
from minireason.critics.value_head import Critic
from minireason.model import checkpoint, tensors
from minireason.model.transformer import Transformer
from minireason.problems import frozen
from minireason.report.runs import load_stage

NEVER = ("-1", "-0.5", "nan", "inf", "-inf", "1e400", "x", "1.5.5", "A" * 300, "\u2028", "None")
RARELY = ("0", "1.5", "999999999999", "9" * 30, "True", "1e9", "")   # where nothing is computed
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
SHARES = (0.15, 0.3, 0.45, 0.6, 0.75, 0.9)    # of a stage's operations, before it is interrupted
WEIGHTS = {"finished_file": 40, "interrupted_file": 18, "injected_error": 18, "wrong_flag": 14,
           "sent_signal": 5, "problem_file": 5}


class Faults:
    """One method per kind of fault; each does one at random and returns (what, how it ended)."""

    def __init__(self, whole: Path, base: Path, seed: int):
        self.whole, self.base, self.chance = whole, base, random.Random(seed)
        self.stages = small_stages(whole)
        base.mkdir(exist_ok=True)
        self.tree = sorted(p for p in whole.rglob("*") if p.is_file())
        self.operations = {}
        for stage in self.stages:
            config = self.placed(stage)
            with Disk(base) as disk:
                quietly(partial(self.stages[stage][0], config))
            self.operations[stage] = disk.count
        self.readers: list[tuple[Path, str, Callable[[], object]]] = []
        for path in whole.rglob("result.json"):
            self.readers += [(path.parent, *reader) for reader in self.readers_of(path.parent)]
        self.expected = {id(run): quietly(run) for _, _, run in self.readers}

    def placed(self, stage: str):
        """A small stage's config with an empty folder to work in."""
        shutil.rmtree(self.base)
        self.base.mkdir()
        return dataclasses.replace(self.stages[stage][1], out=str(self.base / stage))

    def readers_of(self, folder: Path) -> list[tuple[str, Callable[[], object]]]:
        """Who reads a finished folder: the report, its stage, its children, eval and chat."""
        found: list = [("report", partial(load_stage, folder))]
        if folder.parent == self.whole:
            run, config = {**self.stages, **{name: value for name, value in tiny_stages(
                self.whole).items() if name in ("pretrain", "sft")}}[folder.name]
            found.append(("again", partial(run, config)))
        if not (folder / "model.safetensors").exists():
            return found
        if folder.name == "critic":
            return [*found, ("parent", partial(self.loaded, folder, Critic))]
        how = {"n": 2, "temperature": 1.0, "max_new": 8, "limit": 2, "device": "cpu"}
        return [*found, ("parent", partial(self.loaded, folder, Transformer)),
                ("eval", partial(evalset.run, evalset.Config(str(folder), "chain-test-k1", **how))),
                ("chat", partial(self.answer, chat.Config(str(folder), device="cpu")))]

    @staticmethod
    def loaded(folder: Path, kind: type) -> tuple:
        """What a child stage takes from a folder."""
        model, tokenizer = checkpoint.load(folder, kind=kind)
        weights = tensors.digest(model.state_dict())
        return checkpoint.weights_hash(folder), weights, tokenizer.to_json()

    @staticmethod
    def answer(cfg: chat.Config) -> str:
        """What chat prints for one problem."""
        with mock.patch.object(sys, "stdin", io.StringIO("(3+4)=\n")), \
                contextlib.redirect_stdout(io.StringIO()) as shown:
            chat.run(cfg)
        return shown.getvalue()

    def finished_file(self) -> tuple[str, str]:
        """A file of a finished stage is damaged, or two of a run are swapped."""
        folder, reader, run = self.chance.choice(self.readers)
        near = [path for path in self.tree if path.parent == folder]
        path = self.chance.choice(near if self.chance.random() < 0.8 else self.tree)
        other = self.chance.choice(self.tree)
        kept = {p: p.read_bytes() for p in (path, other)}
        kind, data = damaged(kept[path], self.chance, kept[other])
        path.write_bytes(data)
        if kind == "swap":
            other.write_bytes(kept[path])
        try:
            return f"{reader} {kind} {path} {other}", outcome(run, self.expected[id(run)])
        finally:
            for p, content in kept.items():
                p.write_bytes(content)

    @cached_property
    def snapshots(self) -> list[tuple[str, dict[str, bytes]]]:
        """(stage, {file: content}) of interrupted runs."""
        found = []
        for stage in self.stages:
            for share in SHARES:
                shutil.rmtree(self.base)
                self.base.mkdir()
                folder = stopped(stage, self.whole, self.base, share)
                found.append((stage, {str(p.relative_to(folder)): p.read_bytes()
                                      for p in sorted(folder.rglob("*")) if p.is_file()}))
        return found

    def interrupted_file(self) -> tuple[str, str]:
        """A file of an interrupted stage is damaged, or replaced by one of another, or swapped."""
        stage, content = self.chance.choice([s for s in self.snapshots if s[1]])
        name = self.chance.choice(list(content))
        _, others = self.chance.choice([s for s in self.snapshots if s[1]])
        other = self.chance.choice(list(others))
        kind, data = damaged(content[name], self.chance, others[other])
        changed = {**content, name: data}
        if kind == "swap" and self.chance.random() < 0.5:
            other = self.chance.choice(list(content))
            changed |= {name: content[other], other: content[name]}
        config = self.placed(stage)
        for file, data in changed.items():
            path = self.base / stage / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        how = outcome(lambda: bool(self.stages[stage][0](config)), True)
        if how == "identical":
            how = self.compared(stage)
        return f"{stage} {kind} {name} {other}", how

    def compared(self, stage: str) -> str:
        """The finished run in `base` beside the undisturbed one.

        Conditions may differ, by name, and parts that nobody read again, if their manifest tells.
        """
        one, other = finished(self.whole, stage), self.base / stage
        for path in other.glob("*/**/result.json"):
            try:
                files.check_manifest(path.parent)
            except UserError:
                part = path.parent.relative_to(other)
                shutil.copytree(one / part, other / part, dirs_exist_ok=True)
        unequal = differences(one, other)
        if unequal and all(name.endswith("config.json") for name in unequal):
            unequal = [name for name in unequal if bare(one / name) != bare(other / name)]
        return f"SILENT {unequal}" if unequal else "identical"

    def injected_error(self) -> tuple[str, str]:
        """The disk fails or the power goes at some operation; the stage is started again."""
        stage, kind = self.chance.choice(list(self.stages)), self.chance.choice(KINDS)
        n = self.chance.randint(1, self.operations[stage])
        hit, how = trial(stage, self.whole, self.base, n, kind)
        return f"{stage} {kind} {n} {hit}", how

    def sent_signal(self) -> tuple[str, str]:
        """A signal comes at some operation; the same command is given again."""
        stage, number = self.chance.choice(list(self.stages)), self.chance.choice(SIGNALS)
        arguments = ["minireason", stage, *flags(self.placed(stage))]
        n = self.chance.randint(1, self.operations[stage])
        with mock.patch.object(sys, "argv", arguments):
            with Disk(self.base, n, act=lambda: os.kill(os.getpid(), number)):
                how = outcome(cli.main, 128 + number)
            for name in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(name, signal.SIG_DFL)
            if how == "identical":
                how = outcome(lambda: cli.main(arguments[1:]), 0)
        return f"{stage} {number.name} {n}", how if how != "identical" else self.compared(stage)

    def wrong_flag(self) -> tuple[str, str]:
        """One value of a command line is hostile: refused, or the finished run as it was."""
        stage = self.chance.choice([*self.stages, "eval", "chat"])
        fresh, values = self.chance.random() < 0.3, NEVER
        if stage in self.stages:
            config = self.placed(stage) if fresh else self.stages[stage][1]
            values = NEVER if fresh else NEVER + RARELY
        elif stage == "eval":
            config = evalset.Config(f"{self.whole}/star", "chain-test-k1", n=2, temperature=1.0,
                                    max_new=8, limit=1, device="cpu")
        else:
            config = chat.Config(f"{self.whole}/star", n=2, temperature=1.0, device="cpu")
        line = flags(config)
        at = self.chance.choice([i for i, word in enumerate(line) if word[:2] != "--"])
        elsewhere = ("A" * 300, __file__, f"{__file__}/x")
        line[at] = self.chance.choice(elsewhere if line[at - 1] == "--out" else values)
        what = f"{stage} {'fresh' if fresh else ''} {line[at - 1]} {line[at]!r}"
        with mock.patch.object(sys, "stdin", io.StringIO("(3+4)=\n")):
            how = outcome(lambda: cli.main([stage, *line]), 2)
        if how == "identical":
            return what, "refused"
        if how.startswith("SILENT 0") and stage in self.stages:
            return what, self.compared(stage) if fresh else "identical"
        return what, how

    def problem_file(self) -> tuple[str, str]:
        """A frozen set, its SHA256SUMS, or a user's problems are damaged."""
        folder = frozen.frozen_folder()
        name = self.chance.choice(["chain-test-k1.jsonl", "SHA256SUMS"])
        work = self.base / "frozen"
        work.mkdir(exist_ok=True)
        for kept in ("chain-test-k1.jsonl", "chain-test-k2.jsonl", "SHA256SUMS"):
            shutil.copy(folder / kept, work)
        kind, data = damaged((folder / name).read_bytes(), self.chance,
                             (folder / "chain-test-k2.jsonl").read_bytes())
        (work / name).write_bytes(data)
        expected = self.first_set
        with mock.patch.object(frozen, "frozen_folder", lambda: work):
            return f"frozen {kind} {name}", outcome(
                lambda: frozen.load_frozen("chain-test-k1"), expected)

    @cached_property
    def first_set(self) -> list:
        """The frozen set that problem_file damages."""
        return frozen.load_frozen("chain-test-k1")


def bare(path: Path) -> tuple:
    """What a config.json says of the run, places of folders apart."""
    held = json.loads(path.read_text())
    config = {key: value for key, value in held["config"].items() if key not in PATHS}
    return held["stage"], config, held["parents"]
