"""docs/guide/checkpoints.md says what each container, layout and spelling of weights gives: all of it is measured."""

from itertools import product

import pytest

from settings.compose import ROOT
from tests.models.checkpoints.weights_table import (
    ALPHA,
    LORA_CONTAINERS,
    LORA_NAMES,
    NETWORK_CONTAINERS,
    NETWORK_NAMES,
    RANK,
    lora_cell,
    network_cell,
    table,
)

PAGE = (ROOT / "docs/guide/checkpoints.md").read_text()
NETWORKS = list(product(NETWORK_CONTAINERS, NETWORK_NAMES))
LORAS = list(product(LORA_CONTAINERS, LORA_NAMES))


@pytest.mark.parametrize(("container", "name"), NETWORKS)
def test_a_network_is_read_bit_by_bit(tmp_path, container, name):
    assert network_cell(tmp_path, container, name) == "read"


@pytest.mark.parametrize(("container", "name"), LORAS)
def test_a_lora_is_merged_at_alpha_over_rank_or_at_one_where_no_alpha_is_stated(tmp_path, container, name):
    assert lora_cell(tmp_path, container, name) == ("1" if "no alpha" in container else f"{ALPHA / RANK:g}")


def test_the_page_holds_the_tables_of_what_is_measured_here():
    networks = table("names \\ container", NETWORK_NAMES, NETWORK_CONTAINERS, lambda container, name: "read")
    strengths = {container: "1" if "no alpha" in container else f"{ALPHA / RANK:g}" for container in LORA_CONTAINERS}
    loras = table("names \\ container", LORA_NAMES, LORA_CONTAINERS, lambda container, name: strengths[container])
    assert len(NETWORKS) + len(LORAS) >= 40
    assert networks in PAGE, networks
    assert loras in PAGE, loras
