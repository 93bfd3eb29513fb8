"""What a DeepSpeed engine has learned, as whole tensors by name: the same for any number of ranks,
any ZeRO stage and any precision.

The tensors are the weights in fp32 (`weight/<parameter>`) and each tensor that the optimizer keeps
for a parameter (`exp_avg/<parameter>`, `step/<parameter>`, ...). The rest are a few numbers: step
counts that the optimizer keeps for a group, and the loss scaler's state.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.engine import distributed

WEIGHT, STEP = "weight", "step"
# What the two loss scalers of half precision remember.
SCALER_FIELDS = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


def gather_state(engine) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, numbers) of the engine; every rank must call it, rank 0 alone gets the tensors.

    The tensors are copies on the CPU.
    """
    _link_optimizer_state(engine)
    tensors = {}
    for name, tensor in _whole_tensors(engine):
        if distributed.rank() == 0:
            tensors[name] = tensor.detach().to("cpu", copy=True).contiguous()
    return tensors, {"group_steps": _group_steps(engine), "scaler": _scaler_state(engine)}


def gather_weights(engine) -> dict[str, Tensor]:
    """The fp32 weights by the names of the model's parameters, on rank 0; every rank must call."""
    weights = {}
    for name, parameter in engine.module.named_parameters():
        value = _whole(engine, parameter, WEIGHT)
        if distributed.rank() == 0:
            weights[name] = value.detach().float().cpu()
    return weights


def restore_state(engine, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    """Puts a gathered state into an engine of the same model and optimizer.

    Raises ValueError if the tensors are those of another model.
    """
    _check_model(engine, tensors)
    with torch.no_grad():
        _prepare_optimizer(engine, tensors, numbers["group_steps"])
        for name, parameter in engine.module.named_parameters():
            for kind in _kinds(tensors, name):
                _set_whole(engine, parameter, kind, tensors[f"{kind}/{name}"])
    _spread_master_weights(engine)
    _restore_scaler(engine, numbers["scaler"])


def _check_model(engine, tensors: dict[str, Tensor]) -> None:
    ours = {f"{WEIGHT}/{name}": _shape(p) for name, p in engine.module.named_parameters()}
    theirs = {name: tuple(t.shape) for name, t in tensors.items() if name.startswith(f"{WEIGHT}/")}
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise ValueError(
                f"the checkpoint is of another model: {name.partition('/')[2]} is "
                f"{theirs.get(name, 'not there')} in it and {ours.get(name, 'not there')} here"
            )


def _shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """Of the whole parameter; with ZeRO-3, what is here is a part of it."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


# --- tensors ---------------------------------------------------------------------------------


def _whole_tensors(engine) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in engine.module.named_parameters():
        yield f"{WEIGHT}/{name}", _whole(engine, parameter, WEIGHT)
        for kind in _state_kinds(engine, parameter):
            yield f"{kind}/{name}", _whole(engine, parameter, kind)


def _kinds(tensors: dict[str, Tensor], name: str) -> list[str]:
    """The kinds of tensors that are kept for a parameter."""
    return [kind for kind, _, other in (key.partition("/") for key in tensors) if other == name]


def _state_kinds(engine, parameter: nn.Parameter) -> list[str]:
    """Names of the optimizer's tensors of a parameter; with ZeRO, those of all parameters."""
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


def _whole(engine, parameter: nn.Parameter, kind: str) -> Tensor:
    """A parameter, or what the optimizer keeps for it, out of the partitions of all ranks."""
    key = None if kind == WEIGHT else kind
    if kind == STEP and engine.zero_optimization():
        flat = next(iter(_flat_partitions(engine)))
        return torch.as_tensor(_base_optimizer(engine).state[flat][STEP], dtype=torch.float32)
    if engine.zero_optimization_stage() == 3:
        return parameter._z3_optimizer.get_full_hp_param(parameter, key)
    if engine.zero_optimization():
        return parameter.get_full_hp_param(key)
    return parameter if key is None else engine.optimizer.state[parameter][kind]


def _set_whole(engine, parameter: nn.Parameter, kind: str, value: Tensor) -> None:
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
        engine.optimizer.state[parameter][kind] = _placed(value, parameter)


def _placed(value: Tensor, parameter: nn.Parameter) -> Tensor:
    """On the parameter's device; fused optimizers want their step counts there too."""
    return value.to(parameter.device, copy=True)


def _set_partition(parameter: nn.Parameter, key: str | None, value: Tensor) -> None:
    """This rank's part of a ZeRO-3 parameter, whose last part may be padded.

    DeepSpeed's own setter (0.19) reads beyond the end where it is.
    """
    optimizer = parameter._z3_optimizer
    part, _ = optimizer._get_fp32_opt_state_partition(parameter, False, key)
    begin = optimizer._get_param_partition_rank(parameter) * part.numel()
    piece = value.flatten()[begin : begin + part.numel()]
    part.zero_()
    part[: len(piece)].copy_(piece)


# --- the optimizer behind the engine -----------------------------------------------------------


def _base_optimizer(engine) -> torch.optim.Optimizer:
    return engine.optimizer.optimizer if engine.zero_optimization() else engine.optimizer


def _flat_partitions(engine) -> list[Tensor]:
    """With ZeRO, the optimizer works on these: this rank's part of all weights, flattened."""
    names = (  # ZeRO 3; 1 and 2; 1 in bf16 with gradients in fp32
        *("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups"),
        "fp32_groups_flat_partition",
    )
    return next(
        getattr(engine.optimizer, name) for name in names if hasattr(engine.optimizer, name)
    )


def _group_steps(engine) -> list[int | None]:
    """The step counts of optimizers that count by group."""
    return [group.get(STEP) for group in _base_optimizer(engine).param_groups]


def _prepare_optimizer(engine, tensors: dict[str, Tensor], steps: list[int | None]) -> None:
    """Makes room for the state to come; a new optimizer has none yet."""
    optimizer = _base_optimizer(engine)
    for group, step in zip(optimizer.param_groups, steps, strict=False):
        if step is not None:
            group[STEP] = step
    if engine.zero_optimization():
        kinds = {name.partition("/")[0] for name in tensors} - {WEIGHT, STEP}
        counts = [float(value) for name, value in tensors.items() if name.startswith(f"{STEP}/")]
        _make_flat_states(engine, optimizer, kinds, counts[0] if counts else None)
    else:
        optimizer.state.clear()


def _make_flat_states(engine, optimizer, kinds: set[str], step: float | None) -> None:
    for flat in _flat_partitions(engine):
        state = optimizer.state[flat]
        state.update({kind: torch.zeros_like(flat) for kind in kinds})
        if step is not None:
            state[STEP] = torch.tensor(step, dtype=torch.float32, device=flat.device)
    _link_optimizer_state(engine)


def _link_optimizer_state(engine) -> None:
    """Tells ZeRO 1 and 2 which part of the optimizer's state is which parameter's.

    They know the state by name only once it is there, that is, after the first step.
    """
    if engine.zero_optimization_stage() not in (1, 2):
        return
    states = (_base_optimizer(engine).state.get(flat) for flat in _flat_partitions(engine))
    if all(states):
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()


def _spread_master_weights(engine) -> None:
    """From the fp32 weights of the partitions to the weights that the model computes with."""
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
    """The scale of a run in another precision is of no use and is left out."""
    if engine.torch_autocast_z0_gradscaler:
        if "_growth_tracker" in state:
            engine.torch_autocast_z0_gradscaler.load_state_dict(state)
        return
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    for name in SCALER_FIELDS:
        if name in state and hasattr(scaler, name):
            setattr(scaler, name, state[name])
