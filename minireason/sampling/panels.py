"""How native.cpp reads a model's weights: panels of columns, in bfloat16 pairs of lines."""

import torch
import torch.nn.functional as F
from torch import Tensor

from minireason.core.errors import UserError


def of_shape(weights: Tensor, *shape: int) -> Tensor:
    """The weights, contiguous; UserError if native.cpp would find others where it reads them."""
    if weights.shape != shape or weights.dtype != torch.float32:
        raise UserError(f"the sampler was given a model with weights of shape {(*weights.shape,)}, "
                        f"{weights.dtype}, where its config says {shape}, torch.float32")
    return weights.contiguous()


def panels(matrix: Tensor, width: int) -> Tensor:
    """(out, in) -> (out / width, in, width), filled up with zeros: how native.cpp reads it."""
    padded = F.pad(matrix, (0, 0, 0, -len(matrix) % width))
    return padded.unflatten(0, (-1, width)).transpose(1, 2).contiguous()


def paired(lines: Tensor) -> Tensor:
    """(out / width, in, width) -> (out / width, in / 2, width) of pairs of lines in bfloat16."""
    halves = F.pad(lines, (0, 0, 0, lines.shape[1] % 2)).to(torch.bfloat16)
    return halves.unflatten(1, (-1, 2)).transpose(2, 3).contiguous().view(torch.int32)[..., 0]
