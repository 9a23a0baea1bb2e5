"""Products of matrices: all ways compute the same, and the fastest of the measured is chosen."""

import pytest
import torch

from mmtwins.benchmark import products
from mmtwins.benchmark.products import Product, fastest_product, product_steps
from mmtwins.benchmark.task import Task


@pytest.mark.usefixtures('two_threads')
@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_all_ways_compute_the_same_product(precision: str) -> None:
    steps = product_steps(Task('inference', 64, 64, precision=precision), shapes=((64, 24, 8),))
    libraries = [product.library for product in steps if product.operator == 'matrix product']
    assert len(libraries) == (2 if precision == 'fp32' else 1) and libraries[-1] == 'oneDNN'
    *plain, convolution = (step() for step in steps.values())
    for found in plain:
        torch.testing.assert_close(found, convolution[0].permute(1, 2, 0)[0])
    assert {product.flops for product in steps} == {2 * 64 * 24 * 8}


def test_the_fastest_is_that_of_the_highest_rate_and_not_of_the_least_time() -> None:
    small, large = (
        Product('matrix product', 'MKL', (10, 10, 10)),
        Product('1 x 1 convolution', 'oneDNN', (100, 100, 10)),
    )
    rate = fastest_product({small: (1.0, 2.0), large: (90.0, 50.0)})
    assert rate.product is large and rate.flops == 2 * 100 * 100 * 10 / 50
    assert str(large) == '1 x 1 convolution of oneDNN, 100 x 100 x 10'
    assert fastest_product({small: (1.0,), large: (101.0,)}).product is small


@pytest.mark.parametrize(
    ('config', 'precision', 'library'),
    [('BLAS_INFO=mkl, USE', 'fp32', 'MKL'), ('BLAS_INFO=open, USE', 'fp32', 'OpenBLAS'), ('', 'fp32', 'BLAS')],
)
def test_the_library_is_the_one_that_torch_was_built_with(
    monkeypatch, config: str, precision: str, library: str
) -> None:
    monkeypatch.setattr(products.torch.__config__, 'show', lambda: config)
    first = next(iter(product_steps(Task('inference', 64, 64, precision=precision), shapes=((8, 8, 8),))))
    assert first.library == library
