"""What Transformer Engine and Apex hand out in place of torch's AdamW, as far as a CPU can have it.

Their FusedAdam counts steps once for each parameter group, in `group["step"]`, which it makes at its first
step; groups without parameters are passed over. State is two moments in fp32, made when a parameter is first
stepped on. The update is that of their kernel in its AdamW mode (csrc/multi_tensor_adam.cu of both).
"""

import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

MODULES = {"apex": "apex.optimizers", "transformer_engine": "transformer_engine.pytorch.optimizers"}
"""Library -> the module that megatron-core takes its optimizer from; the rest of a library is not there."""


class FusedAdam(torch.optim.Optimizer):
    """AdamW with their bookkeeping."""

    def __init__(
        self,
        params: Any,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        adam_w_mode: bool,
        weight_decay: float,
    ) -> None:
        assert adam_w_mode
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            if not group["params"]:
                continue
            group["step"] = group["step"] + 1 if "step" in group else 1
            (beta1, beta2), rate, step = group["betas"], group["lr"], group["step"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["exp_avg"] = torch.zeros_like(parameter, dtype=torch.float32)
                    state["exp_avg_sq"] = torch.zeros_like(parameter, dtype=torch.float32)
                assert state.keys() == {"exp_avg", "exp_avg_sq"}
                assert {moment.dtype for moment in state.values()} == {torch.float32}
                first, second, gradient = state["exp_avg"], state["exp_avg_sq"], parameter.grad
                first.copy_(beta1 * first + (1 - beta1) * gradient)
                second.copy_(beta2 * second + (1 - beta2) * gradient * gradient)
                denominator = (second / (1 - beta2**step)).sqrt() + group["eps"]
                update = first / (1 - beta1**step) / denominator + group["weight_decay"] * parameter
                parameter.sub_(rate * update)


class FusedSGD(torch.optim.SGD):
    """Imported beside it, and not used."""


def install(library: str) -> None:
    """Let this process find the library's optimizer; call it before megatron-core is imported."""
    module = sys.modules[MODULES[library]] = ModuleType(MODULES[library])
    for cls in (FusedAdam, FusedSGD):
        setattr(module, cls.__name__, type(cls.__name__, (cls,), {"__module__": module.__name__}))


def main() -> None:
    """`python fused_adam.py LIBRARY SCRIPT`: the script as the program of a process that has the library."""
    del sys.argv[0]
    install(sys.argv.pop(0))
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
