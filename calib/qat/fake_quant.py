"""Fake quantisation: a PyTorch network that computes in float what its int8 graph will compute.

Values are rounded to the levels that int8 has and stay float. Rounding lets gradients through as if it were not there,
within the range; beyond it they are zero (straight-through estimator; section 3.1 of arXiv:1712.05877).

Where the graph has Q/DQ, there is fake quantisation: on the weights of convolutions, on their inputs, and on the
residual input of an addition: the block's input, or what a convolution in the shortcut makes of it. A `Scheme` says
what else a target has. Weights are rounded as they are, before batch norm is folded into them: with one scale for each
output channel, folding multiplies weight and scale alike, so both orders round to the same levels. Biases stay float;
those of the graph are float too, or int32 with steps far below those of the activations.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from ssd_edge.calib.qat.layers import ResidualBlock, convolutions_of, hardswishes_of, last_convolutions, residual_block
from ssd_edge.calib.qat.schemes import HARDSWISH_END, Scheme
from ssd_edge.errors import SsdEdgeError, UsageError

SMALLEST_SCALE = 1e-12  # of a channel whose weights are all zero
OUTPUT = ":output"  # behind a convolution's name: what it gives, batch norm included
SUM = ":sum"  # behind the name of the convolution that ends a branch: the addition of the residual block
_QUANTISERS = "fake_quantisers"  # the model's child that moves them to its device

_Names = Mapping[nn.Module, str]  # each module of a model -> its name there


class WeightFakeQuant(nn.Module):
    """Rounds a convolution's weight, [channels out, …] -> the same, with one scale for each output channel.

    A parametrisation of `torch.nn.utils.parametrize`. The scale follows the weight, whose largest magnitude is always
    a level.

    Attributes:
        enabled: False lets the weight through.
    """

    def __init__(self, scheme: Scheme) -> None:
        super().__init__()
        self.limit = scheme.weight_limit
        self.enabled = True

    def forward(self, weight: Tensor) -> Tensor:
        if not self.enabled:
            return weight
        magnitude = weight.detach().abs().flatten(1).amax(1)  # [channels out]
        scale = (magnitude / self.limit).clamp(min=SMALLEST_SCALE)
        zero = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -self.limit, self.limit)


class ActivationFakeQuant(nn.Module):
    """Rounds a whole tensor with one scale; before that it can watch which range the tensor takes.

    Args:
        scheme: to which numbers.
        hardswish: a hardswish follows, on the CPU: levels begin at -3 exactly, as `calib.placement.cpu` stores it.

    Attributes:
        enabled: False lets the tensor through, and watches it unless `set_range` has said the range.
        range: the one that was set, or else the mean over the batches watched of their least and of their greatest
            value; None before the first.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, scheme: Scheme, *, hardswish: bool = False) -> None:
        super().__init__()
        self.scheme, self.hardswish = scheme, hardswish
        self.enabled = True
        self.range: tuple[float, float] | None = None
        self._is_set = False
        self._batches = 0
        self.register_buffer("scale", torch.ones(1), persistent=False)
        self.register_buffer("zero_point", torch.zeros(1, dtype=torch.int32), persistent=False)

    def set_range(self, low: float, high: float) -> None:
        """Round within this range from now on; values beyond it become its ends."""
        self.range, self._is_set = (low, high), True
        scale, zero_point = self.scheme.scale_and_zero_point(low, high)
        if self.hardswish:
            levels_below = int(HARDSWISH_END * self.scheme.activations[1] / (max(high, 0.0) + HARDSWISH_END))
            if levels_below > 0:  # none in a range of hundreds
                scale, zero_point = HARDSWISH_END / levels_below, levels_below
        self.scale.fill_(scale)
        self.zero_point.fill_(zero_point)

    def forward(self, x: Tensor) -> Tensor:
        if not self.enabled:
            if not self._is_set:
                self._observe(x)
            return x
        lowest, highest = self.scheme.activations
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, lowest, highest)

    def _observe(self, x: Tensor) -> None:
        low, high = torch.stack(torch.aminmax(x.detach())).tolist()
        self._batches += 1
        before, share = self.range or (low, high), 1 / self._batches
        self.range = (before[0] + (low - before[0]) * share, before[1] + (high - before[1]) * share)


class FakeQuantization:
    """Fake quantisation in a model, from making this to `remove`. It needs ranges before the model can run with it.

    Args:
        model: its convolutions are rounded.
        scheme: to which numbers.
        float_layers: names of convolutions that stay float, with what goes into them and comes out of them; and with
            `SUM` behind the name, of those that end a branch whose addition stays float.

    Raises:
        UsageError: a name in `float_layers` that is none of the model's convolutions.

    The model's own parameters are those that are trained; `parametrize` has them under other names meanwhile.

    Residual additions are known in the blocks of torchvision's ResNet and MobileNetV3. In a block of another kind the
    convolutions are quantised, the residual input of its addition is not.

    Attributes:
        quantisers: of activations, by the name of the convolution whose input it is (`backbone.features.0.0.0`), or of
            the one whose output it is (`backbone.features.0.0.0:output`).
    """

    def __init__(self, model: nn.Module, scheme: Scheme, *, float_layers: Collection[str] = ()) -> None:
        self._model = model
        self.quantisers: dict[str, ActivationFakeQuant] = {}
        self._handles: list[RemovableHandle] = []
        names = {module: name for name, module in model.named_modules()}
        self._check_names(name.removesuffix(SUM) for name in float_layers)
        self._rounded = [conv for conv in convolutions_of(model) if names[conv] not in float_layers]
        blocks = [block for block in map(residual_block, names) if block is not None]
        fused = {
            block.branch.conv
            for block in blocks
            if block.branch.conv in self._rounded and names[block.branch.conv] + SUM not in float_layers
        }
        self._round_inputs(scheme, names, blocks, fused)
        self._round_residuals(scheme, names, blocks, fused)
        if scheme.outputs:
            self._round_outputs(scheme, names, blocks)
        for conv in self._rounded:
            parametrize.register_parametrization(conv, "weight", WeightFakeQuant(scheme))
        quantisers = nn.ModuleList(self.quantisers.values())
        model.add_module(_QUANTISERS, quantisers.to(next(model.parameters()).device))

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """The range of each quantiser that has one."""
        return {name: q.range for name, q in self.quantisers.items() if q.range is not None}

    def set_ranges(self, ranges: Mapping[str, tuple[float, float]]) -> None:
        """Take these ranges, by the names of `quantisers`; of what is not rounded they are passed over.

        Raises:
            UsageError: a layer that is not there, or a range that is none.
        """
        self._check_names(name.removesuffix(OUTPUT) for name in ranges)
        for name, (low, high) in ranges.items():
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise UsageError(f"the range of {name} is {low} to {high}; expected two finite numbers in order")
            if name in self.quantisers:
                self.quantisers[name].set_range(low, high)

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Tensor]) -> None:
        """Find the ranges that are not set yet: those of the float model on these batches.

        Args:
            batches: what the model takes; at least one.

        Raises:
            SsdEdgeError: an activation is not finite, or a layer never ran; the message names it.
        """
        unset = {name: quantiser for name, quantiser in self.quantisers.items() if quantiser.range is None}
        if not unset:
            return
        training = self._model.training
        self._model.eval()
        self._enable(False)
        try:
            for batch in batches:
                self._model(batch)
                _check_ranges(unset)
        finally:
            self._enable(True)
            self._model.train(training)
        for name, quantiser in unset.items():
            if quantiser.range is None:
                raise SsdEdgeError(f"{name} saw no image while calibrating; give at least one that the network runs on")
            quantiser.set_range(*quantiser.range)

    def remove(self) -> None:
        """Leave the model as it was, with the weights that it has now, unrounded."""
        for handle in self._handles:
            handle.remove()
        for conv in self._rounded:
            parametrize.remove_parametrizations(conv, "weight", leave_parametrized=False)
        delattr(self._model, _QUANTISERS)

    def _enable(self, on: bool) -> None:
        for module in self._model.modules():
            if isinstance(module, (ActivationFakeQuant, WeightFakeQuant)):
                module.enabled = on

    def _check_names(self, names: Iterable[str]) -> None:
        layers = {name for name, module in self._model.named_modules() if isinstance(module, nn.Conv2d)}
        if unknown := sorted(set(names) - layers):
            raise UsageError(
                f"the model has no convolution {', '.join(unknown[:3])}; it has {', '.join(sorted(layers)[:3])} and so "
                "on: calib.qat.module_ranges finds them for an ONNX file"
            )

    def _round_inputs(
        self, scheme: Scheme, names: _Names, blocks: Sequence[ResidualBlock], fused: Collection[nn.Module]
    ) -> None:
        """What the rounded convolutions read, and what blocks without a convolution in the shortcut add."""
        blocks_entered: dict[nn.Module, ResidualBlock] = {b.first: b for b in blocks if b.shortcut is None}
        for conv in names:
            block, is_rounded = blocks_entered.get(conv), conv in self._rounded
            if block is not None and (is_rounded if scheme.outputs else block.branch.conv in fused):
                self._quantise_input(block.module, names[conv], ActivationFakeQuant(scheme))
                if not is_rounded:
                    self._give_unrounded(block.module, block.first)
            elif is_rounded:
                self._quantise_input(conv, names[conv], ActivationFakeQuant(scheme))

    def _round_residuals(
        self, scheme: Scheme, names: _Names, blocks: Sequence[ResidualBlock], fused: Collection[nn.Module]
    ) -> None:
        """What the shortcuts' convolutions add."""
        for block in blocks:
            end = block.shortcut
            if end is not None and (end.conv in self._rounded if scheme.outputs else block.branch.conv in fused):
                self._quantise_output(end.end, names[end.conv] + OUTPUT, ActivationFakeQuant(scheme))

    def _round_outputs(self, scheme: Scheme, names: _Names, blocks: Sequence[ResidualBlock]) -> None:
        """What rounded convolutions give where no convolution reads it as it is."""
        ends: dict[nn.Module, nn.Module] = {block.branch.conv: block.branch.end for block in blocks}
        ends |= {conv: conv for conv in last_convolutions(names)}
        hardswishes = hardswishes_of(names)
        for conv in self._rounded:
            name = names[conv] + OUTPUT
            if conv in ends:
                self._quantise_output(ends[conv], name, ActivationFakeQuant(scheme))
            if conv in hardswishes:
                self._quantise_input(hardswishes[conv], name, ActivationFakeQuant(scheme, hardswish=True))

    def _quantise_input(self, module: nn.Module, name: str, quantiser: ActivationFakeQuant) -> None:
        self.quantisers[name] = quantiser
        self._handles.append(module.register_forward_pre_hook(lambda _, args: (quantiser(args[0]), *args[1:])))

    def _give_unrounded(self, block: nn.Module, conv: nn.Module) -> None:
        """Let a convolution read what enters a block, whose input is rounded for the addition alone."""
        entering: list[Tensor] = []
        self._handles += [
            block.register_forward_pre_hook(lambda _, args: entering.append(args[0]), prepend=True),
            conv.register_forward_pre_hook(lambda _, args: (entering.pop(), *args[1:])),
        ]

    def _quantise_output(self, module: nn.Module, name: str, quantiser: ActivationFakeQuant) -> None:
        self.quantisers[name] = quantiser
        self._handles.append(module.register_forward_hook(lambda _, args, output: quantiser(output)))


def _check_ranges(quantisers: Mapping[str, ActivationFakeQuant]) -> None:
    for name, quantiser in quantisers.items():
        if quantiser.range is not None and not all(map(math.isfinite, quantiser.range)):
            what = f"the output of {name.removesuffix(OUTPUT)}" if name.endswith(OUTPUT) else f"the input of {name}"
            raise SsdEdgeError(
                f"{what} is not finite, so there is no range to quantise it in; a checkpoint that diverged in training "
                "does this: take an earlier one"
            )
