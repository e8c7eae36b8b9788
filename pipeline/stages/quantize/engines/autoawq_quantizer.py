"""AutoAWQ's quantizer for sequences of any lengths, which leaves modules out by full name; imports torch and awq."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from awq.quantize.quantizer import AwqQuantizer
from torch.nn.utils.rnn import pad_sequence

# Sequences that are forwarded together.
BATCH = 16


def _packed(padded: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """The tokens of a batch (sequences, longest, width), one sequence after another: (1, tokens, width)."""
    return torch.cat([part[:length] for part, length in zip(padded, lengths, strict=True)])[None]


class Quantizer(AwqQuantizer):  # type: ignore[misc]
    """Keeps all sequences in one tensor (1, tokens, width); where tokens see each other, in batches padded behind.

    What is behind a token never reaches it in a causal model, so the padding changes nothing and is cut off again.
    """

    inps: torch.Tensor
    # Full names of the modules that stay in BF16.
    kept: frozenset[str] = frozenset()

    def init_quant(self, **_: Any) -> tuple[Any, dict[str, Any], torch.Tensor]:
        """Catches what reaches the first decoder layer, batch by batch, with each one's arguments (positions)."""
        layers = self.awq_model.get_model_layers(self.model)
        inputs: list[torch.Tensor] = []
        self._arguments: list[dict[str, Any]] = []

        class Caught(Exception):
            pass

        def catch(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            inputs.append(args[0] if args else kwargs.pop("hidden_states"))
            self._arguments.append(kwargs)
            raise Caught

        # Of similar lengths, so that little is padding.
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

    def _compute_best_scale(self, x: Any, w_mean: Any, x_mean: Any, module2inspect: Any, *rest: Any) -> torch.Tensor:
        """Searches on a copy: on a CPU, what AutoAWQ restores after a trial is the weight that the trial scaled."""
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
        return {name: module for name, module in named_linears.items() if f"{prefix}.{name}" not in self.kept}
