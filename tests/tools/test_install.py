"""make install and uninstall: what lies where, that it runs from there, and that nothing is left."""

import glob
import os
import re
import shutil
import subprocess
import unittest

import harness
from harness import BUILD, EXAMPLES, ROOT

FILES = ["bin/sockleak", "lib/libsockleak.so", "share/bash-completion/completions/sockleak",
         "share/man/man1/sockleak.1", "share/man/man7/libsockleak.7",
         "share/sockleak/sockleak-report.schema.json"]
BASH_COMPLETION = "/usr/share/bash-completion/bash_completion"


@unittest.skipUnless(shutil.which("make"), "needs make")
class Install(harness.TestCase):
    def make(self, target, **variables):
        # What is installed was built before: -o keeps make from doing it with other flags.
        built = [word for name in ("sockleak", "libsockleak.so") for word in ("-o", os.path.join(BUILD, name))]
        done = subprocess.run(
            ["make", "-s", *built, target, f"BUILD={BUILD}", *(f"{k}={v}" for k, v in variables.items())],
            cwd=ROOT, env=harness.clean_environment(), capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)

    @staticmethod
    def files(place):
        return sorted(os.path.relpath(os.path.join(where, name), place)
                      for where, _, names in os.walk(place) for name in names)

    def check_runs(self, prefix, library):
        done = subprocess.run([os.path.join(prefix, "bin/sockleak"), "run", "-q", "sh", "-c",
                               f"{EXAMPLES}/forgotten_close >/dev/null; echo $LD_PRELOAD"],
                              env=harness.clean_environment(), capture_output=True, text=True, check=False)
        self.assertEqual((done.returncode, done.stdout.strip()), (23, library), done.stderr)

    def test_below_a_prefix_and_nothing_is_left(self):
        prefix = self.path("prefix")
        self.make("install", PREFIX=prefix)
        self.assertEqual(self.files(prefix), FILES)
        self.check_runs(prefix, os.path.join(prefix, "lib/libsockleak.so"))
        self.make("uninstall", PREFIX=prefix)
        self.assertEqual(self.files(prefix), [])
        self.assertFalse(os.path.exists(os.path.join(prefix, "share/sockleak")))

    def test_below_a_staging_directory(self):
        stage = self.path("stage")
        self.make("install", PREFIX="/usr", DESTDIR=stage)
        self.assertEqual(self.files(stage), ["usr/" + name for name in FILES])
        self.check_runs(stage + "/usr", os.path.join(stage, "usr/lib/libsockleak.so"))
        self.make("uninstall", PREFIX="/usr", DESTDIR=stage)
        self.assertEqual(self.files(stage), [])

    def test_uninstall_leaves_what_others_put_there(self):
        prefix = self.path("prefix")
        self.make("install", PREFIX=prefix)
        self.write("prefix/bin/other", "not ours")
        self.make("uninstall", PREFIX=prefix)
        self.make("uninstall", PREFIX=prefix)  # twice is no mistake
        self.assertEqual(self.files(prefix), ["bin/other"])

    @unittest.skipUnless(shutil.which("man"), "man is not installed")
    def test_man_finds_the_pages(self):
        prefix = self.path("prefix")
        self.make("install", PREFIX=prefix)
        env = harness.clean_environment(MANPATH=os.path.join(prefix, "share/man"), MANWIDTH="100")
        for section, page in (("1", "sockleak"), ("7", "libsockleak")):
            done = subprocess.run(["man", "-P", "cat", section, page], env=env, capture_output=True,
                                  text=True, check=False)
            if "documentation has been minimized" in done.stdout:
                self.skipTest("this system's man shows no pages")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn(page, done.stdout)

    @unittest.skipUnless(os.path.exists(BASH_COMPLETION), "bash-completion is not installed")
    def test_bash_completion_loads_it_by_its_name(self):
        prefix = self.path("prefix")
        self.make("install", PREFIX=prefix)
        env = harness.clean_environment(XDG_DATA_DIRS=os.path.join(prefix, "share"))
        done = subprocess.run(
            ["bash", "-c", f". {BASH_COMPLETION}; _completion_loader sockleak; complete -p sockleak"],
            env=env, capture_output=True, text=True, check=False)
        self.assertIn("-F _sockleak sockleak", done.stdout, done.stderr)


@unittest.skipUnless(shutil.which("make"), "needs make")
class Help(unittest.TestCase):
    def test_it_lists_each_target_that_has_a_line(self):
        """Also one with digits in its name."""
        done = subprocess.run(["make", "-s", "help"], cwd=ROOT, env=harness.clean_environment(),
                              capture_output=True, text=True, check=True)
        listed = [line.split()[0] for line in done.stdout.splitlines()]
        files = ["Makefile", *glob.glob("tools/*.mk", root_dir=ROOT), *glob.glob("tests/**/*.mk", root_dir=ROOT,
                                                                                 recursive=True)]
        told = [line.split(":")[0] for path in files
                for line in harness.read(os.path.join(ROOT, path)).splitlines()
                if re.match(r"\S+:.*## \w", line)]
        self.assertIn("check", told)
        self.assertEqual(sorted(listed), sorted(told))


if __name__ == "__main__":
    harness.main()
