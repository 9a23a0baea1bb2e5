"""`mmtwins convert`: several checkpoints into a folder, and what is refused. tests/weights/test_converting.py has the rest."""

from pathlib import Path

import pytest
import torch
from tiny import assert_equal, make_tiny

from mmtwins.commands.convert import main, name_targets
from mmtwins.weights.converting import convert
from mmtwins.weights.loading import read_checkpoint


def test_several_checkpoints_go_into_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    weights = []
    for number, name in enumerate(('one.pth', 'two.safetensors')):
        torch.manual_seed(number)
        weights.append(make_tiny().state_dict())
        torch.save(weights[-1], tmp_path / 'one.pth')
        if name == 'two.safetensors':
            from safetensors.torch import save_file

            save_file(weights[-1], tmp_path / name)
    main([str(tmp_path / 'one.pth'), str(tmp_path / 'two.safetensors'), str(tmp_path / 'out'), '--to', 'timm'])
    for name in ('one.pth', 'two.safetensors'):
        assert_equal(read_checkpoint(str(tmp_path / 'out' / name)), convert(weights[1], 'timm'))
    out, err = capsys.readouterr()
    assert [line.partition(' written to ')[2] for line in out.splitlines()] == [
        f'{tmp_path}/out/one.pth, 0 dropped', f'{tmp_path}/out/two.safetensors, 0 dropped',
    ]  # fmt: skip
    assert err == ''


def test_one_checkpoint_goes_into_a_file_or_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save(make_tiny().state_dict(), tmp_path / 'a.pth')
    main([str(tmp_path / 'a.pth'), str(tmp_path / 'b.safetensors'), '--to', 'mmseg'])
    assert 'patch_embeds' in capsys.readouterr().out  # the table
    main([str(tmp_path / 'a.pth'), f'{tmp_path}/new/', '--to', 'mmseg'])
    assert_equal(read_checkpoint(str(tmp_path / 'new/a.pth')), read_checkpoint(str(tmp_path / 'b.safetensors')))


@pytest.mark.parametrize(
    ('source', 'name'),
    [
        ('imagenet:svt-small', 'svt-small.pth'),
        ('hf-hub:timm/twins_svt_small.in1k', 'twins_svt_small.in1k.pth'),
        ('https://server/path/a.pth?download=true', 'a.pth'),
        ('folder/pytorch_model.bin', 'pytorch_model.pth'),
        ('x.safetensors', 'x.safetensors'),
    ],
)
def test_names_in_a_folder(source: str, name: str) -> None:
    assert name_targets([source], 'out/') == [(source, Path('out', name))]


@pytest.mark.parametrize(
    ('sources', 'dst', 'message'),
    [
        (['a/x.pth', 'b/x.pth'], 'out', 'a/x.pth and b/x.pth would both be written to out/x.pth'),
        (['a.pth', 'b.pth'], 'out.pth', 'out.pth: 2 checkpoints need a folder'),
        (['here.pth'], '.', 'here.pth is the checkpoint to read'),
        (['here.pth', 'b.pth'], 'here.pth', 'here.pth is a file: name a folder for 2 checkpoints'),
        (['a.pth'], 'out', 'out: give a file that ends in .pth or .safetensors'),
    ],
)
def test_what_is_refused(
    sources: list[str], dst: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'here.pth').touch()
    with pytest.raises(SystemExit, match=r'^error: ') as end:
        main([*sources, dst, '--to', 'native'])
    assert message in str(end.value.code)
