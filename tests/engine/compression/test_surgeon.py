"""Inputs taken out of a linear layer, against the least squares that they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from docmill.engine.compression.surgeon import RIDGE, remove_inputs


def layer(num_in: int, *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight [7, in], and 400 inputs of it that hang together."""
    torch.manual_seed(seed)
    return torch.randn(7, num_in), torch.randn(400, num_in) @ (
        torch.eye(num_in) + 0.4 * torch.randn(num_in, num_in)
    )


@pytest.mark.parametrize(("group_size", "num_groups"), [(1, 5), (4, 3)])
def test_the_others_get_the_weights_that_least_squares_gives(group_size: int, num_groups: int) -> None:
    weight, inputs = layer(24, seed=3)
    stays, found = remove_inputs(
        weight, inputs.T @ inputs / 400, group_size=group_size, num_groups=num_groups
    )
    assert len(stays) == 24 // group_size - num_groups
    assert found.shape == (7, 24 - group_size * num_groups)
    at = (stays[:, None] * group_size + torch.arange(group_size)).flatten()
    wanted = torch.linalg.lstsq(inputs[:, at].double(), (inputs @ weight.T).double()).solution.T
    torch.testing.assert_close(found.double(), wanted, rtol=0.01, atol=0.01)


def test_the_first_to_go_is_the_one_that_costs_least_of_all() -> None:
    weight, inputs = layer(10, seed=4)
    outputs = (inputs @ weight.T).double()
    errors = []
    for gone in range(10):
        left = inputs[:, [one for one in range(10) if one != gone]].double()
        errors.append(float((left @ torch.linalg.lstsq(left, outputs).solution - outputs).square().sum()))
    stays, _ = remove_inputs(weight, inputs.T @ inputs / 400, group_size=1, num_groups=1)
    assert set(range(10)) - set(stays.tolist()) == {min(range(10), key=errors.__getitem__)}


def test_what_another_input_says_as_well_goes_without_a_loss() -> None:
    """A large weight on a large input: neither Wanda's score nor magnitude would take it."""
    weight, inputs = layer(12, seed=5)
    weight[:, 2], inputs[:, 2] = 9.0, 3 * inputs[:, 7] - 2 * inputs[:, 4]
    stays, found = remove_inputs(weight, inputs.T @ inputs / 400, group_size=1, num_groups=1)
    assert set(range(12)) - set(stays.tolist()) < {2, 4, 7}
    outputs = inputs @ weight.T
    assert (inputs[:, stays] @ found.T - outputs).norm() < 0.01 * outputs.norm()


def test_inputs_that_the_sample_never_has_go_first_and_do_no_harm() -> None:
    weight, inputs = layer(12, seed=6)
    inputs[:, [1, 5, 6]] = 0.0
    stays, found = remove_inputs(weight, inputs.T @ inputs / 400, group_size=1, num_groups=3)
    assert stays.tolist() == [0, 2, 3, 4, 7, 8, 9, 10, 11]
    torch.testing.assert_close(found, weight[:, stays], rtol=1e-3, atol=1e-3)


def test_large_groups_go_where_numpy_says_it_costs_least() -> None:
    """Of 256 inputs, as heads are; with torch's threads set, as vLLM and others do."""
    torch.manual_seed(8)
    inputs = torch.randn(3000, 1024) @ (torch.eye(1024) + 0.02 * torch.randn(1024, 1024))
    weight, products = torch.randn(9, 1024), inputs.T @ inputs / 3000
    damped = products.double().numpy() + RIDGE * float(products.double().diagonal().mean()) * np.eye(1024)
    inverse, rows = np.linalg.inv(damped), weight.double().numpy().T
    groups = [slice(start, start + 256) for start in range(0, 1024, 256)]
    costs = [
        float((rows[group] * np.linalg.solve(inverse[group, group], rows[group])).sum()) for group in groups
    ]
    gone = groups[int(np.argmin(costs))]
    expected = rows - inverse[:, gone] @ np.linalg.solve(inverse[gone, gone], rows[gone])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        stays, found = remove_inputs(weight, products, group_size=256, num_groups=1)
    finally:
        torch.set_num_threads(threads)
    assert set(range(4)) - set(stays.tolist()) == {groups.index(gone)}
    np.testing.assert_allclose(found.numpy(), np.delete(expected, gone, axis=0).T, rtol=1e-5, atol=1e-6)
