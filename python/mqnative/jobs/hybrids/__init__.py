"""The job of ``mqnative hybrids``: baselines, isolation, candidates, survivors, release."""
