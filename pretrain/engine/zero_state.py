"""State of a DeepSpeed engine, independent of the number of ranks, ZeRO stage and precision.

It consists of whole tensors by name: the weights in fp32 (`weight/<parameter>`) and the optimizer's
tensors of each parameter (`exp_avg/<parameter>`, `step/<parameter>`, ...). A few numbers complete
it: the optimizer's step counts by group, and the state of the loss scaler.
"""

from typing import Any

import torch
from torch import Tensor, nn

from pretrain.engine import distributed

WEIGHT, STEP = "weight", "step"
# State of DeepSpeed's loss scaler.
SCALER_FIELDS = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


def gather_state(engine) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns (tensors, numbers); every rank must call it, and rank 0 alone gets the tensors.

    The tensors are copies on the CPU.
    """
    _link_optimizer_state(engine)
    tensors = {}
    for name, parameter in engine.module.named_parameters():
        for kind in (WEIGHT, *_state_kinds(engine, parameter)):
            tensor = _whole(engine, parameter, kind)
            if distributed.rank() == 0:
                tensors[f"{kind}/{name}"] = tensor.detach().to("cpu", copy=True).contiguous()
    # Some optimizers count steps by group.
    steps = [group.get(STEP) for group in _base_optimizer(engine).param_groups]
    return tensors, {"group_steps": steps, "scaler": _scaler_state(engine)}


def gather_weights(engine) -> dict[str, Tensor]:
    """Returns the fp32 weights by parameter name, on rank 0 alone; every rank must call it."""
    weights = {}
    for name, parameter in engine.module.named_parameters():
        value = _whole(engine, parameter, WEIGHT)
        if distributed.rank() == 0:
            weights[name] = value.detach().float().cpu()
    return weights


@torch.no_grad()
def set_weights(engine, weights: dict[str, Tensor]) -> None:
    """Sets the fp32 weights of a new engine to those of rank 0; every rank must call it.

    weights: by parameter name, on rank 0 alone. With ZeRO in half precision, DeepSpeed itself would
    begin with fp32 copies of rounded weights.
    """
    for name, parameter in engine.module.named_parameters():
        shape = getattr(parameter, "ds_shape", parameter.shape)
        value = torch.empty(shape, dtype=torch.float32, device=engine.device)
        if distributed.rank() == 0:
            value.copy_(weights[name])
        if distributed.world_size() > 1:
            torch.distributed.broadcast(value, 0)
        _set_whole(engine, parameter, WEIGHT, value)
    _spread_master_weights(engine)


def restore_state(engine, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    """Restores a gathered state in an engine of the same model and optimizer.

    Raises ValueError for the tensors of another model.
    """
    _check_model(engine, tensors)
    with torch.no_grad():
        _prepare_optimizer(engine, tensors, numbers["group_steps"])
        parameters = dict(engine.module.named_parameters())
        for key, tensor in tensors.items():
            kind, _, name = key.partition("/")
            _set_whole(engine, parameters[name], kind, tensor)
    _spread_master_weights(engine)
    _restore_scaler(engine, numbers["scaler"])


def _check_model(engine, tensors: dict[str, Tensor]) -> None:
    # With ZeRO-3, a parameter holds only this rank's part, and ds_shape is that of the whole.
    ours = {
        f"{WEIGHT}/{name}": tuple(getattr(parameter, "ds_shape", parameter.shape))
        for name, parameter in engine.module.named_parameters()
    }
    theirs = {name: tuple(t.shape) for name, t in tensors.items() if name.startswith(f"{WEIGHT}/")}
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise ValueError(
                f"the checkpoint is of another model: {name.partition('/')[2]} is "
                f"{theirs.get(name, 'missing')} in it and {ours.get(name, 'missing')} here"
            )


# --- tensors ---------------------------------------------------------------------------------


def _state_kinds(engine, parameter: nn.Parameter) -> list[str]:
    """Returns the names of the optimizer's tensors of a parameter; with ZeRO, of all parameters."""
    if not engine.zero_optimization():
        state = engine.optimizer.state.get(parameter, {})
        return [kind for kind, value in state.items() if isinstance(value, Tensor)]
    flat = next(iter(_flat_partitions(engine)))
    state = _base_optimizer(engine).state.get(flat, {})
    return [
        kind
        for kind, value in state.items()
        if kind == STEP or (isinstance(value, Tensor) and value.shape == flat.shape)
    ]


def _whole(engine, parameter: Any, kind: str) -> Tensor:
    """Returns a parameter, or a tensor of its optimizer state, from the partitions of all ranks."""
    key = None if kind == WEIGHT else kind
    if kind == STEP and engine.zero_optimization():
        flat = next(iter(_flat_partitions(engine)))
        return torch.as_tensor(_base_optimizer(engine).state[flat][STEP], dtype=torch.float32)
    if engine.zero_optimization_stage() == 3:
        return parameter._z3_optimizer.get_full_hp_param(parameter, key)
    if engine.zero_optimization():
        return parameter.get_full_hp_param(key)
    return parameter if key is None else engine.optimizer.state[parameter][kind]


def _set_whole(engine, parameter: Any, kind: str, value: Tensor) -> None:
    key = None if kind == WEIGHT else kind
    if kind == STEP and engine.zero_optimization():
        return  # set for the whole partition
    if engine.zero_optimization_stage() == 3:
        _set_partition(parameter, key, value)
    elif engine.zero_optimization():
        parameter.set_full_hp_param(value, key)
    elif key is None:
        parameter.copy_(value)
    else:
        # Fused optimizers need their step counts on the parameter's device, too.
        engine.optimizer.state[parameter][kind] = value.to(parameter.device, copy=True)


def _set_partition(parameter: Any, key: str | None, value: Tensor) -> None:
    """Sets this rank's part of a ZeRO-3 parameter.

    The last part may be padded; DeepSpeed's own setter (0.19) then reads beyond the end.
    """
    optimizer = parameter._z3_optimizer
    part, _ = optimizer._get_fp32_opt_state_partition(parameter, False, key)
    begin = optimizer._get_param_partition_rank(parameter) * part.numel()
    piece = value.flatten()[begin : begin + part.numel()]
    part.zero_()
    part[: len(piece)].copy_(piece)


# --- the engine's optimizer --------------------------------------------------------------------


def _base_optimizer(engine) -> torch.optim.Optimizer:
    return engine.optimizer.optimizer if engine.zero_optimization() else engine.optimizer


def _flat_partitions(engine) -> list[Tensor]:
    """Returns the parameters of ZeRO's optimizer: this rank's part of all weights, flattened."""
    names = (  # ZeRO 3; 1 and 2; 1 in bf16 with gradients in fp32
        *("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups"),
        "fp32_groups_flat_partition",
    )
    return next(
        getattr(engine.optimizer, name) for name in names if hasattr(engine.optimizer, name)
    )


def _prepare_optimizer(engine, tensors: dict[str, Tensor], steps: list[int | None]) -> None:
    """Prepares a new optimizer, without state, for `_set_whole`."""
    optimizer = _base_optimizer(engine)
    for group, step in zip(optimizer.param_groups, steps, strict=False):
        if step is not None:
            group[STEP] = step
    if engine.zero_optimization():
        kinds = {name.partition("/")[0] for name in tensors} - {WEIGHT, STEP}
        counts = [float(value) for name, value in tensors.items() if name.startswith(f"{STEP}/")]
        for flat in _flat_partitions(engine):
            state = optimizer.state[flat]
            state.update({kind: torch.zeros_like(flat) for kind in kinds})
            if counts:
                state[STEP] = torch.tensor(counts[0], dtype=torch.float32, device=flat.device)
        _link_optimizer_state(engine)
    else:
        optimizer.state.clear()


def _link_optimizer_state(engine) -> None:
    """Assigns the parts of the optimizer's state to the parameters, with ZeRO 1 and 2.

    DeepSpeed can do so only once the state exists, that is, after the first step.
    """
    if engine.zero_optimization_stage() not in (1, 2):
        return
    states = (_base_optimizer(engine).state.get(flat) for flat in _flat_partitions(engine))
    if all(states):
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()


def _spread_master_weights(engine) -> None:
    """Copies the fp32 weights of the partitions to the weights of the model."""
    stage, optimizer = engine.zero_optimization_stage(), engine.optimizer
    if stage == 3:
        for number in range(len(optimizer.fp32_partitioned_groups_flat)):
            optimizer._reassign_or_swap_out_partitioned_parameters(number)
        optimizer.checkpoint_event_epilogue()
    elif stage:
        optimizer.update_lp_params()


# --- the loss scaler ---------------------------------------------------------------------------


def _scaler_state(engine) -> dict[str, Any]:
    if engine.torch_autocast_z0_gradscaler:
        return engine.torch_autocast_z0_gradscaler.state_dict()
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    return {name: getattr(scaler, name) for name in SCALER_FIELDS if hasattr(scaler, name)}


def _restore_scaler(engine, state: dict[str, Any]) -> None:
    """Ignores the state of a run in another precision."""
    if engine.torch_autocast_z0_gradscaler:
        if "_growth_tracker" in state:
            engine.torch_autocast_z0_gradscaler.load_state_dict(state)
        return
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    for name in SCALER_FIELDS:
        if name in state and hasattr(scaler, name):
            setattr(scaler, name, state[name])
