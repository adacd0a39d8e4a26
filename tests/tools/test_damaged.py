"""Ledgers and JSON reports that lack what they should have: none of them passes for a clean one."""

import json
import os
import shutil
import subprocess

import harness
from harness import EXAMPLES, sockleak

LEAKS = 3  # of examples/forgotten_close


class Damaged(harness.TestCase):
    def setUp(self):
        super().setUp()
        subprocess.run([os.path.join(EXAMPLES, "forgotten_close")], check=True, stdout=subprocess.DEVNULL,
                       timeout=harness.DEADLINE_S, env=harness.clean_environment(
                           LD_PRELOAD=harness.LIBRARY, SOCKLEAK_OPTIONS=f"ledger_dir={self.directory}"))
        (name,) = [each for each in os.listdir(self.directory) if each.endswith(".ledger")]
        self.ledger = self.path(name)

    def document(self):
        return json.loads(sockleak("report", "--format=json", self.ledger).stdout)

    def report(self, document, *options):
        return sockleak("report", *options, self.write("damaged.json", json.dumps(document)))

    def assert_refused(self, document, words):
        done = self.report(document)
        self.assertEqual((done.returncode, done.stdout), (1, ""), done.stderr)
        self.assert_one_line(done.stderr, words)

    def test_the_whole_one(self):
        document = self.document()
        self.assertEqual(document["summary"]["leaks"], LEAKS)
        self.assertEqual(self.report(document).returncode, 0)

    def test_a_ledger_whose_end_is_missing(self):
        cut = shutil.copy(self.ledger, self.path("cut.ledger"))
        os.truncate(cut, 1000000)
        for options in ([], ["--fail-on=all"]):
            done = sockleak("report", *options, cut)
            self.assertEqual(done.returncode, 1, done.stdout)
            self.assertRegex(done.stdout, r"the ledger is incomplete: \d+ of \d+ records are missing")

    def test_a_verdict_of_a_later_sockleak(self):
        document = self.document()
        document["processes"][0]["findings"][0]["verdict"] = "of-a-later-version"
        done = self.report(document, "--fail-on=all")
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn("a finding has a verdict that is not known here", done.stdout)

    def test_a_finding_that_lists_too_few(self):
        document = self.document()
        document["processes"][0]["findings"][0]["sockets"].pop()
        done = self.report(document)
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn("a finding has more sockets than it lists", done.stdout)

    def test_what_a_process_must_have(self):
        for key, wrong in (("findings", {}), ("findings", None), ("pid", "x"), ("pid", None)):
            document = self.document()
            document["processes"][0][key] = wrong
            self.assert_refused(document, f"damaged.json: damaged report: process 1 of 1 has no '{key}', or a wrong one")

    def test_what_a_finding_must_have(self):
        for key, wrong in (("verdict", 7), ("verdict", None), ("sockets", None), ("sockets", 3)):
            document = self.document()
            document["processes"][0]["findings"][0][key] = wrong
            self.assert_refused(document, f"has no '{key}', or a wrong one")

    def test_a_baseline_is_held_to_the_same(self):
        document = self.document()
        del document["processes"][0]["findings"]
        baseline = self.write("baseline.json", json.dumps(document))
        done = sockleak("report", f"--baseline={baseline}", self.ledger)
        self.assertIn("has no 'findings'", done.stderr)
        self.assertNotIn(done.returncode, (0, 23))


if __name__ == "__main__":
    harness.main()
