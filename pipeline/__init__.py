"""From a BF16 checkpoint to the quantization worth deploying, as one Hydra-configured pipeline.

Each folder of this package is a stage (`calibrate`, `quantize`, `verify`, `bench`, `eval`, `report`) or what stages
share. Importing the package imports nothing heavy: torch, transformers and vLLM belong to the stage that needs them.
"""
