"""Published results, and how a run reproduces them."""
