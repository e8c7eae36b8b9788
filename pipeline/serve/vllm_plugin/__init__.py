"""vLLM plugin that lets a CPU serve, exactly and fast enough, formats for which it has no kernel.

vLLM loads the entry point `vllm.general_plugins: pipeline = pipeline.serve.vllm_plugin:register` in
each of its processes. On any platform but the CPU it does nothing. There it adds what is missing:
FP8 W8A8 (static and dynamic) linear layers, integer weight-only layers on processors without
AVX-512, INT8 W8A8 layers where the processor's own integer products saturate, an FP8 KV cache where
the attention kernel has none, GGUF layers, and fast BF16 products where the processor has none. And
it removes kernels that a killed server left half compiled. The results are those of the formats,
but the speed is not, so each emulation is announced once per process by a line in the server's log:

    pipeline: emulated fp8_w8a8_static on cpu (no speed claim)

`log_lines` defines the lines. Neither module imports torch or vLLM, so a log reader can import them
cheaply.

Environment variables, all optional:
    PIPELINE_EMULATE_KV_CACHE: `auto` (default: where the processor has no FP8 KV cache), `always`
        or `never`.
    PIPELINE_FLOAT32_PRODUCTS: `auto` (default: where the processor has no BF16 product) or `never`.
"""

# Part of the keys of served results: raise it when a computation here changes.
REVISION = 3


def register() -> None:
    """Install the emulations in this vLLM process; called by vLLM, any number of times."""
    from pipeline.serve.vllm_plugin.install import install

    install()
