"""Runs the steps of set-up: those that are stale, two at a time, each with one line and its time on the terminal."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from yuntai.lab.layout import Home
from yuntai.lab.setup.steps import Log, SetupError, Step

LANES = 2
TICK_S = 0.2
TITLE_WIDTH = 46
CLEAR_LINE = "\r\x1b[K"


@dataclass
class Job:
    """A step at work."""

    step: Step
    number: int
    inputs: str
    log: Log
    thread: threading.Thread | None = None
    began_s: float = 0.0
    error: BaseException | None = None


class Runner:
    """Runs steps, and remembers in ``stamps`` which results are good."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._stop = threading.Event()
        self._live = sys.stdout.isatty()

    def stale(self, step: Step) -> bool:
        """Return whether the step must run."""
        try:
            stamp = json.loads((self._home.stamps / step.name).read_text())
        except (FileNotFoundError, ValueError):
            return True
        return stamp.get("inputs") != step.inputs() or not step.is_there()

    def run(self, steps: list[Step]) -> None:
        """Run the steps in the order that their needs allow; end the program with the way out when one fails."""
        unknown = {need for step in steps for need in step.after} - {step.name for step in steps}
        if unknown:
            raise ValueError(f"steps need {sorted(unknown)}, which are not among them")
        waiting = list(enumerate(steps, start=1))
        done: set[str] = set()
        jobs: list[Job] = []
        try:
            while waiting or jobs:
                for number, step in list(waiting):
                    if len(jobs) < LANES and done.issuperset(step.after):
                        waiting.remove((number, step))
                        if self.stale(step):
                            jobs.append(self._begin(number, step))
                        else:
                            done.add(step.name)
                            self._print_line(number, len(steps), step, "ready")
                for job in self._ended(jobs):
                    jobs.remove(job)
                    self._finish(job, len(steps))
                    done.add(job.step.name)
        finally:
            self._stop.set()
            for job in jobs:
                if job.thread is not None:
                    job.thread.join()

    def _begin(self, number: int, step: Step) -> Job:
        (self._home.stamps / step.name).unlink(missing_ok=True)
        log = Log(self._home.log / f"setup-{step.name}.log", self._stop)
        # The inputs are taken before the work: what changes meanwhile makes the step stale again.
        job = Job(step, number, step.inputs(), log, began_s=time.monotonic())

        def work() -> None:
            try:
                step.run(log)
            except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits for this one
                job.error = error
            finally:
                log.close()

        job.thread = threading.Thread(target=work, name=step.name)
        job.thread.start()
        return job

    def _ended(self, jobs: list[Job]) -> list[Job]:
        """Return the jobs that have ended, after waiting a moment for one, with the others shown meanwhile."""
        if jobs and jobs[0].thread is not None:
            jobs[0].thread.join(TICK_S)
        if self._live and jobs:
            shown = ", ".join(f"{job.step.title} {time.monotonic() - job.began_s:.0f} s" for job in jobs)
            print(f"{CLEAR_LINE}  … {shown}", end="", flush=True)
        return [job for job in jobs if job.thread is not None and not job.thread.is_alive()]

    def _finish(self, job: Job, count: int) -> None:
        # A program that hung, a disk that is full: no fault of set-up's own, so a text and a way out, no traceback.
        if isinstance(job.error, (SetupError, OSError, subprocess.SubprocessError)):
            self._fail(job, job.error)
        if job.error is not None:
            raise job.error
        took_s = time.monotonic() - job.began_s
        self._home.stamps.mkdir(parents=True, exist_ok=True)
        write_stamp(self._home.stamps / job.step.name, job.inputs, took_s)
        self._print_line(job.number, count, job.step, f"{took_s:6.1f} s")

    def _fail(self, job: Job, error: Exception) -> None:
        if self._live:
            print(CLEAR_LINE, end="")
        print(f"{job.step.title} failed: {error}\nThe end of {job.log.path}:\n{job.log.tail()}", file=sys.stderr)
        way_out = (error.way_out if isinstance(error, SetupError) else "") or job.step.way_out
        print(f"\nWay out: {way_out}\nThen run the same command again.", file=sys.stderr)
        raise SystemExit(1) from error

    def _print_line(self, number: int, count: int, step: Step, end: str) -> None:
        label = f"[{number}/{count}] {step.title}"
        print(f"{CLEAR_LINE if self._live else ''}{label:<{TITLE_WIDTH}} {end}", flush=True)


def write_stamp(path: Path, inputs: str, took_s: float) -> None:
    """Note that a step's result is good for ``inputs``."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps({"inputs": inputs, "took_s": round(took_s, 1)}))
    partial.replace(path)
