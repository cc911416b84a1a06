"""The kill drill: trainings and predictions are killed at random, started again, and compared with undisturbed ones.

    python tests/attacks/drill.py --minutes 60                      # `make drill DRILL_MINUTES=60`
    python tests/attacks/drill.py --minutes 5 --only single ddp

Every attempt is a fork of this process, which has imported everything: what is killed is a whole `llmcls.train` (on one
process, or two that torch.distributed joins as under a launcher) or a whole `llmcls predict`, at a moment that is
drawn: when it touches a file of the run for the n-th time, or after a part of the time that it takes, by SIGKILL or
SIGTERM. When the same command has come to its end, weights and log must be byte for byte those of the undisturbed run,
and so must predictions be.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FORK = multiprocessing.get_context("fork")
TIMEOUT = 300.0
PROCESSES = {"single": 1, "ddp": 2, "zero2": 2, "zero3": 2, "predict": 1}
SUMMARY = ("runtime", "per_second")
"""Parts of the names of figures that are times, and so differ."""


@dataclass
class Kill:
    """When an attempt is ended, and how.

    Attributes:
        how: SIGKILL or SIGTERM.
        touches: at this touch of a file below the place, counted by the first process; None: by the time.
        seconds: after this time.
        where: only touches of paths with this in them count.
    """

    how: signal.Signals
    touches: int | None = None
    seconds: float = 0.0
    where: str = ""


@dataclass
class Bench:
    """A tiny model, a few rows, and what undisturbed runs give.

    Attributes:
        folder: where everything is.
        expected: by kind, what an undisturbed run leaves behind.
        seconds: by kind, how long an attempt that is let alone has taken.
        touches: by kind, how often it touches files of its place.
    """

    folder: Path
    expected: dict[str, dict[str, bytes]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    touches: dict[str, int] = field(default_factory=dict)

    def prepare(self) -> None:
        """Write model and rows."""
        from llmcls.testing import build_tiny_model

        build_tiny_model(self.folder / "tiny")
        rows = [f'"the sky is {word} {"x" * (number % 7)} {number}",{word}' for number in range(4) for word in LABELS]
        (self.folder / "rows.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
        texts = [f"{number}: is the sky {LABELS[number % 3]}?" for number in range(600)]
        (self.folder / "texts.csv").write_text("\n".join(["text", *texts]) + "\n", encoding="utf-8")

    def settings(self, kind: str) -> dict[str, Any]:
        """Three epochs of three steps, the last not full, with dropout, evaluations, checkpoints and an early end."""
        return {
            "data": {"source": str(self.folder / "rows.csv"), "validation_size": 3},
            "model": {"base_model": str(self.folder / "tiny"), "quantization": "none"},
            "training": {
                "num_train_epochs": 3,
                "per_device_train_batch_size": 4 // PROCESSES[kind],
                "learning_rate": 5e-3,
                "lr_scheduler_type": "constant",
                "logging_steps": 4,
                "eval_strategy": "steps",
                "eval_steps": 3,
                "save_strategy": "steps",
                "save_steps": 2,
                "early_stopping_patience": 2,
            },
        }

    def attempt(self, kind: str, out: Path, kill: Kill | None = None, count: Any = None) -> list[int]:
        """Run once in forked processes.

        Args:
            kind: a name of `PROCESSES`.
            out: the run directory, or the file of predictions.
            kill: when to end it.
            count: a shared number that the first process adds its touches to.

        Returns:
            Exit codes, negative for a signal.

        Raises:
            TimeoutError: when it does not end.
        """
        port = _free_port()
        members = [
            FORK.Process(target=self._work, args=(kind, rank, port, out, kill if rank == 0 else None, count))
            for rank in range(PROCESSES[kind])
        ]
        begun = time.monotonic()
        for member in members:
            member.start()
        told = False
        while any(member.is_alive() for member in members):
            time.sleep(0.005)
            spent = time.monotonic() - begun
            by_time = kill is not None and kill.touches is None and spent > kill.seconds
            # What is killed is killed whole: a launcher would end the others, and a power cut ends all.
            fallen = any(member.exitcode not in (None, 0, 75) for member in members)
            if (by_time and not told) or fallen:
                how = signal.SIGKILL if kill is None or fallen else kill.how
                for member in members:
                    if member.is_alive() and not (fallen and how != signal.SIGKILL):
                        os.kill(member.pid, how)  # type: ignore[arg-type]
                told = True
            if spent > TIMEOUT:
                for member in members:
                    member.kill()
                raise TimeoutError(f"{kind} did not end within {TIMEOUT:.0f} s")
        if kill is None:
            self.seconds[kind] = time.monotonic() - begun
        return [int(member.exitcode or 0) for member in members]

    def _work(self, kind: str, rank: int, port: int, out: Path, kill: Kill | None, count: Any) -> None:
        """What a forked process does; it never returns into the drill's own code."""
        os.environ.update(_environment(kind, rank, port))
        sys.stderr = sys.stdout = (self.folder / f"output-{kind}-{rank}.txt").open("w")
        if count is not None or kill is not None:
            sys.addaudithook(_touching(out, kill, count))
        if kind == "predict":
            from llmcls.cli import main

            run = str(self.folder / "single")
            main(["predict", "--run", run, "--input", str(self.folder / "texts.csv"), "--output", str(out)])
        from llmcls import train
        from llmcls.processes.stopping import EXIT_CODE, StoppedError

        try:
            train(settings=self.settings(kind), output_dir=out)
        except StoppedError as stopped:
            print(stopped, file=sys.stderr)
            sys.stderr.flush()
            os._exit(EXIT_CODE)

    def undisturbed(self, kind: str) -> None:
        """Find out what the kind gives when it is let alone."""
        count = FORK.Value("i", 0)
        out = self.folder / ("labelled.csv" if kind == "predict" else kind)
        if any(codes := self.attempt(kind, out, count=count)):
            said = "".join(path.read_text() for path in sorted(self.folder.glob(f"output-{kind}-*.txt")))
            raise RuntimeError(f"the undisturbed {kind} ended with {codes}:\n{said}")
        self.expected[kind], self.touches[kind] = outcome(out), count.value


LABELS = ("red", "blue", "green")


def outcome(out: Path) -> dict[str, bytes]:
    """What a run or prediction leaves behind, by name; of logs and cards what is not a time."""
    if out.is_file():
        return {"predictions": out.read_bytes()}
    found = {file.relative_to(out).as_posix(): file.read_bytes() for file in sorted(out.rglob("*")) if file.is_file()}
    card = json.loads(found.pop("run.json"))
    entries = [json.loads(line) for line in found.pop("log.jsonl").splitlines()]
    found["log"] = json.dumps([_without_times(entry) for entry in entries]).encode()
    found["card"] = json.dumps([_without_times(card["training"]), card["cost"]["flops"], card["labels"]]).encode()
    found.pop("settings.yaml")  # names the run's own directory
    return found


def _without_times(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if not any(word in name for word in SUMMARY)}


def difference(expected: dict[str, bytes], found: dict[str, bytes]) -> str | None:
    """The first thing that differs; None: nothing does."""
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            one, other = expected.get(name), found.get(name)
            at = next(
                (at for at, pair in enumerate(zip(one or b"", other or b"", strict=False)) if len({*pair}) > 1), 0
            )
            return f"{name}, from byte {at}: {_shorten(one, at)} became {_shorten(other, at)}"
    return None


def _shorten(content: bytes | None, at: int) -> str:
    return "nothing" if content is None else f"{content[max(0, at - 40) : at + 80]!r} ({len(content)} bytes)"


def _touching(place: Path, kill: Kill | None, count: Any) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook that counts what is done to files of a place, and ends the process at one of them."""
    touched = [0]
    names = (f"{place.parent}/{place.name}", f"{place.parent}/.{place.name}")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event.partition(".")[0] not in ("open", "os", "shutil") or not arguments:
            return
        if not isinstance(arguments[0], (str, Path)) or not str(arguments[0]).startswith(names):
            return
        if kill is not None and kill.where not in str(arguments[0]):
            return
        touched[0] += 1
        if count is not None:
            count.value += 1
        if kill is not None and touched[0] == kill.touches:
            os.kill(os.getpid(), kill.how)

    return hook


def _environment(kind: str, rank: int, port: int) -> dict[str, str]:
    """What a launcher sets for a process."""
    size = PROCESSES[kind]
    if size == 1:
        return {}
    found = {
        **{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_MIXED_PRECISION": "no"},
    }
    if kind.startswith("zero"):
        found |= {
            "ACCELERATE_USE_DEEPSPEED": "true",
            "ACCELERATE_DEEPSPEED_ZERO_STAGE": kind.removeprefix("zero"),
            "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "auto",
            "ACCELERATE_GRADIENT_CLIPPING": "auto",
            "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "none",
            "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "none",
            "ACCELERATE_DEEPSPEED_ZERO3_INIT": str(kind == "zero3").lower(),
            "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": str(kind == "zero3").lower(),
            "ACCELERATE_CONFIG_DS_FIELDS": "",
        }
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Tally:
    """What has been done so far.

    Attributes:
        kills: by kind and signal.
        ends: exit codes of attempts that were to be killed, by kind.
        rounds: by kind, runs that came to their end and were compared.
        first: the first difference; None: there was none.
    """

    kills: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    rounds: Counter[str] = field(default_factory=Counter)
    first: str | None = None

    def __str__(self) -> str:
        parts = [f"{sum(self.kills.values())} kills ({_counts(self.kills)})"]
        parts += [f"{sum(self.rounds.values())} runs compared ({_counts(self.rounds)})"]
        parts += [f"exit codes {_counts(self.ends)}"]
        return "; ".join(parts) + f"; first difference: {self.first or 'none'}"


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counter.items()))


def drill(bench: Bench, kind: str, chance: random.Random, tally: Tally, kills: int) -> Iterator[None]:
    """One round: kill the same command so many times, let it end, compare. Yields after every attempt."""
    out = bench.folder / "rounds" / ("out.csv" if kind == "predict" else "run")
    shutil.rmtree(out.parent, ignore_errors=True)
    out.parent.mkdir(parents=True)
    for _ in range(kills):
        how = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
        by_time = chance.random() < 0.4 or (how == signal.SIGTERM and PROCESSES[kind] > 1)
        drawn = chance.random()  # more often early: later attempts of a round have less to do
        kill = Kill(how, None if by_time else 1 + int(drawn**2 * bench.touches[kind]), drawn * bench.seconds[kind])
        codes = bench.attempt(kind, out, kill)
        if any(codes):
            tally.kills[f"{kind} {how.name}"] += 1
            tally.ends[f"{kind} {'/'.join(map(str, sorted(set(codes))))}"] += 1
            if 1 in codes and min(codes) >= 0:  # else it has lost the one that was killed
                tally.first = tally.first or f"{kind} failed with {codes}: {_said(bench, kind)}"
        yield
        if out.exists():
            break
    if not out.exists() and any(codes := bench.attempt(kind, out)):
        tally.first = tally.first or f"{kind} did not end well ({codes}): {_said(bench, kind)}"
        return
    left = sorted(path.name for path in out.parent.iterdir() if path.name not in (out.name, f"{out.name}.lock"))
    # First, for a kill may have come when the run had its name already.
    found = _opened(out, left) if kind != "predict" else None
    found = found or difference(bench.expected[kind], outcome(out))
    if found is not None:
        tally.first = tally.first or f"{kind}: {found}"
    tally.rounds[kind] += 1
    yield


def _opened(out: Path, left: list[str]) -> str | None:
    """Open the run as the next command does, which clears away what a kill at the very end has left."""
    from llmcls.runs.run import Run

    Run.open(out)
    remains = [name for name in ("trainer", "resume.json", "unfinished.txt") if (out / name).exists()] + left
    return f"this is left behind: {remains}" if remains else None


def _said(bench: Bench, kind: str) -> str:
    return " | ".join(path.read_text()[-600:] for path in sorted(bench.folder.glob(f"output-{kind}-*.txt")))


def import_all(kinds: list[str]) -> None:
    """Import what the attempts need, so that each fork has it; threads of its own torch must not have begun."""
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "DS_BUILD_OPS": "0"}
    import torch

    import llmcls.cli
    import llmcls.training.train
    import llmcls.training.trainer  # noqa: F401

    torch.set_num_threads(1)
    if any(kind.startswith("zero") for kind in kinds):
        import deepspeed  # noqa: F401


def main() -> int:
    """Drill until the time is over, or something differs."""
    parser = argparse.ArgumentParser(description="Kill trainings and predictions at random and compare what comes out.")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--only", nargs="+", choices=list(PROCESSES), default=["single", "ddp", "zero2", "predict"])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    kinds = [*dict.fromkeys(["single"] * ("predict" in options.only) + options.only)]
    end = time.monotonic() + options.minutes * 60
    import_all(kinds)
    chance, tally = random.Random(options.seed), Tally()
    with tempfile.TemporaryDirectory(prefix="llmcls-drill-") as place:
        os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(Path(place) / "torch_extensions"))
        bench = Bench(Path(place))
        bench.prepare()
        for kind in kinds:
            bench.undisturbed(kind)
            print(f"{kind}: {bench.seconds[kind]:.1f} s undisturbed, {bench.touches[kind]} touches", flush=True)
        while time.monotonic() < end and tally.first is None:
            kind = chance.choice(options.only)
            for _ in drill(bench, kind, chance, tally, kills=chance.randint(1, 6)):
                if time.monotonic() > end:
                    break
            print(tally, flush=True)
    print(f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {os.cpu_count()} CPUs, seed {options.seed}: {tally}")
    return int(tally.first is not None)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
