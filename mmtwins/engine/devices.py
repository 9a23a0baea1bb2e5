"""Choose the device of a training or an evaluation: MMEngine takes a GPU wherever there is one."""

import os

KINDS = ('cpu', 'cuda', 'mps', 'npu', 'mlu', 'musa')  # that MMEngine knows


def hide_gpus(device: str | None) -> None:
    """Hide all GPUs from this process and its children if the device is the CPU; call it before torch is imported.

    MMEngine asks in many places whether there is a GPU: how processes are connected, in which precision a model trains,
    what memory is logged.

    Args:
        device: Value of ``--device``.
    """
    if device and device.partition(':')[0] == 'cpu':
        os.environ['CUDA_VISIBLE_DEVICES'] = ''


def use_device(device: str | None, launcher: str = 'none') -> str:
    """Make MMEngine's Runners of this process work on a device.

    Args:
        device: Such as ``'cpu'`` or ``'cuda:0'``; None leaves the choice to MMEngine, which takes a GPU if there is one.
        launcher: Value of ``--launcher``. A launcher gives each process its GPU.

    Returns:
        The device.

    Raises:
        ValueError: The device cannot be used here, or is a single GPU for several processes.
    """
    import torch
    from mmengine.device import get_device, utils

    from .checks import check_device

    if device is None:
        return get_device()
    kind, _, index = device.partition(':')
    if kind not in KINDS:
        raise ValueError(f'--device {device}: MMEngine knows no such device, but {", ".join(KINDS)}')
    if index and launcher != 'none':
        raise ValueError(
            f'--device {device}: --launcher {launcher} gives each process its own GPU: write --device {kind}'
        )
    check_device(device)
    if kind == 'cuda' and index:
        torch.cuda.set_device(int(index))
    utils.DEVICE = kind
    return device
