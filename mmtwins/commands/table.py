"""The commands: their modules, and a line that says what each does."""

from typing import NamedTuple


class Command(NamedTuple):
    """A command.

    Attributes:
        module: Name of its module in this package.
        summary: What it does, in one line.
        tool: File of tools/ that runs the same command; empty if there is none.
    """

    module: str
    summary: str
    tool: str = ''


COMMANDS = {
    'list': Command('recipes', 'show the recipes: published metric, parameters, MACs, starting weights'),
    'train': Command('train', 'train a segmentor or a detector', 'train.py'),
    'test': Command('test', "evaluate a checkpoint with the config's metrics", 'test.py'),
    'predict': Command('predict', 'predict on images and videos', 'infer.py'),
    'convert': Command(
        'convert', 'convert checkpoints between the parameter names of libraries', 'convert_checkpoint.py'
    ),
    'export': Command('export', 'export a model to ONNX, OpenVINO, TorchScript or torch.export', 'export_onnx.py'),
    'attention': Command('attention', 'draw what points of an image attend to', 'visualize_attention.py'),
    'cost': Command(
        'cost', 'count parameters and MACs of a model, or the cost of attention by window side', 'get_complexity.py'
    ),
    'benchmark': Command('benchmark', 'compare time and memory with other implementations', 'benchmark.py'),
    'app': Command('app', 'serve a local page for a trained model', 'app.py'),
    'swap': Command('swap', 'put a Twins backbone into a config of MMSegmentation or MMDetection', 'swap_backbone.py'),
    'check-data': Command('check_data', 'check the data of a config before training', 'check_data.py'),
    'check-run': Command('check_run', 'compare the log of a training with the published one', 'check_run.py'),
    'demo': Command('demo', 'train on generated scenes and show the results', 'demo.py'),
    'doctor': Command('doctor', 'say what works on this machine, and how to get what is missing'),
}
