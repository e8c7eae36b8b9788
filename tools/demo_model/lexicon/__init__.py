"""The words and facts the demo corpus is made of, as plain data.

Everything the demo model can know is written down here by hand: which word belongs to which
category, which city is the capital of which country, which character completes which idiom. The
generators combine these tables into questions; keeping them apart from the code keeps both short
and lets a test check the data (no word in two categories, no key twice).
"""
