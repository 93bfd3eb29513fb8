"""What training on the CPU asks of the libraries below torch."""

import ctypes
import os

# Parameters of glibc's mallopt, from its malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
# Turns of OpenMP's waiting threads, some microseconds: enough to meet the next of many small
# operations awake. Against sleeping at once, 1000 and 3000 made steps of 4 x 256 12 % and 20 %
# shorter on two quiet cores, and 15 % and 31 % longer beside a program that wanted one of them.
SPIN_COUNT = 2000


def keep_freed_memory() -> None:
    """Has glibc keep what is freed for the next step, which would else get fresh pages each time.

    Does nothing where there is no glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def spin_briefly() -> None:
    """Has threads that wait for the others give up their core soon.

    To be called before torch is imported. OMP_WAIT_POLICY or GOMP_SPINCOUNT in the environment win.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_COUNT))
