"""BERT's masked language modelling, on whole arrays of samples.

15 % of the allowed tokens are chosen; of these 80 % become [MASK], 10 % a random token, and 10 %
stay (Devlin et al., 2018, section 3.1). Whole-word masking chooses words instead, and predicts all
of their tokens.

The random numbers of a sample depend on a key and the sample's number alone, so its masks are the
same in any block, batch or rank.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

SKIPPED_WORDS = 4  # drawn words longer than the remaining predictions of the row
DRAWS_PER_COUNTER = 8  # 32-bit numbers from Philox4x64 for each value of its counter


@dataclass(frozen=True)
class Masking:
    """The settings of masking, in plain values for masking.json.

    banned_ids: special and unused tokens, neither predicted nor random replacements.
    continuing_ids: tokens that continue a word, for whole-word masking; empty without it.
    """

    mask_id: int
    vocab_size: int
    banned_ids: Sequence[int]
    continuing_ids: Sequence[int]
    masked_lm_prob: float
    max_predictions_per_seq: int
    mask_token_share: float
    random_token_share: float


class MaskedTokens(NamedTuple):
    """Masked input_ids [N, L], masked_lm_positions (uint16, ascending) and masked_lm_ids [N, P].

    Positions and ids are 0 after a row's last prediction.
    """

    input_ids: "np.ndarray"
    masked_lm_positions: "np.ndarray"
    masked_lm_ids: "np.ndarray"


class Masker:
    """Masks blocks of samples.

    A row with n allowed tokens gets min(P, max(1, round(n * rate))) predictions, or fewer with
    whole words: up to SKIPPED_WORDS words that do not fit are skipped. If no word fits, the first
    ones are masked in part.
    """

    def __init__(self, masking: Masking):
        import numpy as np

        self.masking = masking
        self.allowed = np.ones(masking.vocab_size, dtype=bool)
        self.allowed[list(masking.banned_ids)] = False
        self.replacements = np.flatnonzero(self.allowed)
        self.continues = np.zeros(masking.vocab_size, dtype=bool)
        self.continues[list(masking.continuing_ids)] = True

    def mask(
        self,
        input_ids: "np.ndarray",
        key: "np.ndarray",
        first_sample: int = 0,
        rates: "float | np.ndarray | None" = None,
    ) -> MaskedTokens:
        """Masks input_ids [N, L]; padding and special tokens are banned ids.

        key: from `masking_key`. first_sample: the number of the first row. rates: the share to
        predict of each row's tokens, float64 [N] or one for all; default: masked_lm_prob. Except
        with whole words, a row's predictions at a lower rate are a subset of those at a higher one.
        """
        import numpy as np

        num_samples, length = input_ids.shape
        width = self.masking.max_predictions_per_seq
        draws = random_draws(key, first_sample, num_samples, length + width)
        rates = self.masking.masked_lm_prob if rates is None else rates
        positions, chosen = self._choose(input_ids, draws[:, :length], rates)
        original = np.where(chosen, np.take_along_axis(input_ids, positions, axis=1), 0)
        rows = np.nonzero(chosen)[0]
        masked = input_ids.copy()
        masked[rows, positions[chosen]] = self._replace(original[chosen], draws[:, length:][chosen])
        return MaskedTokens(masked, np.where(chosen, positions, 0).astype(np.uint16), original)

    def _replace(self, original: "np.ndarray", draws: "np.ndarray") -> "np.ndarray":
        """Returns the replacements of chosen tokens [n]. draws: uint32 [n]."""
        import numpy as np

        share = draws * 2.0**-32  # uniform in [0, 1)
        masked_share = self.masking.mask_token_share
        random_share = self.masking.random_token_share
        result = original.copy()
        is_random = (share >= masked_share) & (share < masked_share + random_share)
        # Within its range the draw is uniform again, with about 10^8 values to choose a token.
        place = (share[is_random] - masked_share) / (random_share or 1) * len(self.replacements)
        place = np.minimum(place.astype(np.int64), len(self.replacements) - 1)
        result[is_random] = self.replacements[place]
        result[share < masked_share] = self.masking.mask_id
        return result

    def _choose(
        self, input_ids: "np.ndarray", draws: "np.ndarray", rates: "float | np.ndarray"
    ) -> tuple["np.ndarray", "np.ndarray"]:
        """Returns ascending positions [N, P] (int64), and a mask [N, P] of the predictions."""
        import numpy as np

        num_samples, length = input_ids.shape
        most = self.masking.max_predictions_per_seq
        candidates = self.allowed[input_ids]
        available = candidates.sum(axis=1)
        wanted = np.rint(available * rates).astype(np.int64)
        wanted = np.minimum(np.maximum(wanted, 1), np.minimum(available, most))
        width = min(most, length)
        positions = np.full((num_samples, most), length)
        if self.masking.continuing_ids:
            continues = self.continues[input_ids]
            positions[:, :width] = _rank_words(candidates, continues, draws, wanted)[:, :width]
        else:
            positions[:, :width] = _rank_tokens(candidates, draws, wanted, width)
        positions.sort(axis=1)
        chosen = positions < length
        positions[~chosen] = 0
        return positions, chosen


def _rank_tokens(
    candidates: "np.ndarray", draws: "np.ndarray", wanted: "np.ndarray", width: int
) -> "np.ndarray":
    """Returns positions [N, width] of the `wanted` [N] candidates with the lowest draws, else L."""
    import numpy as np

    length = candidates.shape[1]
    position_bits = np.uint32((1 << (length - 1).bit_length()) - 1)
    columns = np.arange(length, dtype=np.uint32)
    # The position replaces the last bits of the draw, so a plain sort is enough.
    ranks = np.where(candidates, draws & ~position_bits | columns, np.uint32(0xFFFFFFFF))
    ranks.sort(axis=1)
    return np.where(columns[:width] < wanted[:, None], ranks[:, :width] & position_bits, length)


def _rank_words(
    candidates: "np.ndarray", continues: "np.ndarray", draws: "np.ndarray", wanted: "np.ndarray"
) -> "np.ndarray":
    """Returns positions [N, L] like `_rank_tokens`, of whole words by their first token's draw."""
    import numpy as np

    length = candidates.shape[1]
    columns = np.arange(length)
    after_candidate = np.zeros_like(candidates)
    after_candidate[:, 1:] = candidates[:, :-1]
    first = np.where(continues & after_candidate, 0, columns)
    first = np.maximum.accumulate(first, axis=1).astype(np.uint64)
    word_draws = np.take_along_axis(draws, first.astype(np.int64), axis=1).astype(np.uint64)
    ranks = word_draws << np.uint64(32) | first << np.uint64(16) | columns.astype(np.uint64)
    ranks = np.where(candidates, ranks, np.uint64(0xFFFFFFFFFFFFFFFF))
    ranks.sort(axis=1)
    words, positions = ranks >> np.uint64(16), (ranks & np.uint64(0xFFFF)).astype(np.int64)
    candidates = columns < candidates.sum(axis=1)[:, None]
    fits = candidates.copy()
    for _ in range(SKIPPED_WORDS):
        fits &= words != _first_beyond(fits, words, wanted)
    fits &= (np.cumsum(fits, axis=1) <= wanted[:, None]) & (
        words != _first_beyond(fits, words, wanted)
    )
    nothing = ~fits.any(axis=1, keepdims=True)
    fits |= nothing & candidates & (columns < wanted[:, None])
    return np.sort(np.where(fits, positions, length), axis=1)


def _first_beyond(fits: "np.ndarray", words: "np.ndarray", wanted: "np.ndarray") -> "np.ndarray":
    """Returns the first word [N, 1] in `fits` to exceed the `wanted` tokens."""
    import numpy as np

    beyond = fits & (np.cumsum(fits, axis=1) > wanted[:, None])
    place = beyond.argmax(axis=1)[:, None]
    none = np.uint64(0xFFFFFFFFFFFFFFFF)
    found = np.take_along_axis(words, place, axis=1)
    return np.where(beyond.any(axis=1, keepdims=True), found, none)


def masking_key(*identity: int) -> "np.ndarray":
    """Returns the key of a series of samples, e.g. (seed, split, shard, copy): uint64 [2]."""
    import numpy as np

    return np.random.SeedSequence(identity).generate_state(2, np.uint64)


def random_draws(
    key: "np.ndarray", first_sample: int, num_samples: int, width: int
) -> "np.ndarray":
    """Returns uniform uint32 [num_samples, width]; a row depends on the key and its number only."""
    import numpy as np

    counters = -(-width // DRAWS_PER_COUNTER)  # counter values per sample
    draws_per_sample = counters * DRAWS_PER_COUNTER
    generator = np.random.Philox(key=key, counter=first_sample * counters)
    raw = generator.random_raw(num_samples * draws_per_sample // 2)  # of 64 bits each
    return raw.view(np.uint32).reshape(num_samples, draws_per_sample)[:, :width]
