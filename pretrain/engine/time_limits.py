"""How long the parts of a run wait for each other, in seconds.

They fit together: whoever can say what is wrong speaks before anybody gives up, and whoever has
something to save is waited for. tests/pretrain/engine/test_time_limits.py holds them to that.
"""

# For other ranks in a collective, before torch ends this one. That covers what one rank does alone:
# word embeddings from the data, a checkpoint on a slow disk, the export. torch's own 10 minutes for
# NCCL do not. It is no way to notice that a rank has died: pretrain.engine.peers does that at once.
FOR_OTHER_RANKS = 3600
# Silence after which a rank writes its stacks (pretrain.engine.watchdog): before the first step,
# which comes after reading, word embeddings and compilation; later, where a file system or a busy
# server may hold up a batch for minutes; and at most, however slow the steps are.
SILENT_AT_FIRST, SILENT_LATER, SILENT_AT_MOST = 1200, 600, 3000
# The stage gives all ranks time to write them, a second after each other.
TO_WRITE_STACKS = 60.0

# Between two agreements of the ranks on whether one of them was sent a signal.
BETWEEN_AGREEMENTS = 1.0
# While a checkpoint is written that training waits for, the first rank says so this often.
BETWEEN_WORDS_ON_SAVING = 10.0
# The stage, after SIGTERM to the ranks, waits as long as it hears from them; then SIGKILL.
SILENT_WHILE_ENDING = 35.0

# DeepSpeed's launcher looks at its ranks this often. When one has failed, or when it is sent
# SIGTERM itself, it sends SIGTERM to one rank after the other, and SIGKILL after that time to each.
LAUNCHER_LOOKS, LAUNCHER_KILLS = 1.0, 30.0
# A rank that ends because another has died waits, so that the launcher sees that one first.
BEHIND_THE_FIRST_TO_END = 3.0
# A rank that fails gives `pretrain.engine.peers` this time to find out that another has died
# before.
TO_NOTICE_A_DEATH = 0.5
# For the ranks' connections to the first one.
TO_CONNECT = 60.0
# A server that does not answer for so long is taken for lost. The kernel asks it so often, which
# firewalls hear, too: some forget a connection that is quiet for minutes.
LOST_SERVER, BETWEEN_PROBES = 600, 30
