"""How much of its memory a process uses."""

import ctypes


def used_heap() -> float:
    """Megabytes that are allocated; NaN without glibc 2.33."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, 'mallinfo2'):
        return float('nan')
    fields = ['arena', 'ordblks', 'smblks', 'hblks', 'hblkhd', 'usmblks', 'fsmblks', 'uordblks', 'fordblks', 'keepcost']
    kind = type('MallInfo', (ctypes.Structure,), {'_fields_': [(name, ctypes.c_size_t) for name in fields]})
    libc.mallinfo2.restype = kind
    info = libc.mallinfo2()
    return (info.uordblks + info.hblkhd) / 2**20
