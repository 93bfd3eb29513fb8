"""Time limits between the parts of a run, in seconds.

They depend on each other: an error is reported before any part gives up, and a rank has time to
save. tests/pretrain/engine/test_time_limits.py checks this.
"""

# For other ranks in a collective, before torch ends this one. It covers the work of a single rank,
# such as word embeddings from the data, a checkpoint on a slow disk or the export; torch's default
# of 10 minutes for NCCL does not. pretrain.engine.peers detects dead ranks without it.
FOR_OTHER_RANKS = 3600
# Silence after which a rank writes its stacks (pretrain.engine.watchdog): before the first step,
# that is, during reading, word embeddings and compilation; later, since a file system or a busy
# server may delay a batch for minutes; and the maximum, for slow steps.
SILENT_AT_FIRST, SILENT_LATER, SILENT_AT_MOST = 1200, 600, 3000
# Additional time before the stage reports: the ranks write one second after each other.
TO_WRITE_STACKS = 60.0

# Between two agreements of the ranks on a received signal.
BETWEEN_AGREEMENTS = 1.0
# Between two lines of rank 0 while training waits for a checkpoint to be written.
BETWEEN_SAVING_MESSAGES = 10.0
# Silence of the ranks, after SIGTERM, before the stage sends SIGKILL.
SILENT_WHILE_ENDING = 35.0

# Interval at which DeepSpeed's launcher polls its ranks. When one has failed, or on SIGTERM, it
# sends SIGTERM to one rank after the other, and SIGKILL after the second time limit.
LAUNCHER_LOOKS, LAUNCHER_KILLS = 1.0, 30.0
# Wait of the surviving ranks before they end: the launcher must see the dead rank first.
BEFORE_SURVIVORS_END = 3.0
# Wait of a failing rank for `pretrain.engine.peers` to report an earlier death.
TO_NOTICE_A_DEATH = 0.5
# For the ranks' connections to rank 0.
TO_CONNECT = 60.0
# A silent server counts as lost after the first limit. The kernel probes it at the second interval,
# which also keeps firewalls from dropping an idle connection.
LOST_SERVER, BETWEEN_PROBES = 600, 30
