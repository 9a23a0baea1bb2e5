"""Hostile checkpoints of all kinds, from a seed: that run code, that are no checkpoints, or that unpack without end."""

import io
import json
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from hostile import (
    CONTAINERS,
    POINTERS,
    Hostile,
    Writer,
    contain,
    leave_mark,
    make_pickles,
    place_gadget,
    write_archive,
    write_tar,
)

HTML = b'<!DOCTYPE html>\n<html><head><title>404</title></head><body>Not found</body></html>'


def _nested(folder: Path, chance: random.Random) -> Iterator[Hostile]:
    """Files that hold hostile files, which a reader must not go into."""
    writer = Writer(2)
    for index in range(12):
        mark = str(folder / f'nested-mark-{index}')
        content = place_gadget(writer.call(writer.name('os', 'mkdir'), writer.text(mark)), 'whole', writer)
        inner, outer = folder / f'inner-{index}', folder / f'nested-{index}.{chance.choice(("pth", "pt", "zip"))}'
        contain(inner, content, CONTAINERS[index % 4])
        if index < 4:
            write_archive(outer, pickle.dumps({}, 2), {'inner.pth': inner.read_bytes()})
            outer.write_bytes(outer.read_bytes()[: -chance.randint(1, 20)])  # and cut off
        elif index < 6:
            with zipfile.ZipFile(outer, 'w') as archive:
                archive.write(inner, 'model.pth')
        elif index < 8:
            write_tar(outer, inner=inner.read_bytes())
        else:
            name = ('torch', 'load'), ('torch.serialization', 'load'), ('numpy', 'load'), ('pickle', 'load')
            call = writer.call(writer.name(*name[index - 8]), writer.text(str(inner)))
            contain(outer, place_gadget(call, 'state_dict', writer), 'zip')
        yield Hostile(str(outer), f'nested {index}')
    objects = np.array([leave_mark], object)
    for suffix, save in (('npy', np.save), ('npz', np.savez)):
        with (folder / f'array.{suffix}').open('wb') as file:
            save(file, objects)
        yield Hostile(str(folder / f'array.{suffix}'), f'an array of objects, .{suffix}')


def _safetensors(header: object, data: bytes = b'\0' * 16, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack('<Q', len(text) if length is None else length) + text + data


def _headers(folder: Path) -> Iterator[Hostile]:
    """.safetensors files with headers that lie."""

    def entry(dtype: object = 'F32', shape: object = (4,), offsets: object = (0, 16)) -> dict:
        return {'a': dict(dtype=dtype, shape=shape, data_offsets=offsets)}

    two = {**entry(), 'b': dict(dtype='F32', shape=[4], data_offsets=[0, 16])}
    kinds = {
        'huge header length': _safetensors(entry(), length=2**63),
        'largest header length': _safetensors(entry(), length=2**64 - 1),
        'header longer than the file': _safetensors(entry(), length=10**6),
        'header of 100 MB that is not there': _safetensors(entry(), length=10**8 - 1),
        'header length 0': _safetensors(b'', length=0),
        'overlapping offsets': _safetensors(two),
        'offsets beyond the file': _safetensors(entry(offsets=(0, 1600))),
        'huge offsets': _safetensors(entry(shape=(2**60,), offsets=(0, 2**62))),
        'offsets that overflow': _safetensors(entry(shape=(2**40, 2**40), offsets=(0, 16))),
        'negative offsets': _safetensors(entry(offsets=(-16, 0))),
        'offsets the wrong way': _safetensors(entry(offsets=(16, 0))),
        'a hole': _safetensors(entry(offsets=(8, 24)), data=b'\0' * 24),
        'data that nobody names': _safetensors(entry(), data=b'\0' * 64),
        'negative shape': _safetensors(entry(shape=(-4,))),
        'fractions as a shape': _safetensors(entry(shape=(4.5,))),
        'text as a shape': _safetensors(entry(shape='four')),
        'a shape for other data': _safetensors(entry(shape=(5,))),
        'unknown dtype': _safetensors(entry(dtype='O8')),
        'number as dtype': _safetensors(entry(dtype=7)),
        'dtype None': _safetensors(entry(dtype=None)),
        'the same key twice': _safetensors(
            b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"a":{"dtype":"F32"}}'
        ),
        'no JSON': _safetensors(b'{"a": os.system}'),
        'half of a JSON': _safetensors(b'{"a":{"dtype":"F32"'),
        'not UTF-8': _safetensors(b'{"\xff\xfe": 1}'),
        'a list': _safetensors([1, 2]),
        'deep lists': _safetensors(b'[' * 5000),
        'a number': _safetensors(1),
        'metadata of objects': _safetensors({'__metadata__': {'x': {'y': [1]}}, **entry()}),
        'no offsets': _safetensors({'a': dict(dtype='F32', shape=[4])}),
        'nothing': b'',
        'seven bytes': b'\0' * 7,
        'a pickle': pickle.dumps(leave_mark, 2),
        'an archive': b'PK\x03\x04' + b'\0' * 60,
        'a web page': HTML,
    }
    for index, (kind, content) in enumerate(kinds.items()):
        path = folder / f'header-{index}.safetensors'
        path.write_bytes(content)
        yield Hostile(str(path), f'.safetensors with {kind}')


def _bombs(folder: Path) -> Iterator[Hostile]:
    """Files that take more memory than they have bytes."""
    empty = pickle.dumps({}, 2)
    zeros = bytes(16 * 2**20)
    write_archive(folder / 'bomb-0.pth', empty, {'data/0': zeros}, packed=True)
    write_archive(folder / 'bomb-1.pth', empty + zeros, packed=True)
    with zipfile.ZipFile(folder / 'bomb-2.pth', 'w', zipfile.ZIP_BZIP2) as archive:
        archive.writestr('archive/data.pkl', empty)
        archive.writestr('archive/data/0', zeros)
    many = {f'data/{index}': bytes(2**17) for index in range(100)}
    write_archive(folder / 'bomb-3.pth', empty, many, packed=True)
    # Many names for the same bytes: the list at the end of the archive is all that it takes.
    write_archive(folder / 'bomb-4.pth', empty, {'data/0': bytes(2**20)})
    content = (folder / 'bomb-4.pth').read_bytes()
    start = content.rindex(b'PK\x05\x06')
    entries = content[content.index(b'PK\x01\x02') : start]
    one = entries[entries.rindex(b'PK\x01\x02') :]
    count = 100
    end = struct.pack(
        '<4s4H2LH', b'PK\x05\x06', 0, 0, 4 + count, 4 + count, len(entries) + count * len(one), start - len(entries), 0
    )
    (folder / 'bomb-4.pth').write_bytes(content[:start] + count * one + end)
    for name, size in (('large.pth', 2**42), ('large.safetensors', 2**41), ('large.bin', 2**43)):
        with (folder / name).open('wb') as file:
            file.write(b'PK\x03\x04')
            file.truncate(size)  # takes no room on the disk
    storage = torch.zeros(1)
    torch.save({'state_dict': {'a': storage.expand(2**38)}}, folder / 'bomb-5.pth')
    torch.save({'state_dict': {str(index): storage.expand(2**26) for index in range(9)}}, folder / 'bomb-6.pth')
    around: dict = {}
    around['state_dict'] = around
    torch.save(around, folder / 'bomb-7.pth')
    names = [*(f'bomb-{index}.pth' for index in range(8)), 'large.pth', 'large.safetensors', 'large.bin']
    yield from (Hostile(str(folder / name), f'a bomb, {name}') for name in names)


def _no_files(folder: Path) -> Iterator[Hostile]:
    """What is no file, or has a name that no file should have."""
    (folder / 'folder.pth').mkdir()
    (folder / 'folder.safetensors').mkdir()
    (folder / 'to-folder.pth').symlink_to(folder / 'folder.pth')
    (folder / 'dangling.pth').symlink_to(folder / 'nowhere')
    (folder / 'loop.pth').symlink_to(folder / 'pool.pth')
    (folder / 'pool.pth').symlink_to(folder / 'loop.pth')
    (folder / 'zero.pth').symlink_to('/dev/zero')
    os.mkfifo(folder / 'pipe.pth')
    (folder / 'to-pipe.safetensors').symlink_to(folder / 'pipe.pth')
    names = ['folder.pth', 'folder.safetensors', 'to-folder.pth', 'dangling.pth', 'loop.pth', 'zero.pth', 'pipe.pth']
    yield from (Hostile(str(folder / name), name) for name in [*names, 'to-pipe.safetensors'])
    for path in (
        '/dev/zero',
        '/dev/null',
        '/proc/self/fd',
        f'{folder}/{"a" * 300}.pth',
        '~nobody-here/a.pth',
        f'{folder}/\ud800.pth',
    ):
        yield Hostile(path, f'a path that ends in {path[-5:]!r}')
    content = (
        Writer(2).start
        + Writer(2).call(Writer(2).name('os', 'mkdir'), Writer(2).text(str(folder / 'name-mark')))
        + b'.'
    )
    for name in (
        '$(touch x).pth',
        '; touch x;.pth',
        '-rf.pth',
        'a\nb.pth',
        '\x1b]0;title\x07.pth',
        '%s{0}{meta}.pth',
        '[red]x[bold].pth',
        ' .pth',
        "'.pth",
    ):
        write_archive(folder / name, content)
        yield Hostile(str(folder / name), f'a name: {name!r}', runs=False)


def _broken(folder: Path, number: int, chance: random.Random) -> Iterator[Hostile]:
    """Web pages, text, noise, and whole checkpoints that are cut off or changed."""
    buffer = io.BytesIO()
    torch.save({'state_dict': {'weight': torch.ones(64), 'bias': torch.zeros(8)}, 'meta': {'iter': 1}}, buffer)
    whole = buffer.getvalue()
    fixed = {
        'web page': HTML,
        'web page in capitals': HTML.upper(),
        'XML': b'<?xml version="1.0"?><Error/>',
        'empty': b'',
        'one byte': b'\x80',
        'text': b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n',
        'JSON': b'{"state_dict": {}}',
        'zeros': bytes(4096),
        'PNG': b'\x89PNG\r\n\x1a\n' + bytes(64),
        'gzip': b'\x1f\x8b\x08' + bytes(64),
        'start of an archive': b'PK\x03\x04',
        'end of an archive': whole[-22:],
        'script': b'#!/bin/sh\nmkdir mark\n',
        'Python': b'import os; os.mkdir("mark")\n',
        'only PROTO and STOP': b'\x80\x02.',
        'endless marks': b'\x80\x02' + b'(' * 10000,
        'a long number': b'\x80\x02\x8b\xff\xff\xff\x7f',
        'a long text': b'\x80\x04\x8d' + struct.pack('<Q', 2**62) + b'a.',
        'a far memo': b'\x80\x02}r\xff\xff\xff\x7f.',
    }
    for index, (kind, content) in enumerate(fixed.items()):
        (folder / f'broken-{index}.pth').write_bytes(content)
        yield Hostile(str(folder / f'broken-{index}.pth'), kind)
    for index in range(number - len(fixed)):
        path, kind = folder / f'cut-{index}.pth', ('cut off', 'noise', 'changed')[index % 3]
        if kind == 'cut off':
            path.write_bytes(whole[: chance.randrange(5, len(whole) - 1)])
        elif kind == 'noise':
            path.write_bytes(chance.randbytes(chance.randrange(1, 3000)))
        else:
            place = whole.index(b'\x80\x02}') + chance.randrange(100)  # of data.pkl
            path.write_bytes(whole[:place] + bytes([whole[place] ^ chance.randrange(1, 256)]) + whole[place + 1 :])
        yield Hostile(str(path), f'{kind} {index}')


def make_hostile(folder: Path, number: int = 500, seed: int = 14) -> list[Hostile]:
    """Write hostile files.

    Args:
        folder: Where; marks are left there, too, as ``mark-N`` and the like.
        number: How many files, at least 250.
        seed: Of what is drawn at random.

    Returns:
        The files, in an order that does not depend on kinds.
    """
    chance = random.Random(seed)
    found = [
        *_nested(folder, chance),
        *_headers(folder),
        *_bombs(folder),
        *_no_files(folder),
        *_broken(folder, 60, chance),
    ]
    found += make_pickles(folder, number - len(found) - 4 * len(POINTERS), chance)
    chance.shuffle(found)
    assert len(found) == number
    return found


def marks(folder: Path) -> list[str]:
    """The marks that code has left."""
    return sorted(path.name for path in folder.iterdir() if 'mark' in path.name)
