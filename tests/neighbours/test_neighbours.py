#!/usr/bin/env python3
"""Beside sanitizers, allocators, other preloaded libraries, deep-bound plugins, small stacks and
seccomp filters: the program runs as bare, and its leak is found."""

import glob
import os
import shutil
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tools"))
from harness import BUILD, LIBRARY, clean_environment, need_build, valgrind_can_run  # noqa: E402

DIRECTORY = os.path.join(BUILD, "tests", "neighbours")
OPTIONS = "exit_grace_ms=0:grace_ms=0"
DEADLINE_S = 60
ALLOCATORS = ("jemalloc", "tcmalloc_minimal", "mimalloc")


def shared_library(name):
    """A library's file in the system's directories, or None."""
    for pattern in ("/usr/lib/*-linux-gnu", "/usr/lib64", "/usr/lib"):
        found = sorted(glob.glob(f"{pattern}/{name}"))
        if found:
            return found[0]
    return None


def run(program, *arguments, preload="", **environment):
    environment.setdefault("SOCKLEAK_OPTIONS", OPTIONS)
    environment.setdefault("SOCKLEAK_LIBRARY", LIBRARY)
    if preload:
        environment["LD_PRELOAD"] = preload
    return subprocess.run([os.path.join(DIRECTORY, program), *arguments],
                          env=clean_environment(**environment), stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, errors="replace", timeout=DEADLINE_S,
                          check=False)


class Neighbours(unittest.TestCase):
    maxDiff = None

    def need(self, program):
        if not os.path.exists(os.path.join(DIRECTORY, program)):
            self.skipTest(f"{program} could not be built: no such compiler or library here")

    def as_bare(self, program, *arguments, before="", behind="", said="leak_here", **environment):
        """Runs it with and without us, and returns the run with us."""
        self.need(program)
        others = " ".join(filter(None, (before, behind)))
        bare = run(program, *arguments, preload=others, **environment)
        if bare.returncode == 77:
            self.skipTest("the kernel or this user does not allow it")
        ours = run(program, *arguments, preload=" ".join(filter(None, (before, LIBRARY, behind))),
                   **environment)
        self.assertEqual(ours.stdout, bare.stdout, ours.stderr)
        self.assertEqual(ours.returncode, bare.returncode, ours.stderr)
        for line in ours.stderr.splitlines():
            self.assertTrue(line.startswith("==") and "ERROR" not in line and "WARNING" not in line,
                            ours.stderr)
        self.assertEqual(ours.stderr.count("== summary: "), 1, ours.stderr)
        self.assertIn(said, ours.stderr)
        return ours

    def test_exceptions_and_cancellation(self):
        self.as_bare("exceptions")

    def test_memcheck_finds_no_fault_with_what_is_read_of_any_frames(self):
        self.need("odd")
        if not valgrind_can_run():
            self.skipTest("valgrind is not installed (`make deps`), or this is a sanitized build")
        environment = clean_environment(LD_PRELOAD=LIBRARY, SOCKLEAK_OPTIONS=OPTIONS)
        done = subprocess.run(["valgrind", "-q", "--error-exitcode=99", os.path.join(DIRECTORY, "odd"),
                               "--scenario", "any_frames"], env=environment, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, errors="replace", timeout=DEADLINE_S,
                              check=False)
        self.assertEqual(done.returncode, 9, done.stderr)
        self.assertIn("1 leaked (1 close-wait, 0 dead), 0 open, 601 closed properly", done.stderr)
        self.assertNotIn("uninitialised", done.stderr)


def sanitizer(name):
    def test(self):
        kind = name.split("-")[1]
        # ASan insists on coming first, since its interceptors call what is behind them; ours do,
        # too, and so that check is all that stands between. Leaks are ours to tell here.
        options = {"ASAN_OPTIONS": "verify_asan_link_order=0:detect_leaks=1"} \
            if kind == "address" else {}
        ours = self.as_bare(name, **options)
        self.assertIn("eof-ignored", ours.stderr)
    return test


def runtime_first(name):
    def test(self):
        """As ASan's own manual has it: its runtime before other preloaded libraries."""
        self.need(name)
        kind = {"address": "libasan.so.*", "thread": "libtsan.so.*"}[name.split("-")[1]]
        runtime = shared_library(kind)
        if not runtime or name.startswith("clang"):
            self.skipTest(f"no shared {kind}")
        self.assertIn("eof-ignored", self.as_bare(name, before=runtime).stderr)
    return test


def allocator(name, linked, order):
    def test(self):
        if linked:
            self.assertIn("eof-ignored", self.as_bare(name).stderr)
            return
        library = shared_library(f"lib{name}.so.?")
        if not library:
            self.skipTest(f"lib{name} is not installed (`make deps`)")
        self.assertIn("eof-ignored", self.as_bare("plain", **{order: library}).stderr)
    return test


def faketime(order):
    def test(self):
        library = shared_library("faketime/libfaketime.so.1")
        if not library:
            self.skipTest("libfaketime is not installed (`make deps`)")
        ours = self.as_bare("plain", FAKETIME="@2001-02-03 04:05:06", **{order: library})
        self.assertIn("year: 2001", ours.stdout)
        self.assertIn("eof-ignored", ours.stderr)
    return test


def odd(scenario, said):
    def test(self):
        ours = self.as_bare("odd", "--scenario", scenario, said=said,
                            PLUGIN=os.path.join(DIRECTORY, "deepbind.so"))
        self.assertEqual(ours.stderr.count("CLOSE_WAIT ("), 0 if "judged" in said else 1, ours.stderr)
    return test


def odd_with_a_ledger_file(scenario):
    def test(self):
        directory = os.path.join(DIRECTORY, "ledgers-" + scenario)
        shutil.rmtree(directory, ignore_errors=True)
        os.mkdir(directory)
        self.addCleanup(shutil.rmtree, directory, ignore_errors=True)
        self.as_bare("odd", "--scenario", scenario, said="",
                     SOCKLEAK_OPTIONS=f"{OPTIONS}:verbosity=1:ledger_dir={directory}",
                     PLUGIN=os.path.join(DIRECTORY, "deepbind.so"))
    return test


for compiler in ("gcc", "clang"):
    for kind in ("address", "thread", "undefined"):
        setattr(Neighbours, f"test_{compiler}_{kind}", sanitizer(f"{compiler}-{kind}"))
    for kind in ("address", "thread"):
        setattr(Neighbours, f"test_{compiler}_{kind}_runtime_first",
                runtime_first(f"{compiler}-{kind}"))
for each in ALLOCATORS:
    setattr(Neighbours, f"test_{each}_linked", allocator(each, True, None))
    for where in ("before", "behind"):
        setattr(Neighbours, f"test_{each}_{where}_us", allocator(each, False, where))
for where in ("before", "behind"):
    setattr(Neighbours, f"test_faketime_{where}_us", faketime(where))
for each, words in {"deepbind": "leak_here", "small_thread": "leak_here",
                    "signal_stack": "leak_in_handler", "cancellation": "leak_here",
                    "no_memfd": "under_filter", "no_fallocate": "under_filter",
                    "no_openat": "eof-ignored", "no_getsockopt": "could not be judged",
                    "no_madvise": "under_filter", "no_prlimit": "under_filter",
                    "no_pwritev2": "under_filter", "any_frames": "leak_here"}.items():
    setattr(Neighbours, f"test_{each}", odd(each, words))
    setattr(Neighbours, f"test_{each}_with_a_ledger_file", odd_with_a_ledger_file(each))

if __name__ == "__main__":
    need_build()
    unittest.main(verbosity=2)
