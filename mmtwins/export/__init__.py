"""Files for other runtimes: ONNX, OpenVINO, TorchScript and torch.export, each compared with the model in PyTorch."""

from .exportable import AreaPool, ExportableFeatures, ExportableSegmentor, build_exportable, describe
from .runtimes import FORMATS, export_onnx
from .verifying import TOLERANCE, verify, verify_onnx

__all__ = [
    'FORMATS',
    'TOLERANCE',
    'AreaPool',
    'ExportableFeatures',
    'ExportableSegmentor',
    'build_exportable',
    'describe',
    'export_onnx',
    'verify',
    'verify_onnx',
]
