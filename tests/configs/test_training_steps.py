"""One training step of a recipe of each kind has the losses, gradients and updates of the public code.

The files in ``tests/data/recipes/`` were measured with the public code on the libraries that it was written for (mmcv 1.2.5 with
MMSegmentation 0.12 or MMDetection 2.8): float32, two images, without drop path and dropout.
"""

import numpy as np
import pytest
import torch
from golden import SAMPLER_SEED, golden_images, golden_labels, golden_objects, golden_step_tensor, load_golden
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.structures import InstanceData, PixelData

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

from recipes import CONFIGS

from mmtwins.engine.config import load_config
from mmtwins.engine.model import build_model

STEPS = {path.stem: load_golden(f'recipes/{path.stem}') for path in (CONFIGS.parent / 'tests/data/recipes').iterdir()}
# Names of losses in the public code that changed since.
RENAMED = {'decode.loss_seg': 'decode.loss_ce', 'aux.loss_seg': 'aux.loss_ce'}


def deterministic_config(golden: dict) -> Config:
    """The recipe without dropouts, drop path and mixed precision."""
    cfg = load_config(str(CONFIGS / golden['config']))
    cfg.model.backbone.drop_path_rate = 0.0
    for head in ('decode_head', 'auxiliary_head'):
        if head in cfg.model:
            cfg.model[head].dropout_ratio = 0.0
    cfg.optim_wrapper.type = 'OptimWrapper'
    cfg.optim_wrapper.pop('loss_scale', None)
    return cfg


def annotated_samples(height: int, width: int, is_segmentation: bool) -> list:
    """The annotations of the two images."""
    if is_segmentation:
        from mmseg.structures import SegDataSample

        maps = torch.from_numpy(golden_labels(height, width))
        return [SegDataSample(gt_sem_seg=PixelData(data=one), metainfo=dict(img_shape=(height, width))) for one in maps]
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    shapes = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), (height, width))
    samples = []
    for boxes, labels, masks in golden_objects(height, width):
        instances = InstanceData(
            bboxes=torch.from_numpy(boxes), labels=torch.from_numpy(labels), masks=BitmapMasks(masks, height, width)
        )
        samples.append(DetDataSample(gt_instances=instances, metainfo=dict(shapes, scale_factor=(1.0, 1.0))))
    return samples


def norms(tensors: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: tensor.double().norm().item() for name, tensor in tensors.items()}


# The 1x schedule trains the same detector on smaller images.
SLOW = ('mask-rcnn_pcpvt-s_3x', 'retinanet_svt-s_1x')


@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in STEPS]
)
def test_a_training_step_is_that_of_the_public_code(name: str) -> None:
    golden = STEPS[name]
    height, width = golden['height'], golden['width']
    cfg = deterministic_config(golden)
    model = revert_sync_batchnorm(build_model(cfg)).train()
    parameters = dict(model.named_parameters())
    assert sorted(parameters) == sorted(golden['gradient_norms']) == sorted(golden['update_norms'])
    with torch.no_grad():
        for key, parameter in parameters.items():
            parameter.copy_(torch.from_numpy(golden_step_tensor(key, tuple(parameter.shape))))
    before = {key: parameter.detach().clone() for key, parameter in parameters.items()}
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)

    samples = annotated_samples(height, width, cfg.default_scope == 'mmseg')
    torch.manual_seed(SAMPLER_SEED)
    np.random.seed(SAMPLER_SEED)
    total, losses = model.parse_losses(model.loss(torch.from_numpy(golden_images(height, width)), samples))
    optim_wrapper.backward(total)
    gradients = norms({key: parameter.grad for key, parameter in parameters.items()})
    optim_wrapper.step()
    updates = norms({key: parameter.detach() - before[key] for key, parameter in parameters.items()})

    # MMSegmentation 0.12 counts pixels without a label as wrong, 1.2 leaves them out.
    labelled = (golden_labels(height, width) != 255).mean()
    expected = {
        RENAMED.get(key, key): value / labelled if key.endswith('acc_seg') else value
        for key, value in golden['losses'].items()
    }
    assert {key: value.item() for key, value in losses.items()} == pytest.approx(expected, rel=1e-5)
    # Where gradients cancel out, as behind the pooled maps of UPerNet that are normalised over two values, rounding is left.
    smallest = 1e-4 * max(golden['gradient_norms'].values())
    for key, norm in golden['gradient_norms'].items():
        assert gradients[key] == pytest.approx(norm, abs=5e-3 * max(norm, smallest)), key
    assert updates == pytest.approx(golden['update_norms'], rel=2e-2)
