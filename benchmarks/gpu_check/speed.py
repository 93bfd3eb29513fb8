"""How fast is the real loop, does torch.compile make it faster, and is BertForMaskedLM slower?"""

import time
from argparse import Namespace
from collections.abc import Sequence
from statistics import median

import torch

from benchmarks.contestants import Size, build_bert, model_args, read_batches, usual_inputs
from benchmarks.gpu_check.outcome import Outcome, failed, judged
from benchmarks.gpu_check.runs import Bench, run_loop, run_settings
from benchmarks.real_loop import Enough
from benchmarks.training_speed import take_turns
from pretrain.compiling import compile_if_possible
from pretrain.data import MicroBatch
from pretrain.engine import build_engine, compute_dtype
from pretrain.model import build_model
from pretrain.optimizers import build_optimizer

SLICE_STEPS = 8  # more than the loop reads ahead, so that it reads in its own time
NUM_SLICES = 6
COMPILED_LAYERS = 4  # compiling takes a second or two for each
MOST_RECOMPILATIONS = 4
PRINT_STEPS = 10
MEASURED_FROM = 30  # the first line of metrics without a step that warms up
THROUGHPUT_SECONDS = 8.0
MOST_WAITING = 0.05  # share of the time in which there may be no batch

# --- torch.compile -----------------------------------------------------------------------------


def check_compile(bench: Bench) -> Outcome:
    """torch.compile works, is faster, and does not begin anew with every batch."""
    args = engine_args(bench, Size(min(bench.size.layers, COMPILED_LAYERS), bench.size.hidden))
    batches = read_batches(bench.dataset, bench.batch, SLICE_STEPS)
    engines = {name: new_engine(bench, args) for name in ("plain", "compiled")}
    said: list[str] = []
    dtype, begin, before = compute_dtype(args.precision), time.perf_counter(), num_graphs()
    if not compile_if_possible(engines["compiled"], batches[0], dtype, said.append):
        advice = "training goes on without it; it needs a C compiler and Python's headers"
        return failed("; ".join(said), advice)
    first = num_graphs() - before
    for engine in engines.values():
        take_steps(bench, engine, batches)
    seconds, again = time.perf_counter() - begin, num_graphs() - before - first
    times = take_turns(
        {
            name: lambda _, engine=engine: take_steps(bench, engine, batches)
            for name, engine in engines.items()
        },
        NUM_SLICES,
    )
    ratio = median(p / c for p, c in zip(times["plain"], times["compiled"], strict=True))
    num_shapes = len({batch.num_predictions for batch in batches})
    seen = (
        f"works, {args.num_hidden_layers} layers in {seconds:.0f} s; a step is {ratio:.2f} times "
        f"as fast; {first} graphs, {again} more for {num_shapes} numbers of predictions"
    )
    numbers = {"speedup": ratio, "graphs": first, "recompilations": again, "seconds": seconds}
    hint = "run with TORCH_LOGS=recompiles, and report what it says"
    return judged(seen, hint if again > MOST_RECOMPILATIONS else "", **numbers)


def engine_args(bench: Bench, size: Size) -> Namespace:
    """Flags of a run, complete, from which an engine can be built."""
    args = model_args(size, dropout=0.1)
    args.train_batch_size = args.train_micro_batch_size_per_gpu = bench.batch
    args.precision, args.multiplies_in_bf16 = bench.precisions[0], False
    return args


def new_engine(bench: Bench, args: Namespace):
    """The real engine around a new model, always with the same weights."""
    torch.manual_seed(0)
    model = build_model(args).to(bench.device)
    engine = build_engine(args, model, build_optimizer(model, args), 1)
    engine.train()
    return engine


def take_steps(bench: Bench, engine, batches: Sequence[MicroBatch]) -> None:
    """A step of the engine on each batch, without the loop; returns when the device is done."""
    for batch in batches:
        engine.set_gradient_accumulation_boundary(True)
        loss = engine(*batch.inputs(engine.device))
        engine.backward(loss, scale_wrt_gas=False)
        engine.step()
    bench.synchronize()


def num_graphs() -> int:
    """Graphs that torch.compile has made in this process."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]


# --- throughput --------------------------------------------------------------------------------


class UsualTraining:
    """BertForMaskedLM of the same size as one would train it: autocast, and a fused AdamW."""

    def __init__(self, size: Size, device: torch.device, precision: str):
        torch.manual_seed(0)
        self.device, self.dtype = device, compute_dtype(precision)
        self.model = build_bert(size, 0.1).model.to(device).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def step(self, inputs: dict[str, torch.Tensor]) -> None:
        inputs = {name: value.to(self.device, non_blocking=True) for name, value in inputs.items()}
        half = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype if half else None, enabled=half):
            loss = self.model(**inputs).loss
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()


class ThroughputWatch:
    """Lets a run go for some seconds, then has it and a usual training take turns.

    real, usual: seconds of slices of SLICE_STEPS steps. peak_memory: bytes, before the turns.
    """

    def __init__(self, bench: Bench):
        self.bench = bench
        self.real: list[float] = []
        self.usual: list[float] = []
        self.begin = 0.0  # of what is measured, then of a slice
        self.first_turn = 0  # the step after which they begin
        self.peak_memory = 0

    def __call__(self, run_) -> None:
        step = run_.budget.step
        is_over = time.perf_counter() - self.begin >= THROUGHPUT_SECONDS
        if self.first_turn:
            if (step - self.first_turn) % SLICE_STEPS == 0:
                self._take_turn()
        elif step == self.bench.warm_up:
            self.begin = time.perf_counter()
        elif step >= MEASURED_FROM and step % PRINT_STEPS == 0 and is_over:
            self._prepare(run_, step)

    def _prepare(self, run_, step: int) -> None:
        self.first_turn = step
        batches = read_batches(self.bench.dataset, self.bench.batch, SLICE_STEPS)
        self.inputs = [usual_inputs(batch, takes_segments=True) for batch in batches]
        if self.bench.on_gpu:
            self.peak_memory = torch.cuda.max_memory_allocated(self.bench.device)
            self.inputs = [{k: v.pin_memory() for k, v in one.items()} for one in self.inputs]
        self.training = UsualTraining(self.bench.size, self.bench.device, run_.args.precision)
        self._usual_slice()  # warms up
        self.begin = time.perf_counter()

    def _take_turn(self) -> None:
        self.bench.synchronize()
        self.real.append(time.perf_counter() - self.begin)
        self.usual.append(self._usual_slice())
        if len(self.real) == NUM_SLICES:
            raise Enough
        self.begin = time.perf_counter()

    def _usual_slice(self) -> float:
        begin = time.perf_counter()
        for inputs in self.inputs:
            self.training.step(inputs)
        self.bench.synchronize()
        return time.perf_counter() - begin

    @property
    def times_usual(self) -> float:
        """How many times faster the real loop is, in the median of the turns."""
        return median(usual / real for real, usual in zip(self.real, self.usual, strict=True))


def check_throughput(bench: Bench) -> Outcome:
    """The speed of the real loop, alone and against BertForMaskedLM's on the same batches."""
    before = 0
    if bench.on_gpu:
        torch.cuda.reset_peak_memory_stats(bench.device)
        before = torch.cuda.memory_allocated(bench.device)
    watch = ThroughputWatch(bench)
    settings = run_settings(bench, "throughput", bench.size, print_steps=PRINT_STEPS)
    lines = run_loop(bench, settings, watch)
    measured = [line for line in lines if MEASURED_FROM <= line["step"] <= watch.first_turn]
    names = ("samples_per_second", "tokens_per_second", "peak_share", "waiting_share")
    numbers = {name: median(line[name] for line in measured) for name in names}
    numbers["peak_memory_gb"] = (watch.peak_memory - before) / 1e9
    numbers |= {"times_usual": watch.times_usual, "real": watch.real, "usual": watch.usual}
    seen = (
        f"{bench.size}, batch {bench.batch}: {numbers['samples_per_second']:,.0f} samples/s, "
        f"{numbers['tokens_per_second']:,.0f} tokens/s, {numbers['peak_share']:.0%} of the matmul "
        f"peak, {numbers['peak_memory_gb']:.1f} GB, {numbers['waiting_share']:.1%} waiting for "
        f"data; {numbers['times_usual']:.2f} times BertForMaskedLM"
    )
    problems = []
    if numbers["waiting_share"] > MOST_WAITING:
        problems.append("reading is too slow: put the dataset on a faster disk, or MASKING: static")
    if numbers["times_usual"] < 1:
        problems.append("slower than transformers: see the kernels of check optimizer in --json")
    return judged(seen, "; ".join(problems), **numbers)
