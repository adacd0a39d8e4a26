#!/usr/bin/env python3
"""Runs fuzz targets.

    tests/fuzz/run.py TARGET                  what `make check` runs: the corpus, what once crashed,
                                              and a few thousand inputs more, always the same
    tests/fuzz/run.py --seconds S TARGET...   each for S seconds, from where the last run ended
    tests/fuzz/run.py --can-build CLANG       can this compiler build them?

An input that crashes, hangs or breaks a claim is kept in $BUILD/fuzz/findings/TARGET/, and is the
exit status 1. What is found beside goes on in $BUILD/fuzz/found/TARGET/. Exit status 77, with the
reason, where the targets cannot be built.
"""

import argparse
import os
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
BUILD = pathlib.Path(os.environ.get("BUILD") or HERE.parent.parent / "build").resolve()
FUZZ = BUILD / "fuzz"
EXIT_SKIPPED = 77
CHECK_RUNS = {"ledger": 700, "json": 2500, "suppress": 4000, "options": 20000, "names": 8000}
MAX_BYTES = {"ledger": 65536, "json": 32768, "suppress": 2048, "options": 2048, "names": 2048}
# An error's status is libFuzzer's 77 otherwise, as that of a test that is skipped.
LIMITS = ["-error_exitcode=1", "-timeout=5", "-rss_limit_mb=1024", "-close_fd_mask=2",
          "-print_final_stats=1"]


def skip(reason):
    print(reason)
    sys.exit(EXIT_SKIPPED)


def can_build(compiler):
    """Whether the compiler has libFuzzer and both sanitizers; where not, says why."""
    program = "#include <stddef.h>\n#include <stdint.h>\n" \
        "int LLVMFuzzerTestOneInput(const uint8_t *d, size_t n) { return d && n ? 0 : 0; }\n"
    with tempfile.TemporaryDirectory() as directory:
        try:
            built = subprocess.run(
                [compiler, "-x", "c", "-fsanitize=fuzzer,address,undefined", "-o",
                 os.path.join(directory, "probe"), "-"],
                input=program, text=True, capture_output=True, check=False)
        except FileNotFoundError:
            print(f"fuzzing needs clang, and there is no '{compiler}'")
            return False
    if built.returncode:
        print(f"fuzzing needs clang's runtime (package libclang-rt-dev): {compiler} cannot link "
              "-fsanitize=fuzzer,address,undefined")
    return built.returncode == 0


def inputs(target):
    """The directories of seeds: in the tree, and made by the build."""
    places = [HERE / "corpus" / target, FUZZ / "seeds" / target, HERE / "crashes" / target]
    return [str(place) for place in places if place.is_dir()]


def options_of(target):
    dictionary = HERE / f"{target}.dict"
    more = [f"-dict={dictionary}"] if dictionary.exists() else []
    findings = FUZZ / "findings" / target
    findings.mkdir(parents=True, exist_ok=True)
    return [*LIMITS, *more, f"-max_len={MAX_BYTES[target]}", f"-artifact_prefix={findings}/"]


def environment():
    """Sanitizers that end the program at once, and none of the caller's settings."""
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith(("SOCKLEAK", "DEBUGINFOD"))}
    kept["ASAN_OPTIONS"] = "detect_leaks=1:quarantine_size_mb=32"
    kept["UBSAN_OPTIONS"] = "print_stacktrace=1"
    return kept


def run(target, *arguments):
    """The fuzzer's exit status; its output goes where ours goes."""
    command = [str(FUZZ / target), *options_of(target), *arguments]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.monotonic()
    done = subprocess.run(command, env=environment(), stderr=subprocess.STDOUT, cwd=FUZZ,
                          stdout=subprocess.PIPE, text=True, errors="replace", check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    number = {name: int(value) for name, value in
              re.findall(r"^stat::(\w+):\s+(\d+)", done.stdout, re.M)}
    print(f"{target}: {number.get('number_of_executed_units', 0)} inputs, "
          f"{time.monotonic() - begun:.0f} s, {cpu_s:.0f} s of CPU, "
          f"{number.get('peak_rss_mb', 0)} MB at most, exit status {done.returncode}", flush=True)
    if done.returncode:
        print(done.stdout[-20000:])
    return done.returncode


def check(target):
    """Twice: the seeds as they are, then changed. The first run names the file that fails."""
    files = sorted(str(path) for place in inputs(target) for path in pathlib.Path(place).iterdir())
    with tempfile.TemporaryDirectory() as found:  # the first directory is the one that grows
        return run(target, *files) or run(target, f"-runs={CHECK_RUNS[target]}", "-seed=1", found,
                                          *inputs(target))


def fuzz(target, seconds):
    found = FUZZ / "found" / target
    found.mkdir(parents=True, exist_ok=True)
    # What older runs found is kept as long as it reaches something that nothing smaller does.
    return run(target, f"-max_total_time={seconds}", "-reduce_inputs=1", str(found), *inputs(target))


def main():
    parser = argparse.ArgumentParser(prog="tests/fuzz/run.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--can-build", metavar="CLANG")
    parser.add_argument("--seconds", type=int, metavar="S")
    parser.add_argument("targets", nargs="*", metavar="TARGET", choices=[*CHECK_RUNS, []])
    options = parser.parse_args()
    if options.can_build:
        return 0 if can_build(options.can_build) else 1
    if not options.targets:
        parser.error("no target is named")
    for target in options.targets:
        if not (FUZZ / target).exists():
            if can_build("clang"):
                sys.exit(f"{FUZZ / target} does not exist: make fuzz-built builds it")
            skip("the fuzz targets need clang and its runtime (libclang-rt-dev), which are not there")
    if options.seconds:
        return max([fuzz(target, options.seconds) for target in options.targets])
    return max([check(target) for target in options.targets])


if __name__ == "__main__":
    sys.exit(main())
