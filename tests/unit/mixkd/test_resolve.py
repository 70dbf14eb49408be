"""How a run computes, for as long as it does."""

import torch

from mixkd.contract.spec import RuntimeSpec
from mixkd.resolve import computing


def test_torch_computes_as_the_run_says_and_as_before_afterwards() -> None:
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    assert not before[1]
    with computing(RuntimeSpec(threads=before[0] + 1, deterministic=True)):
        assert torch.get_num_threads() == before[0] + 1
        assert torch.are_deterministic_algorithms_enabled()
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before
    with computing(RuntimeSpec(threads=1)):
        assert not torch.are_deterministic_algorithms_enabled()
