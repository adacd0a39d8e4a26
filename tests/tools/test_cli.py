"""The command line itself: help, version, mistakes. And that its help and manual agree."""

import os
import re
import shutil
import subprocess
import unittest

import harness
from harness import ROOT, sockleak

COMMANDS = ("run", "report", "dump", "reap", "scan")


def long_options(text):
    return set(re.findall(r"(?<![\w-])--([a-z][a-z-]+)", text))


class Help(harness.TestCase):
    def test_help_names_every_command(self):
        done = sockleak("--help")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        for command in COMMANDS:
            self.assertRegex(done.stdout, rf"(?m)^  {command} ")

    def test_help_of_a_command_is_the_same_both_ways(self):
        for command in COMMANDS:
            with self.subTest(command):
                by_help = sockleak("help", command)
                self.assertEqual((by_help.returncode, by_help.stderr), (0, ""))
                self.assertEqual(by_help.stdout, sockleak(command, "--help").stdout)
                self.assertEqual(by_help.stdout, sockleak(command, "-h").stdout)
                self.assertIn(f"usage: sockleak {command} ", by_help.stdout)

    def test_help_of_help_is_the_help(self):
        for arguments in (["help"], ["help", "help"], ["help", "--help"], ["help", "-h"]):
            with self.subTest(arguments):
                done = sockleak(*arguments)
                self.assertEqual((done.returncode, done.stderr), (0, ""))
                self.assertEqual(done.stdout, sockleak("--help").stdout)

    def test_help_fits_80_columns_but_for_a_hair(self):
        for command in COMMANDS:
            for line in sockleak("help", command).stdout.splitlines():
                self.assertLessEqual(len(line), 100, line)

    def test_version(self):
        self.assertRegex(sockleak("--version").stdout, r"^sockleak \d+\.\d+\.\d+\n$")

    def test_output_that_cannot_be_written_is_an_error(self):
        with open("/dev/full", "w", encoding="ascii") as full:
            for arguments in (["--help"], ["--version"], ["help", "run"], ["scan"]):
                done = subprocess.run(
                    [harness.SOCKLEAK, *arguments], stdout=full, stderr=subprocess.PIPE, text=True,
                    check=False,
                )
                self.assertEqual(done.returncode, 1, arguments)
                self.assert_one_line(done.stderr, "^sockleak: standard output: No space left")


class Mistakes(harness.TestCase):
    def check(self, arguments, pattern):
        done = sockleak(*arguments)
        self.assertEqual((done.returncode, done.stdout), (2, ""), arguments)
        self.assert_one_line(done.stderr, pattern)

    def test_mistakes_are_one_line_with_status_2(self):
        for arguments, pattern in (
            ([], "no command given"),
            (["rnu"], "no command 'rnu': did you mean 'run'"),
            (["reprot", "x"], "did you mean 'report'"),
            (["frobnicate"], r"no command 'frobnicate' \(see"),
            (["help", "scna"], "did you mean 'scan'"),
            (["--verison"], "no option '--verison': did you mean '--version'"),
            (["-x"], "no option '-x' before a command"),
            (["run"], "which command"),
            (["run", "--"], "which command"),
            (["run", "--fromat=json", "true"], "no option '--fromat': did you mean '--format'"),
            (["run", "--output"], "option '--output' needs a value"),
            (["run", "-o"], "option '-o' needs a value"),
            (["run", "--quiet=1", "true"], "option '--quiet' takes no value"),
            (["run", "-z", "true"], "no option '-z'"),
            (["run", "--s", "x"], "option '--s' is ambiguous"),
            (["run", "--signal=KILL", "true"], "--signal KILL: is none of USR1"),
            (["run", "--option", "nonsense=1", "true"], "names no option of the library"),
            (["run", "--option", "max_sokets=1", "true"], "names no option .*: did you mean 'max_sockets'"),
            (["run", "--option", "grace_ms", "true"], "is not NAME=VALUE"),
            (["run", "--option", "ledger_dir=/tmp", "true"], "use --ledger-dir"),
            (["run", "--option", "exitcode=abc", "true"], "--option exitcode=abc: is not 0 to 255"),
            (["run", "--option", "stack_depth=0", "true"], "--option stack_depth=0: is not 1 to 128 frames"),
            (["run", "--option", "signal=usr2", "true"], r"--option signal=usr2: is not USR1\|USR2\|"),
            (["run", "--option", "log_path=", "true"], "--option log_path=: is empty"),
            (["run", "--option", "log_path='/tmp/a", "true"], "is not in quotes as a whole"),
            (["run", "--option", "log_path=" + 256 * "a", "true"], "is longer than 255 bytes"),
            (["run", "--format=yaml", "true"], "yaml"),
            (["run", "--fail-on=some", "true"], "some"),
            (["run", "--fail-on=close-wait,none", "true"], "--fail-on=close-wait,none: 'none' goes with no other"),
            (["run", "--exit-code=1000", "true"], "1000"),
            (["dump"], "which process"),
            (["dump", "abc"], "'abc' is no process id"),
            (["dump", "-5"], "no option '-5'"),
            (["dump", "0"], "'0' is no process id"),
            (["dump", "1", "2"], "'2' is too much"),
            (["scan", "everything"], "'everything' is too much"),
            (["scan", "--older=soon"], "--older soon: is not a time"),
            (["scan", "--older=5x"], "--older 5x: is not a time"),
            (["scan", "--port=70000"], "--port 70000: is not a port"),
            (["scan", "--pid=self"], "--pid self: is not a process id"),
            (["scan", "--format=xml"], "--format xml: is not text or json"),
            (["report", "--max-sockets=99999999999", "x"],
             "--max-sockets 99999999999: is not a number from 0 to 1000000000 "),
            (["run", "--max-sockets=few", "true"], "--max-sockets few: is not a number from 0 to 1000000000 "),
            (["scan", "--peers=99999999999"], "--peers 99999999999: is not a number from 0 to 4294967295 "),
            (["run", "--output=", "true"], "--output=: a file name must follow "),
            (["report", "-o", "", "x"], "--output=: a file name must follow "),
            (["report", "--suppressions=", "x"], "--suppressions=: a file name must follow "),
            (["dump", "--baseline=", "1"], "--baseline=: a file name must follow "),
            (["run", "--ledger-dir=", "true"], "--ledger-dir=: a directory's name must follow "),
            (["scan", "--watch=0"], "--watch=0: is not a time that is longer than 0"),
            (["scan", "--wacth"], "did you mean '--watch'"),
        ):
            with self.subTest(arguments):
                self.check(arguments, pattern)

    def test_a_word_of_control_characters_does_not_reach_the_terminal(self):
        done = sockleak("\033[31mrun")
        self.assertNotIn("\033", done.stderr)


class Manual(harness.TestCase):
    MAN = os.path.join(ROOT, "tools", "man")

    def source(self, page):
        with open(os.path.join(self.MAN, page), encoding="utf-8") as file:
            # mdoc(7): "Fl Fl show Ns = Ns ..." is --show=
            return re.sub(r"Fl Fl ", "--", file.read())

    def test_manual_and_help_have_the_same_options(self):
        shown = set()
        for command in COMMANDS:
            shown |= long_options(sockleak("help", command).stdout)
        self.assertEqual(shown, long_options(self.source("sockleak.1")) - {"version"})

    def test_manual_has_every_option_of_the_library(self):
        done = subprocess.run(
            ["/bin/true"], capture_output=True, text=True, check=True,
            env=harness.clean_environment(LD_PRELOAD=harness.LIBRARY, SOCKLEAK_OPTIONS="help=1"),
        )
        names = re.findall(r"(?m)^  (\w+) ", done.stderr)
        self.assertGreater(len(names), 5)
        manual = self.source("libsockleak.7")
        for name in names:
            self.assertRegex(manual, rf"\b{name}\b")
            # The command knows it, too: a value is taken, or refused as one.
            accepted = sockleak("run", "--option", f"{name}=1", "true").stderr
            self.assertNotIn("names no option", accepted)

    @unittest.skipUnless(shutil.which("groff"), "no groff")
    def test_manual_has_no_mistakes(self):
        for page in ("sockleak.1", "libsockleak.7"):
            checked = subprocess.run(
                ["groff", "-mdoc", "-Tutf8", "-ww", "-z", os.path.join(self.MAN, page)],
                capture_output=True, text=True, check=False,
            )
            self.assertEqual((checked.returncode, checked.stderr), (0, ""), page)


class Completion(harness.TestCase):
    SCRIPT = os.path.join(ROOT, "tools", "completions", "sockleak.bash")

    def complete(self, *words):
        script = (
            f'source "{self.SCRIPT}"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
            '_sockleak; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(
            ["bash", "-c", script, "bash", "sockleak", *words], capture_output=True, text=True,
            check=True, cwd=self.directory,
        )
        return set(done.stdout.split())

    def test_commands(self):
        self.assertEqual(self.complete(""), {*COMMANDS, "help", "--help", "--version"})
        self.assertEqual(self.complete("r"), {"run", "report", "reap"})
        self.assertEqual(self.complete("help", "d"), {"dump"})

    def test_options_are_those_of_the_help(self):
        for command in COMMANDS:
            offered = {word[2:].rstrip("=") for word in self.complete(command, "--")}
            self.assertEqual(offered, long_options(self.options_part(command)), command)

    @staticmethod
    def options_part(command):
        text = sockleak("help", command).stdout.split("\noptions:\n")[1].split("\nexamples:")[0]
        return "\n".join(
            match for match in re.findall(r"(?m)^ {2,}(?:-\w, +)?(--[a-z-]+.*)$", text)
        ).replace("--json is the same", "")

    def test_values(self):
        self.assertEqual(self.complete("run", "--show", "=", ""), {"leaks", "all"})
        self.assertEqual(self.complete("scan", "--format", "=", "j"), {"json"})
        self.assertEqual(self.complete("run", "--color", "ne"), {"never"})

    def test_a_command_to_run_is_completed_as_a_command(self):
        self.assertIn("true", self.complete("run", "--", "tru"))
        self.assertIn("true", self.complete("run", "--quiet", "tru"))
        self.assertIn("true", self.complete("run", "--show", "=", "all", "--output", "x", "tru"))

    def test_the_words_of_a_command_to_run_are_its_own(self):
        for words in (["true", "--"], ["--", "true", "--"], ["-o", "x", "true", "--"]):
            self.assertEqual(self.complete("run", *words), set(), words)


if __name__ == "__main__":
    harness.main()
