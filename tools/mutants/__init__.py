"""Mutation runs (`make mutants`)."""
