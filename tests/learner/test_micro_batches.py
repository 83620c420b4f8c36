from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config.rules import check_batch, divisors
from learner.optimizer import micro_batches
from learner.parallel import collectives
from models.errors import ConfigError

sizes, few = st.integers(1, 48), st.integers(1, 6)


@given(size=sizes, ranks=few, micro_batch=st.none() | few)
def test_a_batch_is_refused_exactly_where_shares_or_micro_batches_would_differ_in_size(size, ranks, micro_batch):
    shares = [len(range(rank, size, ranks)) for rank in range(ranks)]
    even = len(set(shares)) == 1
    whole = even and len({len(part) for part in micro_batches(range(shares[0]), micro_batch)}) == 1
    # One part alone has one size: it must be a full micro-batch too.
    if even and whole and (micro_batch is None or shares[0] >= micro_batch):
        check_batch("dmd.batch_size", size, ranks, micro_batch)
    else:
        with pytest.raises(ConfigError) as refused:
            check_batch("dmd.batch_size", size, ranks, micro_batch)
        assert refused.value.key == ("learner.micro_batch" if even else "dmd.batch_size")


@given(size=sizes)
def test_the_ranks_that_are_offered_for_a_batch_are_those_it_divides_over(size):
    offered = {int(number) for number in divisors(size).replace(" or ", ", ").split(", ")}
    assert offered == {ranks for ranks in range(1, size + 1) if size % ranks == 0}


@given(size=sizes, ranks=few, micro_batch=few)
def test_every_place_of_a_batch_is_made_once_and_in_order(monkeypatch_ranks, size, ranks, micro_batch):
    made = []
    for rank in range(ranks):
        monkeypatch_ranks(rank, ranks)
        made += chain(*micro_batches(collectives.own_places(size * ranks), micro_batch))
    assert made == list(range(size * ranks))


@pytest.fixture(scope="module")
def monkeypatch_ranks():
    with pytest.MonkeyPatch.context() as patch:

        def become(rank: int, size: int) -> None:
            patch.setattr(collectives, "rank", lambda: rank)
            patch.setattr(collectives, "size", lambda: size)

        yield become
