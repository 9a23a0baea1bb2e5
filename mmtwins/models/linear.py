"""Linear layers on tokens, by the faster of the two libraries that PyTorch has for matrix products on CPUs."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.grad import conv2d_weight


class TokenLinear(nn.Linear):
    """``nn.Linear`` on (..., C) tokens, computed on CPUs in float32 as a 1 x 1 convolution.

    A matrix product and a 1 x 1 convolution are the same sum, but PyTorch hands the first to its BLAS (MKL in the
    published wheels, which has only a general code path for AMD processors) and the second to oneDNN, which has AVX-512
    kernels for every vendor.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return token_linear(x, self.weight, self.bias)

    def after_gelu(self, x: Tensor) -> Tensor:
        """Of GELU(x), which is computed again for the gradient instead of kept; without a gradient x is overwritten."""
        if torch.compiler.is_compiling():
            return self(F.gelu(x))
        if torch.is_grad_enabled():
            return _GeluLinear.apply(x, self.weight, self.bias)
        return self(torch.ops.aten.gelu_(x))


def token_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear`` as :class:`TokenLinear` computes it."""
    if not runs_on_onednn(x, weight):
        return F.linear(x, weight, bias)
    out = F.conv2d(_as_map(x), weight[:, :, None, None], bias)
    return out.permute(0, 2, 3, 1).view(*x.shape[:-1], len(weight))


def runs_on_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether a product of tokens with a weight is to be a convolution."""
    return (
        x.device.type == 'cpu'
        and x.dtype == weight.dtype == torch.float32
        and not torch.compiler.is_compiling()
        and torch.backends.mkldnn.is_available()
        and x.numel() > 20480  # PyTorch sends smaller 1 x 1 convolutions, and all on a single thread, elsewhere
        and torch.get_num_threads() > 1
    )


def _as_map(x: Tensor) -> Tensor:
    """Tokens (..., C) as a channels-last map (1, C, 1, N), without a copy where they are contiguous."""
    return x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)


class _GeluLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return token_linear(F.gelu(x), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            gelu = F.gelu(x)
        activation = gelu.detach()
        if runs_on_onednn(x, weight):
            grad_weight = conv2d_weight(_as_map(activation), (*weight.shape, 1, 1), _as_map(grad)).view(weight.shape)
        else:
            grad_weight = (grad.flatten(0, -2).T @ activation.flatten(0, -2)).to(weight.dtype)
        (grad_x,) = torch.autograd.grad(gelu, x, token_linear(grad, weight.T.to(grad.dtype)))
        return grad_x, grad_weight, grad.flatten(0, -2).sum(0).to(weight.dtype)
