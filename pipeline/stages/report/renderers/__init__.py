"""Renderers: from blocks to a terminal, Markdown, one HTML page and PNG; CSV and the JSON line from the report."""
