"""Checkpoints in AWQ's own format (`quant_method: awq`), made by AutoAWQ, the project that the format is named after.

AutoAWQ cuts its text into blocks of one length. Here each conversation stays a sequence of its own: the search for
scales runs over the same tokens, with the same context, as in every other engine.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from pipeline.artifacts.workspace import Draft
from pipeline.errors import StageError
from pipeline.models import layout
from pipeline.stages.quantize.engines import base

if TYPE_CHECKING:
    from pipeline.job import Job

TITLE = "AutoAWQ"
REQUIRES: tuple[str, ...] = ("autoawq",)
NOTE = "no longer developed"
check = base.accept
# Sequences that are forwarded together.
BATCH = 16


def make(job: Job, draft: Draft) -> None:
    """Write `checkpoint/` with INT4 weights and zero points, in AWQ's interleaved order."""
    with base.captured(job, draft, TITLE):
        _make(job, draft)


def _make(job: Job, draft: Draft) -> None:
    import torch
    from awq.models.auto import AWQ_CAUSAL_LM_MODEL_MAP
    from huggingface_hub import save_torch_state_dict

    quant, kind = job.settings.quant, job.model.config.get("model_type")
    if kind not in AWQ_CAUSAL_LM_MODEL_MAP:
        raise StageError(f"AutoAWQ does not know models of the type {kind}.", "Choose quant.engine=llmcompressor.")
    job.progress.detail("loading the model")
    # AutoAWQ is written for float16, in which most CPUs are many times slower than in their native types.
    model = base.load(job, torch.float16 if job.hardware.device == "cuda" else None)
    model.config.use_cache = False
    kept = layout.ignored(base.linears(model), quant.ignore)
    data = base.sequences(job)
    job.progress.detail(f"awq over {len(data)} conversations")
    base.seed(job.settings.calibration.seed)
    awq = AWQ_CAUSAL_LM_MODEL_MAP[kind](model, kind, False, model.config, None, None)
    awq.quantize(
        quant_config={"zero_point": True, "q_group_size": quant.effective_group_size, "w_bit": 4, "version": "gemm"},
        calib_data=data,
        quantizer_cls=_quantizer(kept),
    )
    job.progress.detail("writing the checkpoint")
    folder = draft.folder / "checkpoint"
    folder.mkdir()
    save_torch_state_dict(model.state_dict(), folder, shared_tensors_to_discard=_tied(model))
    base.settle(job.model.folder, folder, base.configuration(quant, kept))


def _tied(model: Any) -> list[str]:
    return list(model._tied_weights_keys or ()) if model.config.tie_word_embeddings else []


def _quantizer(kept: list[str]) -> type:
    """Return AutoAWQ's quantizer, forwarding sequences of any lengths, and leaving out modules by full name."""
    import torch
    from awq.quantize.quantizer import AwqQuantizer
    from torch.nn.utils.rnn import pad_sequence

    def _packed(padded: torch.Tensor, lengths: list[int]) -> torch.Tensor:
        """Return the tokens of a batch (sequences, longest, width), one sequence after another: (1, tokens, width)."""
        return torch.cat([part[:length] for part, length in zip(padded, lengths, strict=True)])[None]

    class Quantizer(AwqQuantizer):  # type: ignore[misc]
        """Quantizer over all sequences as one tensor (1, tokens, width); for attention, right-padded batches.

        In a causal model a token does not depend on later ones, so the padding changes nothing and is removed again.
        """

        inps: torch.Tensor

        def init_quant(self, **_: Any) -> tuple[Any, dict[str, Any], torch.Tensor]:
            """Capture the inputs of the first decoder layer, batch by batch, with their arguments (positions)."""
            layers = self.awq_model.get_model_layers(self.model)
            inputs: list[torch.Tensor] = []
            self._arguments: list[dict[str, Any]] = []

            class Caught(Exception):
                pass

            def catch(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                inputs.append(args[0] if args else kwargs.pop("hidden_states"))
                self._arguments.append(kwargs)
                raise Caught

            # Batch similar lengths to reduce padding.
            sequences = sorted((sequence[0] for sequence in self.calib_data), key=len)
            batches = [sequences[start : start + BATCH] for start in range(0, len(sequences), BATCH)]
            self._lengths = [[len(sequence) for sequence in batch] for batch in batches]
            hook = layers[0].register_forward_pre_hook(catch, with_kwargs=True)
            for batch in batches:
                with contextlib.suppress(Caught):
                    self.model(pad_sequence(batch, batch_first=True).to(self.model.device), use_cache=False)
            hook.remove()
            packed = [_packed(part, lengths) for part, lengths in zip(inputs, self._lengths, strict=True)]
            return layers, dict(self._arguments[0]), torch.cat(packed, dim=1)

        def _module_forward(self, x: torch.Tensor, module: Any, module_kwargs: dict[str, Any]) -> torch.Tensor:
            if not module_kwargs:  # no attention inside: tokens are independent
                result: torch.Tensor = module(x)
                return result
            parts = []
            batches = torch.split(x, [sum(lengths) for lengths in self._lengths], dim=1)
            for part, lengths, arguments in zip(batches, self._lengths, self._arguments, strict=True):
                self._of_batch = lengths
                padded = pad_sequence(list(torch.split(part[0], lengths)), batch_first=True)
                out = module(padded, **self._sanitize_kwargs(arguments, module))
                parts.append(_packed(out[0] if isinstance(out, tuple) else out, lengths))
            return torch.cat(parts, dim=1)

        def _get_input_feat(self, layer: Any, named_linears: dict[str, Any]) -> dict[str, torch.Tensor]:
            seen: dict[str, list[torch.Tensor]] = {name: [] for name in named_linears}

            def watch(name: str) -> Any:
                return lambda _, inputs, __: seen[name].append(_packed(inputs[0].detach(), self._of_batch).cpu())

            hooks = [module.register_forward_hook(watch(name)) for name, module in named_linears.items()]
            self.inps = self._module_forward(self.inps, layer, self.module_kwargs)
            for hook in hooks:
                hook.remove()
            return {name: torch.cat(parts, dim=1) for name, parts in seen.items()}

        def _compute_best_scale(
            self, x: Any, w_mean: Any, x_mean: Any, module2inspect: Any, *rest: Any
        ) -> torch.Tensor:
            """Search on a copy: on a CPU, AutoAWQ restores after a trial the weight that the trial scaled."""
            state = module2inspect.state_dict
            module2inspect.state_dict = lambda: {name: tensor.clone() for name, tensor in state().items()}
            try:
                best: torch.Tensor = super()._compute_best_scale(x, w_mean, x_mean, module2inspect, *rest)
            finally:
                del module2inspect.state_dict
            return best

        def _search_best_clip(self, layer: Any, named_linears: dict[str, Any], input_feat: Any) -> Any:
            return super()._search_best_clip(layer, self._wanted(layer, named_linears), input_feat)

        def _apply_quant(self, module: Any, named_linears: dict[str, Any]) -> None:
            super()._apply_quant(module, self._wanted(module, named_linears))

        def _wanted(self, layer: Any, named_linears: dict[str, Any]) -> dict[str, Any]:
            prefix = next(name for name, module in self.model.named_modules() if module is layer)
            return {name: module for name, module in named_linears.items() if f"{prefix}.{name}" not in kept}

    return Quantizer
