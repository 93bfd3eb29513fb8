"""Sections of the check, the most telling first."""

from benchmarks.gpu_check import attention, machine, numbers, ranks, speed, stages
from benchmarks.gpu_check.worker import Section

SECTIONS = {
    "machine": Section("driver, torch, card, matrix products", 40, machine.checks),
    "stage": Section("main.py: trains on the GPU, SIGTERM, resume", 120, stages.stage_checks),
    "numbers": Section("losses beside the CPU's, overflows, host waits", 100, numbers.checks),
    "attention": Section("attention by backend and length", 50, attention.checks),
    "speed": Section("samples/s, idle share, kernels", 160, speed.checks),
    "memory": Section("a micro batch that does not fit", 50, stages.memory_checks),
    "finetuning": Section("MRPC", 50, stages.finetuning_checks),
    "ranks": Section("two ranks, and a killed one", 90, ranks.checks),
}
