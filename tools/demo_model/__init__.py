"""Build and train the embedded demo model (`pipeline/demo`), from the root of the repository.

python -m tools.demo_model.build      # test sets, calibration and benchmark conversations
python -m tools.demo_model.train      # the checkpoint, about an hour on two cores
python -m tools.demo_model.score      # its BF16 scores, and the model card
"""
