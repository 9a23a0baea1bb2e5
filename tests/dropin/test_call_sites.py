"""Programs that call Twins through timm or a copy of gvt.py: how they build, cut and loop over the model, in our words.

Each takes the function that builds the model, so that the same lines run with ours and, where it is installed, with timm.
What they need to change is in docs/migration.md.
"""

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from plain_twins import nest, twins
from small import HEADS, SVT, draw, images
from torch import Tensor, nn
from torch.testing import assert_close

import mmtwins
from mmtwins.dropin import segmentation_gvt

LARGE_HEADS = (4, 8, 16, 32)


class FlowEncoder(nn.Module):
    """FlowFormer's encoder of images, which VideoFlow and MemFlow have too: two stages of the large model, cut in place."""

    def __init__(
        self, create_model: Callable[..., Any], name: str = 'twins_svt_large', cuts: bool = True, **more: Any
    ) -> None:
        super().__init__()
        self.svt = create_model(name, pretrained=False, **more)
        if cuts:
            del self.svt.head
            for parts in (self.svt.patch_embeds, self.svt.blocks, self.svt.pos_block):
                del parts[2]
                del parts[2]

    def stages(self) -> enumerate:
        svt = self.svt
        return enumerate(zip(svt.patch_embeds, svt.pos_drops, svt.blocks, svt.pos_block))

    def forward(self, x: Tensor, data: Any = None, layer: int = 2) -> Tensor:
        batch = x.shape[0]
        for i, (embed, drop, blocks, position) in self.stages():
            x, size = embed(x)
            x = drop(x)
            for j, block in enumerate(blocks):
                x = block(x, size)
                if j == 0:
                    x = position(x, size)
            if i < len(self.svt.depths) - 1:
                x = x.reshape(batch, *size, -1).permute(0, 3, 1, 2).contiguous()
            if i == layer - 1:
                break
        return x

    def extract_ml_features(self, x: Tensor, layer: int = 2) -> tuple[Tensor, Tensor]:
        """VideoFlow and MemFlow: the second stage before its blocks, and after them."""
        batch = x.shape[0]
        for i, (embed, drop, blocks, position) in self.stages():
            x, size = embed(x)
            if i == layer - 1:
                before = x.reshape(batch, *size, -1).permute(0, 3, 1, 2).contiguous()
            x = drop(x)
            for j, block in enumerate(blocks):
                x = block(x, size)
                if j == 0:
                    x = position(x, size)
            if i < len(self.svt.depths) - 1:
                x = x.reshape(batch, *size, -1).permute(0, 3, 1, 2).contiguous()
            if i == layer - 1:
                break
        return before, x

    def compute_params(self) -> int:
        return sum(
            parameter.numel()
            for i, parts in self.stages()
            if i < 2
            for part in parts
            for parameter in part.parameters()
        )


class FlowDiffuserEncoder(FlowEncoder):
    """FlowDiffuser runs the second stage with stride 1 as well."""

    def finer(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        for i, (embed, _, blocks, position) in self.stages():
            if i == 1:
                embed.patch_size = (1, 1)
                embed.proj.stride = embed.patch_size
                x = nn.functional.pad(x, [1, 0, 1, 0])
            x, size = embed(x)
            size = (size[0] - i, size[1] - i)
            for j, block in enumerate(blocks):
                x = block(x, size)
                if j == 0:
                    x = position(x, size)
            x = x.reshape(batch, *size, -1).permute(0, 3, 1, 2).contiguous()
        return x


class CrowdCounter(nn.Module):
    """CCTrans: the loop over the parts of the public code, and a head on the maps of three stages."""

    def __init__(self, twins: Any, embed_dims: list[int]) -> None:
        super().__init__()
        self.depths = twins.depths
        self.pos_drops = twins.pos_drops
        # The line that a user adds, after a network of the same names was built here.
        self.patch_embeds, self.blocks, self.pos_block = twins.patch_embeds, twins.blocks, twins.pos_block
        self.regression = nn.ModuleList(nn.Conv2d(dim, 1, 1) for dim in embed_dims[1:])

    def forward_features(self, x: Tensor) -> list[Tensor]:
        outputs = []
        batch = x.shape[0]
        for i in range(len(self.depths)):
            x, (height, width) = self.patch_embeds[i](x)
            x = self.pos_drops[i](x)
            for j, block in enumerate(self.blocks[i]):
                x = block(x, height, width)
                if j == 0:
                    x = self.pos_block[i](x, height, width)
            x = x.reshape(batch, height, width, -1).permute(0, 3, 1, 2).contiguous()
            outputs.append(x)
        return outputs

    def forward(self, x: Tensor) -> Tensor:
        maps = self.forward_features(x)[1:]
        size = maps[0].shape[2:]
        return sum(nn.functional.interpolate(layer(x), size) for layer, x in zip(self.regression, maps))


class DepthEncoder(nn.Module):
    """MVSFormer: a module that holds the functions of gvt.py, one of which it calls without arguments."""

    def __init__(self, gvts: Any, arch: str, **more: Any) -> None:
        super().__init__()
        self.vit = getattr(gvts, arch)(**more)

    def forward(self, images: Tensor) -> Tensor:
        [vit1, vit2, vit3, vit4] = self.vit.forward_features(images)
        return torch.cat([x.flatten(2).mean(2) for x in (vit1, vit2, vit3, vit4)], dim=1)


def close(actual: Tensor, expected: Tensor) -> None:
    assert_close(actual, expected, rtol=0, atol=1e-5 * max(1, expected.abs().max().item()))


def cut_large() -> FlowEncoder:
    """The encoder with random weights of the large model's first stages, and its unused final norm."""
    with torch.device('meta'):
        encoder = FlowEncoder(mmtwins.create_model)
    encoder.load_state_dict(draw_cut(encoder), assign=True)
    return encoder.eval()


def draw_cut(encoder: nn.Module) -> dict[str, Tensor]:
    return {name: value * 0.5 if value.dim() > 1 else value for name, value in draw(encoder).items()}


@torch.no_grad()
def test_flowformer_videoflow_and_memflow() -> None:
    encoder, x = cut_large(), images(56, 112)
    weights = {name.removeprefix('svt.'): value for name, value in encoder.state_dict().items()}
    assert {name.split('.')[1] for name in weights if name.startswith('blocks')} == {'0', '1'}
    assert weights['norm.weight'].shape == (1024,)  # in their checkpoints, too
    expected = twins(nest(weights), x, LARGE_HEADS, window_size=7)
    close(encoder(x), expected[1])
    close(encoder(x, layer=1), expected[0])
    before, after = encoder.extract_ml_features(x)
    close(after, expected[1])
    assert before.shape == after.shape
    assert encoder.compute_params() == sum(value.numel() for value in weights.values()) - 2048


@torch.no_grad()
def test_cctrans() -> None:
    """Its large model has windows of 8 tokens; its images have multiples of 256 pixels."""
    sizes = {key: value for key, value in SVT.items() if key != 'wss'}
    model = CrowdCounter(mmtwins.create_model('alt_gvt_large', **sizes, wss=[8, 8, 8, 8]), SVT['embed_dims']).eval()
    model.load_state_dict(draw(model))
    x = images(256, 256, batch=1)
    expected = twins(nest(model.state_dict()), x, HEADS, window_size=8)
    for one, other in zip(model.forward_features(x), expected, strict=True):
        close(one, other)
    assert model(x).shape == (1, 1, 32, 32)


@torch.no_grad()
def test_mvsformer() -> None:
    model = DepthEncoder(segmentation_gvt, 'alt_gvt_small', **SVT).eval()
    model.load_state_dict(draw(model))
    x = images()
    weights = {name.removeprefix('vit.'): value for name, value in model.state_dict().items()}
    close(model(x), torch.cat([m.flatten(2).mean(2) for m in twins(nest(weights), x, HEADS, SVT['wss'][0])], dim=1))


@pytest.mark.parametrize('size', [(64, 96), (72, 120), (97, 131)])
@torch.no_grad()
def test_encoders_of_flow_equal_timm(size: tuple[int, int], timm: ModuleType) -> None:
    sizes = {**SVT, 'wss': (7, 7, 7, 7)}
    encoders = [FlowDiffuserEncoder(create, **sizes).eval() for create in (mmtwins.create_model, timm.create_model)]
    weights = draw_cut(encoders[1])
    for encoder in encoders:
        encoder.load_state_dict(weights)
    x = images(*size)
    ours, theirs = encoders
    close(ours(x), theirs(x))
    for one, other in zip(ours.extract_ml_features(x), theirs.extract_ml_features(x)):
        close(one, other)
    assert ours.compute_params() == theirs.compute_params()
    close(ours.finer(x), theirs.finer(x))


def test_the_page_changes_three_lines_at_most() -> None:
    page = (Path(__file__).parents[2] / 'docs' / 'migration.md').read_text()
    diffs = re.findall(r'^\*\*(\w+)\*\*,.*?```diff\n(.*?)```', page, re.DOTALL | re.MULTILINE)
    assert [program for program, _ in diffs] == ['FlowFormer', 'VideoFlow', 'MemFlow', 'MVSFormer', 'CCTrans']
    for program, diff in diffs:
        assert 1 <= len([line for line in diff.splitlines() if line.startswith('+')]) <= 3, program


def test_the_snippet_of_the_page(capsys: pytest.CaptureFixture) -> None:
    page = (Path(__file__).parents[2] / 'docs' / 'migration.md').read_text()
    (snippet,) = re.findall(r'```python\n(.*?)```', page, re.DOTALL)
    with torch.device('meta'):
        exec(snippet, {})
    stated = snippet.rpartition('# ')[2]
    assert capsys.readouterr().out == stated
