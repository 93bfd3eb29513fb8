"""Settings of glibc and OpenMP for training on the CPU."""

import ctypes
import os

# Parameters of glibc's mallopt, from its malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
# Spins of OpenMP's waiting threads, a few microseconds: they are still awake for the next of many
# small operations. Compared with sleeping at once, 1000 and 3000 spins made steps of 4 x 256 12 %
# and 20 % shorter on two idle cores, and 15 % and 31 % longer if another program used one of them.
SPIN_COUNT = 2000


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next step, since fresh pages are slow.

    Does nothing without glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def spin_briefly() -> None:
    """Makes OpenMP's waiting threads release their cores soon; call it before the import of torch.

    OMP_WAIT_POLICY and GOMP_SPINCOUNT in the environment take precedence.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_COUNT))
