"""Intervals, paired tests, bootstrap, sample sizes."""
