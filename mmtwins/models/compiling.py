"""Whether torch.compile or torch.export reads the code, for every torch that is supported."""

try:
    from torch.compiler import is_compiling
except ImportError:  # torch 2.1 and 2.2
    from torch._utils import is_compiling

__all__ = ['is_compiling']
