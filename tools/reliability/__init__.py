"""Proofs of reliability: what is tried, and what came of it."""
