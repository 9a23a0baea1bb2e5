"""Seeded mutations of a valid COCO file: what people and their scripts do to one, and what chance does to its bytes.

Each returns what a person would call the result: ``'wrong'``, ``'fine'``, or ``'any'`` where that depends on the draw.
"""

import json
import math
import random
from collections.abc import Callable
from typing import Any

Mutation = Callable[[dict, random.Random], str]
JSON_MUTATIONS: dict[str, Mutation] = {}
ODD_VALUES: list[Any] = [
    None,
    '',
    'text',
    -1,
    0,
    1.5,
    True,
    [],
    {},
    [[]],
    '1',
    math.nan,
    math.inf,
    1e300,
    10**30,
    [None],
]


def mutation(function: Mutation) -> Mutation:
    JSON_MUTATIONS[function.__name__] = function
    return function


def _boxes(content: dict, change: Callable[[list, dict], list]) -> None:
    images = {image['id']: image for image in content['images']}
    for one in content['annotations']:
        one['bbox'] = change(one['bbox'], images[one['image_id']])


@mutation
def boxes_as_corners(content: dict, rng: random.Random) -> str:
    _boxes(content, lambda b, image: [b[0], b[1], b[0] + b[2], b[1] + b[3]])
    if rng.random() < 0.5:  # without masks to compare with
        for one in content['annotations']:
            one['segmentation'] = [[b for c in _corners(one['bbox']) for b in c]]
    return 'wrong'


def _corners(box: list) -> list:
    x1, y1, x2, y2 = box
    return [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]


@mutation
def boxes_relative(content: dict, rng: random.Random) -> str:
    def scale(b: list, image: dict) -> list:
        width, height = image['width'], image['height']
        return [b[0] / width, b[1] / height, b[2] / width, b[3] / height]

    _boxes(content, scale)
    return 'wrong'


@mutation
def boxes_by_centre(content: dict, rng: random.Random) -> str:
    _boxes(content, lambda b, image: [b[0] + b[2] / 2, b[1] + b[3] / 2, b[2], b[3]])
    return 'wrong'


@mutation
def boxes_transposed(content: dict, rng: random.Random) -> str:
    _boxes(content, lambda b, image: [b[1], b[0], b[3], b[2]])
    return 'wrong'


@mutation
def box_number(content: dict, rng: random.Random) -> str:
    one = rng.choice(content['annotations'])
    value = rng.choice([math.nan, math.inf, -math.inf, None, '3', [1], 1e30, 10**400, True, {}])
    one['bbox'][rng.randrange(4)] = value
    return 'wrong'


@mutation
def box_length(content: dict, rng: random.Random) -> str:
    one = rng.choice(content['annotations'])
    one['bbox'] = rng.choice([one['bbox'][:3], [*one['bbox'], 1.0], [], None, one['bbox'][:1], 7, dict(x=1)])
    return 'wrong'


@mutation
def all_boxes_not_a_number(content: dict, rng: random.Random) -> str:
    _boxes(content, lambda b, image: [math.nan] * 4)
    return 'wrong'


@mutation
def all_boxes_negative(content: dict, rng: random.Random) -> str:
    _boxes(content, lambda b, image: [b[0], b[1], -b[2], -b[3]])
    return 'wrong'


@mutation
def boxes_outside(content: dict, rng: random.Random) -> str:
    _boxes(content, lambda b, image: [b[0] + 500, b[1], b[2], b[3]])
    return 'wrong'


@mutation
def one_box_outside(content: dict, rng: random.Random) -> str:
    one = rng.choice([one for one in content['annotations'] if not one['iscrowd']])
    one['bbox'] = rng.choice([[900, 900, 20, 20], [10, 10, 0, 5], [10, 10, 0.4, 5], [-40, -40, 41, 41]])
    return 'any'


@mutation
def category_ids_shifted(content: dict, rng: random.Random) -> str:
    step = rng.choice([-1, 1])
    for one in content['annotations']:
        one['category_id'] += step
    return 'wrong'


@mutation
def image_ids_shifted(content: dict, rng: random.Random) -> str:
    step = rng.choice([-1, 1, 1000])
    for one in content['annotations']:
        one['image_id'] += step
    return 'wrong'


@mutation
def category_misspelt(content: dict, rng: random.Random) -> str:
    category = rng.choice(content['categories'])
    category['name'] = rng.choice([category['name'].title(), category['name'] + ' ', category['name'][:-1], 'thing'])
    return 'wrong'


@mutation
def category_missing(content: dict, rng: random.Random) -> str:
    content['categories'].pop(rng.randrange(len(content['categories'])))
    return 'wrong'


@mutation
def categories_reordered(content: dict, rng: random.Random) -> str:
    content['categories'] = content['categories'][1:] + content['categories'][:1]
    return 'fine'


@mutation
def category_twice(content: dict, rng: random.Random) -> str:
    content['categories'].insert(0, dict(rng.choice(content['categories']), id=77))
    return 'wrong'


@mutation
def category_more(content: dict, rng: random.Random) -> str:
    content['categories'].insert(rng.randrange(4), dict(id=50, name='more'))
    return 'fine'


@mutation
def all_crowd(content: dict, rng: random.Random) -> str:
    for one in content['annotations']:
        one[rng.choice(['iscrowd', 'ignore'])] = 1
    return 'wrong'


@mutation
def section_empty(content: dict, rng: random.Random) -> str:
    content[rng.choice(['images', 'annotations', 'categories'])] = []
    return 'wrong'


@mutation
def section_odd(content: dict, rng: random.Random) -> str:
    content[rng.choice(['images', 'annotations', 'categories'])] = rng.choice([None, {}, 'x', 5, [5], [None], [[]]])
    return 'wrong'


@mutation
def section_gone(content: dict, rng: random.Random) -> str:
    del content[rng.choice(['images', 'annotations', 'categories'])]
    return 'wrong'


@mutation
def id_twice(content: dict, rng: random.Random) -> str:
    section = content[rng.choice(['images', 'annotations', 'categories'])]
    section[-1]['id'] = section[0]['id']
    return 'wrong'


NEEDED = {
    'images': ('id', 'file_name', 'height', 'width'),
    'annotations': ('id', 'image_id', 'category_id', 'bbox', 'area', 'segmentation'),
    'categories': ('id', 'name'),
}


@mutation
def field_gone(content: dict, rng: random.Random) -> str:
    section = rng.choice(list(NEEDED))
    entries = content[section]
    field = rng.choice(NEEDED[section])
    for one in entries if rng.random() < 0.5 else [rng.choice(entries)]:
        del one[field]
    return 'any' if field == 'segmentation' else 'wrong'


@mutation
def field_odd(content: dict, rng: random.Random) -> str:
    section = rng.choice(list(NEEDED))
    rng.choice(content[section])[rng.choice(NEEDED[section])] = rng.choice(ODD_VALUES)
    return 'any'


@mutation
def flag_odd(content: dict, rng: random.Random) -> str:
    rng.choice(content['annotations'])[rng.choice(['iscrowd', 'ignore'])] = rng.choice(['0', '1', None, 2, [], 'no'])
    return 'any'


@mutation
def flag_gone(content: dict, rng: random.Random) -> str:
    for one in content['annotations']:
        one.pop('iscrowd')
    return 'any'


@mutation
def image_size_wrong(content: dict, rng: random.Random) -> str:
    image = rng.choice(content['images'])
    image['height'], image['width'] = rng.choice(
        [
            (image['height'] * 2, image['width'] * 2),
            (image['width'] + 1, image['height']),
            (1, 1),
            (10**6, 10**6),
            (0, 5),
        ]
    )
    return 'wrong'


@mutation
def file_name_wrong(content: dict, rng: random.Random) -> str:
    names = [
        'gone.jpg',
        'train2017/0001.jpg',
        '/etc/hostname',
        'a\0b.jpg',
        '.',
        '..',
        'x' * 3000,
        '\ud800.jpg',
        '/dev/zero',
    ]
    rng.choice(content['images'])['file_name'] = rng.choice(names)
    return 'wrong'


@mutation
def polygon_number(content: dict, rng: random.Random) -> str:
    one = rng.choice([one for one in content['annotations'] if isinstance(one['segmentation'], list)])
    polygon = one['segmentation'][0]
    polygon[rng.randrange(len(polygon))] = rng.choice(
        [math.nan, math.inf, -math.inf, None, '3', [1], 1e30, 10**400, 1e7]
    )
    return 'wrong'


@mutation
def polygon_shape(content: dict, rng: random.Random) -> str:
    for one in content['annotations']:
        if isinstance(one['segmentation'], list):
            polygon = one['segmentation'][0]
            points = [polygon[i : i + 2] for i in range(0, len(polygon), 2)]
            one['segmentation'] = rng.choice([polygon, points, [points], [[]], []])
    return 'wrong'


@mutation
def polygon_short(content: dict, rng: random.Random) -> str:
    one = rng.choice([one for one in content['annotations'] if isinstance(one['segmentation'], list)])
    one['segmentation'].append(rng.choice([[1.0, 2.0], [1.0, 2.0, 3.0, 4.0], [1.0], [], [1.0] * 7]))
    return 'any'


@mutation
def polygons_relative(content: dict, rng: random.Random) -> str:
    for one in content['annotations']:
        box = one['bbox']
        x1, y1, x2, y2 = box[0] / 100, box[1] / 100, (box[0] + box[2]) / 100, (box[1] + box[3]) / 100
        one['segmentation'] = [[x1, y1, x2, y1, x2, y2, x1, y2]]
    return 'wrong'


@mutation
def run_lengths_wrong(content: dict, rng: random.Random) -> str:
    code = rng.choice([one['segmentation'] for one in content['annotations'] if isinstance(one['segmentation'], dict)])
    if rng.random() < 0.5:
        height, width = code['size']
        code['size'] = rng.choice(
            [[width, height + 1], [10**6, 10**6], [-1, 5], [0, 0], [3], 'x', None, [1.5, 2]],
        )
        return 'wrong'
    code['counts'] = rng.choice(
        ['', '~~~~', 'PP', '50', 'zzzzzzzzzzzz', [5], [-5, 10**6], [], None, 'é', [1.5], ['a'], 7, [2**40], '`' * 50]
    )
    return 'wrong'


@mutation
def polygons_as_run_lengths(content: dict, rng: random.Random) -> str:
    from pycocotools import mask as mask_api

    sizes = {image['id']: (image['height'], image['width']) for image in content['images']}
    for one in content['annotations']:
        if isinstance(one['segmentation'], list):
            code = mask_api.merge(mask_api.frPyObjects(one['segmentation'], *sizes[one['image_id']]))
            one['segmentation'] = dict(size=list(code['size']), counts=code['counts'].decode())
    return 'fine'


@mutation
def more_keys(content: dict, rng: random.Random) -> str:
    for section in NEEDED:
        for one in content[section]:
            one['extra'] = rng.choice(ODD_VALUES[:13])
    content['more'] = [1, 2]
    return 'fine'


@mutation
def shuffled(content: dict, rng: random.Random) -> str:
    rng.shuffle(content['annotations'])
    rng.shuffle(content['images'])
    return 'fine'


@mutation
def decimals(content: dict, rng: random.Random) -> str:
    for one in content['annotations']:
        one['image_id'] = float(one['image_id'])
        one['bbox'] = [round(value) for value in one['bbox']]
    return 'fine'


@mutation
def names_not_ascii(content: dict, rng: random.Random) -> str:
    content['info'] = dict(description='Übung мир 数据 😀')
    return 'fine'


@mutation
def ids_far_apart(content: dict, rng: random.Random) -> str:
    for one in content['annotations']:
        one['id'] = one['id'] * 10**9 + 5
        one['image_id'] *= 10**8
    for image in content['images']:
        image['id'] *= 10**8
    return 'fine'


@mutation
def box_twice(content: dict, rng: random.Random) -> str:
    content['annotations'].append(dict(rng.choice(content['annotations']), id=999))
    return 'fine'


@mutation
def boxes_rounded_up(content: dict, rng: random.Random) -> str:
    _boxes(content, lambda b, image: [b[0] - 0.4, b[1] - 0.4, b[2] + 0.8, b[3] + 0.8])
    return 'fine'


@mutation
def image_without_boxes(content: dict, rng: random.Random) -> str:
    gone = rng.choice(content['images'])['id']
    content['annotations'] = [one for one in content['annotations'] if one['image_id'] != gone]
    return 'fine'


def encode(content: Any) -> bytes:
    """As JSON files are written, half surrogates and numbers of any length included."""
    return json.dumps(content).encode()


BYTE_MUTATIONS: dict[str, Callable[[bytes, random.Random], bytes]] = dict(
    cut_off=lambda data, rng: data[: rng.randrange(len(data))],
    byte_changed=lambda data, rng: _replace(data, rng, bytes([rng.randrange(256)])),
    bytes_removed=lambda data, rng: _replace(data, rng, b'', rng.randrange(1, 30)),
    bytes_inserted=lambda data, rng: _replace(data, rng, rng.randbytes(5), 0),
    empty=lambda data, rng: b'',
    zeros=lambda data, rng: bytes(len(data)),
    sixteen_bits=lambda data, rng: data.decode().encode('utf-16'),
    byte_order_mark=lambda data, rng: b'\xef\xbb\xbf' + data,
    nested=lambda data, rng: b'[' * 100_000,
    long_number=lambda data, rng: b'{"images": ' + b'9' * 5000 + b'}',
    a_list=lambda data, rng: b'[' + data + b']',
    a_text=lambda data, rng: b'"' + b'x' * 50 + b'"',
    an_image=lambda data, rng: b'\xff\xd8\xff\xe0' + rng.randbytes(200),
    twice=lambda data, rng: data + data,
)


def _replace(data: bytes, rng: random.Random, new: bytes, length: int = 1) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + new + data[place + length :]
