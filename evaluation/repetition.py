"""Find out whether a video repeats itself: RIFLEx's NoRepeat (2502.15894), by pictures of 8 x 8 colours."""

import numpy

RATE = 4.0
"""Pictures per second that are compared."""
MOST = 14_400
"""Pictures that are compared at most, an hour's: of a longer video every second, third, ... one."""
_LEAST_LAG_S = 2.0
_LEAST_RUN_S = 3.0
"""Length of a stretch that must come again."""
_CLOSENESS = 0.2
"""Distance to the earlier stretch, as a share of how far the video had gone away in between."""
_LEAST_DEPARTURE = 0.02
"""Root mean squared distance below which nothing has changed: a still picture does not repeat itself."""


def repeated_share(pictures: numpy.ndarray, rate: float) -> float:
    """Return the share of pictures [N D], `rate` per second, that replay an earlier stretch in the same order.

    A stretch of 3 s counts, at least 2 s later, of which every picture is five times closer to the earlier one than
    the farthest picture in between. Cost grows with N^2; N is at most MOST.
    """
    count = len(pictures)
    lag, run = max(1, round(_LEAST_LAG_S * rate)), max(2, round(_LEAST_RUN_S * rate))
    if count < lag + run:
        return 0.0
    squares = (pictures.astype(numpy.float64) ** 2).sum(1)
    length = numpy.zeros(count, dtype=numpy.int64)
    repeated = numpy.zeros(count, dtype=bool)
    for early in range(count):
        products = pictures[early:] @ pictures[early]
        distance = numpy.sqrt(numpy.maximum(squares[early:] + squares[early] - 2 * products, 0) / pictures.shape[1])
        departure = numpy.maximum.accumulate(distance)
        close = (distance < _CLOSENESS * departure) & (departure > _LEAST_DEPARTURE)
        close[:lag] = False
        before = length
        length = numpy.zeros(count, dtype=numpy.int64)
        length[early:] = numpy.where(close, numpy.concatenate([[0], before[early:-1]]) + 1, 0)
        for end in numpy.flatnonzero(length >= run):
            repeated[end - run + 1 : end + 1] = True
    return float(repeated.mean())
