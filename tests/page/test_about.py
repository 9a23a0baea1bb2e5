"""The head of the page: what the model is, without paths, and with every name escaped."""

from copy import copy
from types import SimpleNamespace

import pytest
from toys import CONFIGS

from mmtwins.engine.config import load_config
from mmtwins.page.about import About, as_html, describe


def test_a_model_is_named_with_its_classes_source_and_noted_metric(segmentor, detector):
    about = describe(segmentor)
    assert about.title == 'Semantic segmentation: UPerNet with Twins-SVT (own architecture)'
    facts = dict(about.facts)
    assert facts['Source'] == 'seg.pth, with the config upernet_twins-svt-toy_1xb8-1600iters_toy-ade-128x128.py'
    assert facts['Metric'].startswith('mIoU 34.6 at the last validation')
    assert facts['Size'] == f'{sum(p.numel() for p in segmentor.inferencer.model.parameters()) / 1e6:.1f} M parameters'
    assert about.classes == segmentor.info.classes
    about = describe(detector)
    assert about.title.startswith('Instance segmentation: Mask R-CNN with Twins-SVT')
    assert dict(about.facts)['Metric'].startswith('not known')


def test_metrics_of_detectors_are_in_percent(detector):
    measured = copy(detector)
    measured.validations = {'coco/bbox_mAP': 0.301, 'coco/segm_mAP': 0.249}
    assert dict(describe(measured).facts)['Metric'].startswith('mask AP 24.9 ')


@pytest.mark.parametrize(
    ('name', 'title', 'metric'),
    [
        (
            'ade20k/upernet_twins-svt-s_8xb2-160k_ade20k-512x512.py',
            'Semantic segmentation: UPerNet with Twins-SVT-S',
            'mIoU 46.2, mIoU(ms+flip) 47.1, published',
        ),
        (
            'coco/retinanet_twins-pcpvt-b_fpn_8xb2-1x_coco.py',
            'Object detection: RetinaNet with Twins-PCPVT-B',
            'box AP 44.3, published',
        ),
    ],
)
def test_a_published_recipe_has_the_published_metric_and_says_so(segmentor, name, title, metric):
    recipe = copy(segmentor)
    recipe.validations, recipe.is_detector = {}, 'coco' in name
    cfg = load_config(str(CONFIGS / name))
    recipe.inferencer = SimpleNamespace(cfg=cfg, model=SimpleNamespace(parameters=list))
    recipe.checkpoint = 'https://user:secret@example.org/files/weights.pth?token=1'
    about = describe(recipe)
    assert about.title == title
    facts = dict(about.facts)
    assert facts['Metric'].startswith(metric) and 'not measured on this checkpoint' in facts['Metric']
    assert facts['Source'].startswith('weights.pth, ') and 'secret' not in str(about) and 'token' not in str(about)


def test_html_of_names_is_not_run():
    about = About('Task', '<b>model</b>', ('<script>', 'a & b'), (('Source', '"x"<img>'),))
    html = as_html(about)
    assert '<script>' not in html and '<img>' not in html and '<b>' not in html
    assert '2 classes: &lt;script&gt;, a &amp; b' in html


def test_many_classes_are_behind_a_summary():
    html = as_html(About('Task', 'model', tuple(f'class {i}' for i in range(150)), ()))
    assert (
        '<summary>150 classes: class 0, ' in html and 'and 138 more</summary>' in html and 'class 149</details>' in html
    )
