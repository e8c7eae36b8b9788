"""The renderers: a terminal, Markdown, CSV and the JSON line, and one HTML page."""
