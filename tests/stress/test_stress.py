#!/usr/bin/env python3
"""A bounded slice of the stress: fixed seeds and fresh ones, in turns and side by side."""

import unittest

import run


class Stress(unittest.TestCase):
    def hold(self, seeds, count, seconds):
        totals, wrong = run.run_seeds(seeds, count, seconds)
        print(totals)
        if wrong:
            run.explain(*wrong, seconds=20)
        self.assertIsNone(wrong)
        self.assertGreater(totals["compared"], 0)

    def test_fixed_seeds_agree_with_the_kernel(self):
        self.hold([1, 2, 3, 4, 5], 20000, 12)

    def test_fresh_seeds_agree_with_the_kernel(self):
        self.hold(run.fresh_seeds(), 20000, 5)

    def test_the_tools_show_what_the_kernel_and_the_program_know(self):
        for way, has_file in ((["--processes=1"], True), (run.ALL_SEEN, False)):
            problems, compared = run.compare_tools(1, 20000, way, has_file)
            self.assertEqual(problems, [])
            self.assertGreater(compared, 10)


if __name__ == "__main__":
    unittest.main(verbosity=2)
