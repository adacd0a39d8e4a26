"""Outcomes of a suite, test by test, bare and watched: what differs, and what is merely flaky.

An outcome is a word (ok, fail, skip ...) or any other text; outcomes are only ever compared. A
suite's outcomes are a dict: id of the test -> outcome. Where the two sides differ, both are run
again, the same number of times. What a test did more than once watched and never bare, or nearly
always bare and never watched, is a difference. Any other variation is flaky, and listed with its
counts: nothing is dropped.
"""

import re
import signal
from collections import Counter
from dataclasses import dataclass, field

MISSING = "did not run"


@dataclass
class Variation:
    """What a test did in all runs of either side."""

    name: str
    mode: str  # the other side's
    bare: Counter = field(default_factory=Counter)
    watched: Counter = field(default_factory=Counter)

    def add(self, bare, watched):
        self.bare[bare.get(self.name, MISSING)] += 1
        self.watched[watched.get(self.name, MISSING)] += 1

    @property
    def is_difference(self):
        unknown = sum(count for outcome, count in self.watched.items() if outcome not in self.bare)
        usual, times = self.bare.most_common(1)[0]
        return unknown > 1 or (times >= self.bare.total() - 1 and usual not in self.watched)

    def __str__(self):
        return f"{self.name}: bare {written(self.bare)}; {self.mode} {written(self.watched)}"


def written(outcomes):
    return ", ".join(f"{count} x {outcome}" for outcome, count in outcomes.most_common())


def differing(bare, watched):
    """The ids whose outcomes differ, in order."""
    return [name for name in [*bare, *(n for n in watched if n not in bare)]
            if bare.get(name, MISSING) != watched.get(name, MISSING)]


def below_the_command(outcomes):
    """Outcomes with death by signal N as exit status 128 + N: `sockleak run` has made it that."""
    def exit_status(match):
        return f"exit status {128 + signal.Signals[match[1]]}"
    return {name: re.sub(r"death by (SIG\w+)", exit_status, text)
            for name, text in outcomes.items()}


def is_failure(outcome):
    return outcome.startswith(("fail", "died", "no end"))


def tally(outcomes):
    """(ok, fail, skip): what is no failure and no skip is ok."""
    counts = Counter("fail" if is_failure(outcome) else
                     "skip" if outcome.startswith("skip") else "ok"
                     for outcome in outcomes.values())
    return counts["ok"], counts["fail"], counts["skip"]
