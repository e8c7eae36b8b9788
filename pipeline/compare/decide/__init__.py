"""Decisions: constraints, frontier, recommendation, verdict."""
