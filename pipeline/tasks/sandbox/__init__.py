"""Sandbox for code that a model wrote."""
