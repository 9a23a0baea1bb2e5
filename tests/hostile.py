"""Pickles that run code where they are trusted, instruction by instruction, in all formats of PyTorch.

The code leaves a mark, so that a test looks for what happened and not for what was said.
"""

import io
import os
import pickle
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

EXTENSION = 0x7A  # a code that no other module registers with copyreg
MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({'little_endian': True}, 2)
PLACES = ('whole', 'state_dict', 'meta', 'optimizer', 'message_hub', 'key')
CONTAINERS = ('zip', 'legacy', 'bare', 'legacy, first', 'tar', 'tar, storages', 'jit', 'zip, packed')


@dataclass(frozen=True)
class Hostile:
    """A hostile file.

    Args:
        path: Where it lies.
        kind: What it is, in words.
        runs: Whether its code runs where it is trusted.
    """

    path: str
    kind: str
    runs: bool = False


class Mark:
    """Leaves a mark when it is made, completed or called."""

    def __new__(cls, path: str = '', **_: object) -> 'Mark':
        if path:
            os.mkdir(path)
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        """Nothing: ``__new__`` has done it."""

    def __setstate__(self, path: str) -> None:
        os.mkdir(path)


def leave_mark(path: str) -> str:
    os.mkdir(path)
    return path


class Writer:
    """Writes instructions of pickle in the words of a protocol."""

    def __init__(self, protocol: int) -> None:
        self.protocol = protocol
        self.start = b'' if protocol < 2 else b'\x80' + bytes([protocol])

    def text(self, value: str) -> bytes:
        if self.protocol == 0:
            return b'V' + value.encode('raw-unicode-escape') + b'\n'
        return b'X' + struct.pack('<I', len(value.encode())) + value.encode()

    def name(self, module: str, name: str) -> bytes:
        if self.protocol < 4:
            return f'c{module}\n{name}\n'.encode()
        return self.text(module) + self.text(name) + b'\x93'

    def arguments(self, *values: bytes) -> bytes:
        return b'(' + b''.join(values) + b't'

    def call(self, function: bytes, *values: bytes) -> bytes:
        return function + self.arguments(*values) + b'R'


# What a file can name, and the arguments with which it leaves a mark.
FUNCTIONS: list[tuple[str, str, Callable[[str], list]]] = [
    ('os', 'mkdir', lambda mark: [mark]),
    ('posix', 'mkdir', lambda mark: [mark]),
    ('builtins', 'exec', lambda mark: [f'import os; os.mkdir({mark!r})']),
    ('builtins', 'eval', lambda mark: [f'__import__("os").mkdir({mark!r})']),
    ('builtins', 'open', lambda mark: [mark, 'w']),
    ('io', 'open', lambda mark: [mark, 'x']),
    ('os', 'makedirs', lambda mark: [mark]),
    ('shutil', 'copyfile', lambda mark: ['/dev/null', mark]),
    ('os', 'mkfifo', lambda mark: [mark]),
    ('hostile', 'leave_mark', lambda mark: [mark]),
    ('hostile', 'os.mkdir', lambda mark: [mark]),  # a name with a dot, from protocol 4
    ('numpy', 'savetxt', lambda mark: [mark, '1']),
    ('mmengine.config', 'Config.fromstring', lambda mark: [f'import os\nos.mkdir({mark!r})', '.py']),
    ('mmengine.utils', 'mkdir_or_exist', lambda mark: [mark]),
    ('torch.hub', '_get_torch_home', lambda mark: []),  # harmless, and not allowed either
]


def make_gadget(family: str, writer: Writer, function: tuple[str, str, Callable[[str], list]], mark: str) -> bytes:
    """Instructions that leave a mark by a family of instructions, and leave one object."""
    module, name, arguments = function
    values = [writer.text(value) for value in arguments(mark)]
    path, namespace = writer.text(mark), writer.name('argparse', 'Namespace')
    if family == 'GLOBAL and REDUCE':
        return writer.call(writer.name(module, name), *values)
    if family == 'OBJ':
        return b'(' + writer.name(module, name) + b''.join(values) + b'o'
    if family == 'INST':
        return b'(' + b''.join(values) + f'i{module}\n{name}\n'.encode()
    if family == 'NEWOBJ':
        return writer.name('hostile', 'Mark') + writer.arguments(path) + b'\x81'
    if family == 'NEWOBJ_EX':
        return writer.name('hostile', 'Mark') + b')}' + writer.text('path') + path + b's\x92'
    if family == 'BUILD':
        return writer.name('hostile', 'Mark') + b')\x81' + path + b'b'
    if family == 'BUILD of a method':  # of an object that is allowed
        state = b'}' + writer.text('__setstate__') + writer.name(module, name) + b's'
        return namespace + b')\x81' + state + b'b' + path + b'b'
    if family == 'EXT1':
        return writer.call(b'\x82' + bytes([EXTENSION]), path)
    if family == 'EXT4':
        return writer.call(b'\x84' + struct.pack('<i', EXTENSION), path)
    if family == 'PERSID':
        return b'Pmodule' + mark.encode() + b'\n'
    if family == 'BINPERSID':
        module_id = writer.text('module') + writer.name(module, name) + path + writer.text('source')
        return b'(' + module_id + b'tQ'
    if family == 'getattr':
        mkdir = writer.call(writer.name('builtins', 'getattr'), writer.name('os', 'path'), writer.text('os'))
        mkdir = writer.call(writer.name('builtins', 'getattr'), mkdir, writer.text('mkdir'))
        return writer.call(mkdir, path)
    if family == 'partial':
        return writer.call(writer.call(writer.name('functools', 'partial'), writer.name(module, name), *values))
    if family == 'rebuild':  # torch's own, which calls what it is given
        call = writer.name('torch._tensor', '_rebuild_from_type_v2')
        given = [writer.name(module, name), writer.name('torch', 'Tensor'), writer.arguments(*values), b'}']
        return writer.call(call, *given)
    if family == 'memo':
        put, get = b'q\x07', b'h\x07'
        return writer.name(module, name) + put + b'0' + get + writer.arguments(*values) + b'R' + put + b'0' + get
    assert family == 'pickle in pickle'
    inner = writer.start + b'}0' + writer.call(writer.name(module, name), *values) + b'.'
    return writer.call(
        writer.name('pickle', 'loads'),
        writer.call(writer.name('_codecs', 'encode'), writer.text(inner.decode('latin1')), writer.text('latin1')),
    )


FAMILIES = (
    'GLOBAL and REDUCE',
    'OBJ',
    'INST',
    'NEWOBJ',
    'NEWOBJ_EX',
    'BUILD',
    'BUILD of a method',
    'EXT1',
    'EXT4',
    'PERSID',
    'BINPERSID',
    'getattr',
    'partial',
    'rebuild',
    'memo',
    'pickle in pickle',
)
NOT_RUN = {'PERSID', 'BINPERSID'}  # by a plain unpickler: PyTorch must act on them
# Calls and states of NumPy that would make pointers of numbers in a file: no test may let them run.
POINTERS = ('ndarray of objects in a buffer', 'dtype with flags of objects', 'dtype of objects')


def make_pointers(kind: str, writer: Writer) -> bytes:
    code = writer.text('f8' if kind == POINTERS[1] else 'O')
    dtype = writer.name('numpy', 'dtype')
    if kind == POINTERS[0]:
        buffer = writer.call(writer.name('builtins', 'bytearray'), writer.text('A' * 64), writer.text('latin1'))
        return writer.call(writer.name('numpy', 'ndarray'), b'(K\x08t', code, buffer)
    made = (
        writer.call(dtype, code, b'\x89', b'\x88')
        if writer.protocol >= 2
        else writer.call(dtype, code, b'I00\n', b'I01\n')
    )
    if kind == POINTERS[1]:
        fields = b'}' + writer.text('a') + b'(' + writer.call(dtype, writer.text('O')) + b'K\x00ts'
        made += b'(K\x03' + writer.text('<') + b'N(' + writer.text('a') + b't' + fields + b'K\x08K\x01K\x3ftb'
    empty = writer.call(
        writer.name('numpy.core.multiarray', '_reconstruct'),
        writer.name('numpy', 'ndarray'),
        b'(K\x00t',
        writer.text('b'),
    )
    return (
        empty
        + b'(K\x01(K\x02t'
        + made
        + b'\x89'
        + b'](G'
        + struct.pack('>d', 1.5)
        + b'G'
        + struct.pack('>d', 2.5)
        + b'etb'
    )


def place_gadget(gadget: bytes, place: str, writer: Writer) -> bytes:
    """A whole pickle with the gadget somewhere in what looks like a checkpoint."""
    if place == 'whole':
        body = gadget
    elif place == 'key':
        body = b'}' + gadget + b'Ns'
    else:
        body = b'}' + writer.text('state_dict') + b'}s' + writer.text(place) + b'}' + writer.text('a') + gadget + b'ss'
    return writer.start + body + b'.'


def write_archive(path: Path, content: bytes, extra: dict[str, bytes] | None = None, packed: bool = False) -> None:
    method = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, 'w', method) as archive:
        entries = {'data.pkl': content, 'byteorder': b'little', 'version': b'3\n', **(extra or {})}
        for name, value in entries.items():
            archive.writestr(f'archive/{name}', value)


def write_tar(path: Path, **members: bytes) -> None:
    with tarfile.open(path, 'w:', format=tarfile.PAX_FORMAT) as archive:
        for name, value in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(value)
            archive.addfile(entry, io.BytesIO(value))


def contain(path: Path, content: bytes, container: str) -> None:
    """Write a pickle as one of the formats of PyTorch."""
    nothing = pickle.dumps(0, 2)
    if container in ('zip', 'zip, packed'):
        write_archive(path, content, packed=container != 'zip')
    elif container == 'jit':
        code = {'constants.pkl': content, 'code/__torch__.py': b'class Model(Module):\n  pass\n'}
        write_archive(path, content, code)
    elif container == 'tar':
        write_tar(path, storages=nothing + pickle.dumps([], 2), tensors=nothing, pickle=content)
    elif container == 'tar, storages':
        write_tar(path, storages=content, tensors=content, pickle=content)
    elif container == 'legacy':
        path.write_bytes(MAGIC + content + pickle.dumps([], 2))
    else:
        path.write_bytes(content if container == 'bare' else content + MAGIC)


def make_pickles(folder: Path, number: int, chance: random.Random) -> Iterator[Hostile]:
    """Every family in every protocol, in containers and places that take turns."""
    containers, places, functions = cycle(CONTAINERS), cycle(PLACES), cycle(FUNCTIONS)
    combinations = [(family, protocol) for family in FAMILIES for protocol in range(6)]
    for index in range(number):
        family, protocol = combinations[index % len(combinations)]
        writer, container, place = Writer(protocol), next(containers), next(places)
        if index % len(combinations) == 0:
            next(containers)  # so that the next round of families meets others
        function = next(functions)
        if family == 'BUILD of a method' or ('.' in function[1] and (protocol < 4 or family == 'INST')):
            function = FUNCTIONS[0]
        mark = str(folder / f'mark-{index}')
        path = folder / f'{index:03}{chance.choice((".pth", ".pt", ".bin", ".ckpt", "", ".pkl", ".tar"))}'
        gadget = make_gadget(family, writer, function, mark)
        if family == 'pickle in pickle' and protocol == 0:
            gadget = make_gadget('GLOBAL and REDUCE', writer, function, mark)
        contain(path, place_gadget(gadget, place, writer), container)
        yield Hostile(
            str(path),
            f'{family} of {".".join(function[:2])}, protocol {protocol}, {container}, in {place}',
            runs=family not in NOT_RUN and function[0] != 'torch.hub' and container != 'jit',
        )
    for index, kind in enumerate(POINTERS * 4):
        writer = Writer((2, 4, 1, 3)[index // 3])
        path = folder / f'pointer-{index}.pth'
        contain(path, place_gadget(make_pointers(kind, writer), 'state_dict', writer), ('zip', 'legacy')[index % 2])
        yield Hostile(str(path), f'{kind}, protocol {writer.protocol}')
