"""Mixture of experts in MLX; the rules are in spec/moe.md.

`router.py` chooses, `slots.py` sorts by expert and drops, `kernels.py` runs the experts, `layer.py` puts
these together, `ranks.py` spreads them over processes, `losses.py` measures balance, `checkpoints.py` loads.
"""

from .checkpoints import load_experts, router_config_from_hf
from .layer import moe_ffn
from .losses import (
    balance,
    load_balancing_loss,
    load_balancing_loss_grad,
    router_z_loss,
    update_selection_bias,
)
from .ranks import expert_parallel_ffn, expert_parallel_plan
from .router import expert_choice, route
from .slots import dispatch, expert_capacity

__all__ = [
    "balance",
    "dispatch",
    "expert_capacity",
    "expert_choice",
    "expert_parallel_ffn",
    "expert_parallel_plan",
    "load_balancing_loss",
    "load_balancing_loss_grad",
    "load_experts",
    "moe_ffn",
    "route",
    "router_config_from_hf",
    "router_z_loss",
    "update_selection_bias",
]
