"""Conversations and evaluation tasks: local data, sampling, scoring of generated code."""
