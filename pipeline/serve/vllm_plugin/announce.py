"""Log lines of the plugin: one fixed line per emulation, and warnings.

The logger's name starts with `vllm.`, so the lines pass through vLLM's own handlers and format and
appear with the server's other lines. Each line is written once per process, for any number of layers.
"""

from typing import Any

from vllm.logger import init_logger

from pipeline.serve.vllm_plugin.log_lines import EMULATION_LOG_TEMPLATE, PRODUCTS_LOG_TEMPLATE

logger: Any = init_logger("vllm.pipeline")
_logged: set[str] = set()


def _log_once(line: str) -> None:
    if line not in _logged:
        _logged.add(line)
        logger.info(line)


def emulated(what: str) -> None:
    """Log that `what` is emulated in this process, the first time only."""
    _log_once(EMULATION_LOG_TEMPLATE % what)


def float32_products(dtype: str) -> None:
    """Log that products of `dtype` values are taken in float32, the first time only."""
    _log_once(PRODUCTS_LOG_TEMPLATE % dtype)


def not_patched(what: str, why: str) -> None:
    """Warn that this vLLM differs from the known ones, so `what` is not changed."""
    line = f"pipeline: {what} is left as it is: {why}"
    if line not in _logged:
        _logged.add(line)
        logger.warning(line)
