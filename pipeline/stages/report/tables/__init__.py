"""The report's tables as text: every renderer shows these cells, and none formats a figure of its own."""
