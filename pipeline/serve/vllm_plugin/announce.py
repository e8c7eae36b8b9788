"""What the plugin tells the user: one fixed line for each emulation, and clear warnings.

The logger's name starts with `vllm.`, so the lines pass through vLLM's own handlers and format and
land where the server's other lines do. Each line is written once per process, however many layers
it concerns.
"""

from typing import Any

from vllm.logger import init_logger

from pipeline.serve.vllm_plugin.log_lines import EMULATION_LOG_TEMPLATE, PRODUCTS_LOG_TEMPLATE

logger: Any = init_logger("vllm.pipeline")
_said: set[str] = set()


def _say_once(line: str) -> None:
    if line not in _said:
        _said.add(line)
        logger.info(line)


def emulated(what: str) -> None:
    """Log that `what` is emulated in this process, the first time only."""
    _say_once(EMULATION_LOG_TEMPLATE % what)


def float32_products(dtype: str) -> None:
    """Log that products of `dtype` values are taken in float32, the first time only."""
    _say_once(PRODUCTS_LOG_TEMPLATE % dtype)


def not_patched(what: str, why: str) -> None:
    """Warn that this vLLM looks different from what the plugin knows, so `what` is left alone."""
    line = f"pipeline: {what} is left as it is: {why}"
    if line not in _said:
        _said.add(line)
        logger.warning(line)
