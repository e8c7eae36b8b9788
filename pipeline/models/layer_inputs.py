"""The inputs of Linears at chosen tokens, while sequences pass the BF16 model.

An expert's Linears see those of the chosen tokens that the router sends to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch

from pipeline.models.forward import decoder
from pipeline.models.loading import stored_modules, watch_routing

if TYPE_CHECKING:
    from pipeline.hardware.probe import Hardware
    from pipeline.models.source import ModelSource


def inputs_at(
    chosen: Sequence[torch.Tensor],
    sequences: Sequence[list[int]],
    modules: set[str],
    source: ModelSource,
    hardware: Hardware,
    layerwise: Literal["auto", "always", "never"],
    detail: Callable[[str], None],
) -> dict[str, list[torch.Tensor]]:
    """Return each module's inputs in parts, float32, (tokens, in); modules with the same input share memory.

    Args:
        chosen: of each sequence, the places of the tokens.
        sequences: token ids.
        modules: names of Linears.
        source: the BF16 model.
        hardware: where it is computed.
        layerwise: as `calibration.layerwise`.
        detail: called with the progress.
    """
    decoding = decoder(source, hardware, layerwise, detail)
    notes = _Notes(decoding.model, modules, chosen)
    decoding.run(sequences, None, detail)
    notes.close()
    return notes.rows


class _Notes:
    """Inputs of each Linear at the chosen tokens; Linears that share an input share one entry."""

    def __init__(self, model: torch.nn.Module, modules: set[str], chosen: Sequence[torch.Tensor]) -> None:
        self.rows: dict[str, list[torch.Tensor]] = {}
        self._chosen, self._count = chosen, dict.fromkeys(modules, 0)
        self._last: tuple[torch.Tensor, str, torch.Tensor] | None = None
        # The experts of each token of the current sequence, by the name that their Linears' begin with.
        self._routes: dict[str, torch.Tensor] = {}
        self._handles = watch_routing(model, self._routes.__setitem__)
        self._handles += [
            module.register_forward_pre_hook(self._hook(name))
            for name, module in stored_modules(model).items()
            if name in modules and isinstance(module, torch.nn.Linear)
        ]

    def _hook(self, name: str) -> Any:
        router, _, own = name.partition(".experts.")
        expert = own.partition(".")[0]

        def note(_: Any, arguments: tuple[torch.Tensor, ...]) -> None:
            (entering,) = arguments
            if self._last is None or self._last[0] is not entering or self._last[1] != expert:
                places = self._chosen[self._count[name]].long().to(entering.device)
                if (routes := self._routes.get(f"{router}.experts")) is not None and expert:
                    places = places[(routes[places] == int(expert)).any(1)]
                rows = entering.reshape(-1, entering.shape[-1])[places].to("cpu", torch.float32)
                self._last = (entering, expert, rows)
            # Every sequence passes each layer once, in order, whole or layer by layer.
            self._count[name] += 1
            self.rows.setdefault(name, []).append(self._last[2])

        return note

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()
