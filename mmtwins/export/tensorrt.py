"""A script that builds a TensorRT engine of an ONNX file. It runs where TensorRT is; here it is only written."""

from collections.abc import Sequence
from pathlib import Path

SMALLEST = 64  # side of the smallest image of an engine for any size, in pixels
LARGEST_BATCH = 4
GROWTH = 2  # sides of the largest image, as a multiple of those of the usual one


def write_tensorrt_script(
    path: str | Path, onnx_file: str | Path, height: int, width: int, channels: int = 3, dynamic: bool = True
) -> None:
    """Write a Python script that builds an engine with TensorRT 10 or newer.

    The script needs nothing but TensorRT. Its head has the same as a command of trtexec. It has not been run by us.

    Args:
        path: Script to write.
        onnx_file: The ONNX file, which the script looks for beside itself.
        height: Of the usual image, in pixels.
        width: Of the usual image, in pixels.
        channels: Of the images.
        dynamic: Whether the ONNX file takes any batch, height and width; the profile then goes from one small image to several
            large ones.
    """
    usual = (1, channels, height, width)
    smallest = (1, channels, min(height, SMALLEST), min(width, SMALLEST)) if dynamic else usual
    largest = (LARGEST_BATCH, channels, height * GROWTH, width * GROWTH) if dynamic else usual
    name = Path(onnx_file).name
    shapes = dict(zip(('min', 'opt', 'max'), (smallest, usual, largest), strict=True))
    flags = [f'--{key}Shapes=images:{_dashed(shape)}' for key, shape in shapes.items()] if dynamic else []
    text = TEMPLATE
    for key, value in {
        'NAME': name,
        'ENGINE': f'{Path(name).stem}.engine',
        'COMMAND': ' '.join(['trtexec', f'--onnx={name}', f'--saveEngine={Path(name).stem}.engine', *flags]),
        'MIN': str(smallest),
        'OPT': str(usual),
        'MAX': str(largest),
    }.items():
        text = text.replace(f'@{key}@', value)
    Path(path).write_text(text, encoding='utf-8')


def _dashed(shape: Sequence[int]) -> str:
    return 'x'.join(map(str, shape))


TEMPLATE = '''"""Build a TensorRT engine of @NAME@, which lies beside this file. Needs TensorRT 10 or newer, and its GPU.

Written by `mmtwins export --tensorrt`, which checks its syntax. It was NOT RUN where it was written: there is no TensorRT.
Compare the engine's results with those of the ONNX file before you use it. The same with trtexec:

    @COMMAND@
"""

import argparse
from pathlib import Path

import tensorrt

HERE = Path(__file__).resolve().parent
# Shapes of `images`: the smallest, the usual, which it is tuned for, and the largest.
SMALLEST, USUAL, LARGEST = @MIN@, @OPT@, @MAX@


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--onnx', type=Path, default=HERE / '@NAME@', help='ONNX file (default: %(default)s)')
    parser.add_argument('--out', type=Path, default=HERE / '@ENGINE@', help='engine to write (default: %(default)s)')
    parser.add_argument('--fp16', action='store_true', help='allow float16, up to TensorRT 10')
    parser.add_argument('--workspace', type=float, default=4, help='memory to build with, in GiB (default: %(default)s)')
    args = parser.parse_args()

    logger = tensorrt.Logger(tensorrt.Logger.WARNING)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(0)
    onnx_parser = tensorrt.OnnxParser(network, logger)
    if not onnx_parser.parse_from_file(str(args.onnx)):  # from the file, because its weights may lie beside it
        raise SystemExit('\\n'.join(str(onnx_parser.get_error(i)) for i in range(onnx_parser.num_errors)))

    config = builder.create_builder_config()
    config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, int(args.workspace * 2**30))
    if args.fp16:
        if not hasattr(tensorrt.BuilderFlag, 'FP16'):
            raise SystemExit('this TensorRT takes the types from the ONNX file: leave --fp16 out')
        config.set_flag(tensorrt.BuilderFlag.FP16)
    if -1 in tuple(network.get_input(0).shape):
        profile = builder.create_optimization_profile()
        profile.set_shape(network.get_input(0).name, SMALLEST, USUAL, LARGEST)
        config.add_optimization_profile(profile)

    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise SystemExit('TensorRT built no engine: its messages above say why')
    args.out.write_bytes(engine)
    print(f'written to {args.out}')


if __name__ == '__main__':
    main()
'''
