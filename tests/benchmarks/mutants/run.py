"""Mutation testing: how many small faults in our own code the tests see.

    CI=1 python tests/benchmarks/mutants/run.py GROUP [--per-module N] [--seed S] [--module TEXT] [--seconds T]

Prints the score of every module of the group and the survivors that `survivors.yaml` gives no reason for. Exits with 1
where a module stays below 90 %.

The tests of the group are collected once; then every mutant is tried in a fork of that process, which swaps the code
of the mutated function in place and runs the tests that reach its line, the quickest first, up to `PATIENCE` seconds.
That costs a fraction of a second where cosmic-ray starts an interpreter, imports torch and collects; and it reaches
methods behind decorators, properties and caches, which mutmut's trampolines leave out. What runs while a module is
imported (tables, defaults of arguments) is not mutated: it has been run before the fork.
"""

from __future__ import annotations

import argparse
import ast
import gc
import importlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import types
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
SRC = ROOT / "src" / "devinterp"
sys.path.insert(0, str(Path(__file__).parent))

import coverage  # noqa: E402
import pytest  # noqa: E402
import yaml  # noqa: E402
from operators import Mutant, mutants_of  # noqa: E402

PATIENCE = 8.0  # seconds of tests that a mutant may survive
HUNG = 4  # a test that takes so many times longer than without the mutant has hung, but for
FIXTURES = 10.0  # seconds that it may need for what it shared with others
IDLE = 20.0  # seconds of sleep after which nothing will wake it
BROKEN = 99  # exit status of a fork in which not a test but this tool has failed
LOOK = 0.005  # seconds between two looks at a mutant that runs
BAR = 0.9
DEAD = {"killed", "hung"}

GROUPS: dict[str, tuple[list[str], list[str]]] = {
    "bif": (
        [f"slt/bif/{name}.py" for name in ("kernels", "operands", "request", "loss_matrix", "compute")],
        [
            "tests/slt/bif/test_bif.py",
            "tests/slt/bif/test_operands.py",
            "tests/slt/bif/test_strongest.py",
            "tests/properties/test_bif_invariants.py",
        ],
    ),
    "llc": (
        ["slt/llc/compute.py", "slt/llc/of_run.py", "slt/llc/paired.py", "slt/runs/chains.py"],
        [
            "tests/slt/llc/test_llc.py",
            "tests/slt/llc/test_paired.py",
            "tests/slt/runs/test_chains.py",
            "tests/slt/runs/test_side_by_side.py",
            "tests/slt/runs/test_grid.py",
            "tests/properties/test_llc_identities.py",
        ],
    ),
    "susceptibilities": (
        [f"slt/susceptibilities/{name}.py" for name in ("moments", "estimator", "baseline", "compute", "flat_form")],
        [
            "tests/slt/susceptibilities/test_susceptibilities.py",
            "tests/slt/susceptibilities/test_moments.py",
            "tests/properties/test_susceptibility_invariants.py",
        ],
    ),
    "uncertainty": (
        [
            "slt/uncertainty/intervals.py", "slt/uncertainty/batch_means.py",
            "slt/diagnostics/of_run.py", "slt/diagnostics/mixing.py", "slt/diagnostics/shared_noise.py",
        ],
        ["tests/slt/uncertainty", "tests/slt/diagnostics/test_diagnostics.py"],
    ),
    "update": (
        ["slt/sampling/engine/update.py"],
        [
            "tests/slt/sampling/engine/test_update.py",
            "tests/slt/sampling/engine/test_chain.py",
            "tests/ground_truth/test_known_answers.py",
        ],
    ),
    "schema": (
        # The tables of codes and their words are left out: a mutant of a text is a text.
        [p.relative_to(SRC).as_posix() for p in sorted((SRC / "schema").rglob("*.py"))
         if p.name not in {"__init__.py", "codes.py"}],
        ["tests/schema", "tests/testing/mutations/test_mutations.py", "tests/testing/test_strategies.py"],
    ),
}  # fmt: skip


def function_of(path: Path, mutant: Mutant, source: str) -> list[tuple[tuple[str, int], types.CodeType]]:
    """Every code object of the mutated module by name and first line."""
    found = []

    def walk(code: types.CodeType) -> None:
        found.append(((code.co_qualname, code.co_firstlineno), code))
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                walk(constant)

    walk(compile(mutant.apply(source), str(path), "exec"))
    return found


def lines_of_bodies(source: str) -> set[int]:
    """Lines that run when a function is called: not those of classes, nor of defaults, which run on import."""
    lines: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines.update(range(node.body[0].lineno, (node.end_lineno or 0) + 1))
        elif isinstance(node, ast.Lambda):
            lines.update(range(node.body.lineno, (node.end_lineno or 0) + 1))
    return lines


def swap(path: Path, mutant: Mutant, source: str) -> bool:
    """Put the mutated code into the live functions; return whether one has changed."""
    mutated = dict(function_of(path, mutant, source))
    changed = False
    gc.unfreeze()  # tests/conftest.py leaves out what was imported
    for thing in gc.get_objects():
        # Not isinstance: it asks proxies for their class, and one of torch's warns of that.
        if type(thing) is types.FunctionType and thing.__code__.co_filename == str(path):
            code = mutated.get((thing.__code__.co_qualname, thing.__code__.co_firstlineno))
            if code is not None and code != thing.__code__ and code.co_freevars == thing.__code__.co_freevars:
                thing.__code__ = code
                changed = True
    for thing in gc.get_objects():  # what was computed by the code as it was
        if type(thing).__name__ == "_lru_cache_wrapper" and str(thing.__module__).startswith("devinterp"):
            thing.cache_clear()
    return changed


class Reach:
    """A plugin that learns which test reaches which line, how long each takes, and which fails as it is."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.coverage = coverage.Coverage(
            data_file=None, config_file=False, include=[str(f) for f in files], messages=False
        )
        self.seconds: dict[str, float] = {}
        self.failed: set[str] = set()

    def learn(self, session: pytest.Session) -> dict[str, Any]:
        """Run every test once."""
        self.coverage.start()
        for item in session.items:
            self.coverage.switch_context(item.nodeid)
            begun = time.process_time()
            if not passes(item, session):
                self.failed.add(item.nodeid)
            self.seconds[item.nodeid] = time.process_time() - begun
        self.coverage.stop()
        data = self.coverage.get_data()
        lines = {
            name: {str(n): [c for c in contexts if c] for n, contexts in data.contexts_by_lineno(name).items()}
            for name in data.measured_files()
        }
        return {"lines": lines, "seconds": self.seconds, "failed": sorted(self.failed)}


def passes(item: pytest.Item, session: pytest.Session) -> bool:
    """Run one test, fixtures and all; neighbours share the module's and the session's."""
    before = session.testsfailed
    following = session.items[session.items.index(item) + 1 :][:1]
    item.config.hook.pytest_runtest_protocol(item=item, nextitem=following[0] if following else None)
    return session.testsfailed == before


def in_fork(work: Any, limit: float, scratch: Path, idle: float = IDLE) -> tuple[int | None, bytes]:
    """Run ``work`` in a fork of this process; return its exit status (None: out of time) and what it wrote.

    ``limit`` is in seconds of processor time, so that a busy machine makes no mutant look hung; one that waits for ever
    is given up after twenty times as long, or as soon as it has slept for ``idle`` seconds.
    """
    answer = scratch / "answer"
    answer.write_bytes(b"")
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = BROKEN
        try:
            with open(scratch / "output", "wb") as sink:
                os.dup2(sink.fileno(), 1)
                os.dup2(sink.fileno(), 2)
            allow(limit)
            status = work(answer)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    looks = int(20 * limit / LOOK)  # counted, since a clock goes on while both processes are stopped
    asleep, used = 0, ""
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            if code == BROKEN:
                raise RuntimeError((scratch / "output").read_text()[-4000:])
            return None if code == -signal.SIGXCPU else code, answer.read_bytes()
        now = usage(child)
        asleep, used = (asleep + 1, used) if now and now == used else (0, now)
        if looks == 0 or asleep > idle / LOOK:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None, b""
        looks -= 1
        time.sleep(LOOK)


def usage(process: int) -> str:
    """What a process has used of the processor, while it sleeps; nothing where that cannot be known."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return f"{fields[11]} {fields[12]}" if fields[0] == "S" else ""


def allow(limit: float) -> None:
    """Let this process run for so many more seconds of processor time."""
    used = int(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (used + int(limit) + 1, resource.RLIM_INFINITY))


class Trial:
    """The plugin that replaces pytest's loop over tests by one over mutants."""

    def __init__(self, arguments: argparse.Namespace, modules: Sequence[str]) -> None:
        self.arguments, self.modules = arguments, modules
        self.outcomes: dict[str, list[tuple[str, str]]] = defaultdict(list)
        self.totals: dict[str, int] = {}
        self.scratch = Path(tempfile.mkdtemp(prefix="mutants-"))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Learn what reaches what, then try the mutants."""
        for module in self.modules:
            importlib.import_module("devinterp." + module.removesuffix(".py").replace("/", "."))
        files = [SRC / module for module in self.modules]

        def learn(answer: Path) -> int:
            answer.write_text(json.dumps(Reach(files).learn(session)))
            return 0

        begun = time.perf_counter()
        status, found = in_fork(learn, 1800, self.scratch, float("inf"))
        if status != 0:
            print((self.scratch / "output").read_text()[-4000:], file=sys.stderr)
            raise pytest.UsageError(f"the tests as they are ended with {status}")
        reach = json.loads(found)
        print(f"{len(session.items)} tests in {time.perf_counter() - begun:.0f} s; left out, since they fail in a "
              f"fork as they are: {reach['failed']}", flush=True)  # fmt: skip
        started = time.monotonic()
        for module in self.modules:
            self.try_module(session, module, reach)
            if time.monotonic() - started > self.arguments.seconds:
                print(f"out of time after {module}", flush=True)
                break
        return True

    def try_module(self, session: pytest.Session, module: str, reach: dict[str, Any]) -> None:
        """Try the mutants of one module, or a sample of them."""
        path = SRC / module
        source = path.read_text(encoding="utf-8")
        swappable = lines_of_bodies(source)
        inner = [m for m in mutants_of(source) if m.line in swappable]
        self.totals[module] = len(inner)
        chosen = inner
        if self.arguments.per_module and len(inner) > self.arguments.per_module:
            picked = random.Random(self.arguments.seed).sample(range(len(inner)), self.arguments.per_module)
            chosen = [inner[i] for i in sorted(picked)]
        for mutant in chosen:
            outcome = self.try_one(session, path, source, mutant, reach)
            self.outcomes[module].append((str(mutant), outcome))
            if outcome not in DEAD:
                print(f"{module}:{mutant.line}: {mutant}: {outcome}", flush=True)
        tried = [o for _, o in self.outcomes[module] if o != "not swapped"]
        print(f"{module}: {sum(o in DEAD for o in tried)} of {len(tried)} killed, out of {len(inner)}", flush=True)

    def try_one(self, session: pytest.Session, path: Path, source: str, mutant: Mutant, reach: dict[str, Any]) -> str:
        """Return what became of a mutant: killed, hung, survived, or not reached."""
        span = range(mutant.line, mutant.line + mutant.old.count("\n") + 1)
        lines = reach["lines"].get(str(path), {})
        seconds = {t: reach["seconds"][t] for n in span for t in lines.get(str(n), []) if t not in reach["failed"]}
        order, spent = [], 0.0
        for test in sorted(seconds, key=lambda t: seconds[t]):
            spent += seconds[test]
            if spent > PATIENCE and order:
                break
            order.append(test)
        if not order:
            return "not reached"
        items = {item.nodeid: item for item in session.items}

        def work(answer: Path) -> int:
            if not swap(path, mutant, source):
                return 3
            session.items = [items[test] for test in order]
            for item in session.items:
                allow(FIXTURES + HUNG * seconds[item.nodeid])
                try:
                    if not passes(item, session):
                        return 1
                except Exception:  # pytest itself stumbles over what the mutant has done
                    return 1
            return 0

        status, _ = in_fork(work, 5.0 + HUNG * min(spent, PATIENCE), self.scratch)
        return {None: "hung", 0: "survived", 3: "not swapped"}.get(status, "killed")


def report(trial: Trial, reasons: dict[str, dict[str, str]]) -> int:
    """Print the table; return the exit status.

    The score is that of the literature, killed / (tried - equivalent): a mutant that changes nothing a test could see
    is not a fault. Those are the ones with a reason; beside it stands the share of all that were tried.
    """
    print("\n| module | mutants | tried | killed | survived with a reason | survived | killed of all | score |")
    print("|---|---|---|---|---|---|---|---|")

    def row(name: str, total: int, tried: int, dead: int, excused: int) -> float:
        score = dead / (tried - excused) if tried > excused else 1.0
        print(f"| {name} | {total} | {tried} | {dead} | {excused} | {tried - dead - excused} | "
              f"{dead / max(tried, 1):.0%} | {score:.0%} |")  # fmt: skip
        return score

    low = 0
    sums = [0, 0, 0, 0]
    for module, outcomes in trial.outcomes.items():
        tried = [o for o in outcomes if o[1] != "not swapped"]
        dead = sum(o in DEAD for _, o in tried)
        excused = sum(o not in DEAD and m in reasons.get(module, {}) for m, o in tried)
        counts = [trial.totals[module], len(tried), dead, excused]
        low += row(module, *counts) < BAR
        sums = [a + b for a, b in zip(sums, counts, strict=True)]
    row("all", *sums)
    return int(low > 0)


def main() -> int:
    """Run one group."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("group", choices=[*GROUPS, "all"], help="all: every group in a process of its own")
    parser.add_argument("--per-module", type=int, default=0, help="a sample of so many; 0 is all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--module", default="", help="only modules whose path contains this")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no module after so many seconds")
    arguments = parser.parse_args()
    if arguments.group == "all":
        rest = sys.argv[sys.argv.index("all") + 1 :]
        return max(subprocess.run([sys.executable, __file__, group, *rest], check=False).returncode for group in GROUPS)
    modules, tests = GROUPS[arguments.group]
    trial = Trial(arguments, [m for m in modules if arguments.module in m])
    os.chdir(ROOT)
    options = ["-q", "-s", "-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:xdist", "--no-header"]
    status = pytest.main([*options, "--basetemp", str(trial.scratch / "tmp"), *tests], plugins=[trial])
    if status not in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}:
        return int(status)
    file = Path(__file__).with_name("survivors.yaml")
    reasons = yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else {}
    return report(trial, reasons or {})


if __name__ == "__main__":
    sys.exit(main())
