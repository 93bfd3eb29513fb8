"""BERT's masked language modelling, over whole arrays of samples at once.

Of the tokens that may be predicted 15 % are chosen; of these 80 % become [MASK], 10 % a random
token, and 10 % stay as they are (Devlin et al., 2018, section 3.1).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

MASKED_SHARE, RANDOM_SHARE = 0.8, 0.1


@dataclass(frozen=True)
class Masking:
    """What masking needs to know.

    banned_ids: special and unused tokens: never predicted, never a random replacement.
    """

    mask_id: int
    vocab_size: int
    banned_ids: tuple[int, ...]
    masked_lm_prob: float
    max_predictions_per_seq: int


def mask_tokens(
    input_ids: "np.ndarray", masking: Masking, rng: "np.random.Generator"
) -> tuple["np.ndarray", "np.ndarray", "np.ndarray"]:
    """Masks samples [N, L] (padding and special tokens are known by their ids).

    Returns masked input_ids [N, L], masked_lm_positions [N, P] (int64, ascending) and
    masked_lm_ids [N, P] (dtype of input_ids); both are 0 after a row's last prediction, of which
    it has min(P, max(1, round(n * masked_lm_prob))) for its n tokens that may be predicted.
    """
    import numpy as np

    allowed = np.ones(masking.vocab_size, dtype=bool)
    allowed[list(masking.banned_ids)] = False
    positions, chosen = choose_positions(allowed[input_ids], masking, rng)
    original = np.take_along_axis(input_ids, positions, axis=1)
    draw = rng.random(positions.shape, dtype=np.float32)
    random_ids = rng.choice(np.flatnonzero(allowed).astype(input_ids.dtype), positions.shape)
    replacement = np.where(draw < MASKED_SHARE + RANDOM_SHARE, random_ids, original)
    replacement = np.where(draw < MASKED_SHARE, masking.mask_id, replacement)
    masked = input_ids.copy()
    rows = np.nonzero(chosen)[0]
    masked[rows, positions[chosen]] = replacement[chosen]
    return masked, positions, np.where(chosen, original, 0).astype(input_ids.dtype)


def choose_positions(
    candidates: "np.ndarray", masking: Masking, rng: "np.random.Generator"
) -> tuple["np.ndarray", "np.ndarray"]:
    """Positions [N, P] to predict out of candidates [N, L] (bool), and which of them count."""
    import numpy as np

    num_samples, length = candidates.shape
    num_candidates = candidates.sum(axis=1)
    wanted = np.maximum(1, np.rint(num_candidates * masking.masked_lm_prob)).astype(np.int64)
    wanted = np.minimum(wanted, np.minimum(num_candidates, masking.max_predictions_per_seq))
    scores = rng.random((num_samples, length), dtype=np.float32)
    scores[~candidates] = 2.0  # after all candidates
    width = min(masking.max_predictions_per_seq, length)
    nearest = np.argpartition(scores, width - 1, axis=1)[:, :width]
    order = np.argsort(np.take_along_axis(scores, nearest, axis=1), axis=1, kind="stable")
    positions = np.take_along_axis(nearest, order, axis=1)
    positions[np.arange(width) >= wanted[:, None]] = length  # sorts behind the chosen ones
    positions.sort(axis=1)
    padded = np.zeros((num_samples, masking.max_predictions_per_seq), dtype=np.int64)
    padded[:, :width] = np.where(positions < length, positions, 0)
    chosen = np.arange(masking.max_predictions_per_seq) < wanted[:, None]
    return padded, chosen
