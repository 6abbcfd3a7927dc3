"""Every token's scores in a few kilobytes, so that mixes measured at different times compare paired."""

from __future__ import annotations

import zlib

import numpy as np

from mqnative.measure.scores import TokenScores


def pack_scores(s: TokenScores) -> bytes:
    """One chunk's scores, compressed: four float32 rows of n_scored values, and as many bits."""
    assert s.nll_ref is not None
    assert s.kld is not None
    assert s.p_diff is not None
    assert s.same_top is not None
    rows = np.stack([s.nll[0], s.nll_ref[0], s.kld[0], s.p_diff[0]]).astype("<f4")
    # Bytes of one place lie together: exponents are alike, which is what compresses.
    planes = rows.view(np.uint8).reshape(rows.size, 4).T
    return zlib.compress(planes.tobytes() + np.packbits(s.same_top[0]).tobytes(), 6)


def unpack_scores(data: bytes) -> TokenScores:
    """What `pack_scores` was given, rounded to float32."""
    raw = zlib.decompress(data)
    # 16 bytes and one bit for each token.
    n = len(raw) * 8 // 129
    planes = np.frombuffer(raw[: 16 * n], np.uint8).reshape(4, -1)
    rows = np.ascontiguousarray(planes.T).view("<f4").reshape(4, n).astype(np.float64)
    same = np.unpackbits(np.frombuffer(raw[16 * n :], np.uint8), count=n).astype(bool)
    return TokenScores(rows[0:1], rows[1:2], rows[2:3], rows[3:4], same[None])
