"""How fast a GPU computes, reads and sends; what was measured, what is assumed, and which is which."""

from dataclasses import dataclass, replace

# Of the vendors' peaks, where nothing was measured. The H200's measured 790 of 989 TFLOP/s and 4.3 of 4.8 TB/s are 80
# and 90 %.
_OF_PEAK_FLOPS, _OF_PEAK_BANDWIDTH, _OF_PEAK_LINK = 0.75, 0.9, 0.8


@dataclass(frozen=True)
class Rates:
    """One kind of GPU.

    Attributes:
        name: What it is called.
        half_flops: Operations a second of a large matrix product in bfloat16 or float16.
        float32_flops: The same in float32, without TensorFloat-32.
        bandwidth: Bytes a second, read and written, of its memory.
        memory: Bytes of its memory.
        node_link: Bytes a second that it sends to another GPU of its node.
        network_link: Bytes a second that it sends to another node, over an adapter of its own.
        source: Where the numbers are from.
    """

    name: str
    half_flops: float
    float32_flops: float
    bandwidth: float
    memory: float
    node_link: float
    network_link: float
    source: str

    def flops(self, dtype: str) -> float:
        """Of a large matrix product in `dtype`.

        Raises:
            ValueError: Nothing is known of the type.
        """
        if dtype in ("bfloat16", "float16"):
            return self.half_flops
        if dtype == "float32":
            return self.float32_flops
        raise ValueError(f"seconds are known of float32, bfloat16 and float16, got {dtype!r}. Set `model.dtype`.")

    def ring_link(self, ranks_per_node: int, num_nodes: int) -> float:
        """Bytes a second that each rank sends in a ring over all ranks.

        Between nodes the ring is laid once over each GPU's adapter, so that all of a node's adapters share its traffic.
        """
        if num_nodes == 1:
            return self.node_link
        between = ranks_per_node * self.network_link
        return between if ranks_per_node == 1 else min(self.node_link, between)


# One 400 Gb/s adapter a GPU.
_NETWORK = 50e9 * _OF_PEAK_LINK


def _assumed(
    name: str, half: float, float32: float, bandwidth: float, memory: float, link: float, network: float = _NETWORK
) -> Rates:
    return Rates(
        name=name,
        half_flops=half * 1e12 * _OF_PEAK_FLOPS,
        float32_flops=float32 * 1e12 * _OF_PEAK_FLOPS,
        bandwidth=bandwidth * 1e12 * _OF_PEAK_BANDWIDTH,
        memory=memory * 1e9,
        node_link=link * 1e9 * _OF_PEAK_LINK,
        network_link=network,
        source=f"assumed: {_OF_PEAK_FLOPS:.0%} of the peak arithmetic and {_OF_PEAK_BANDWIDTH:.0%} of the peak "
        "bandwidth that its vendor states",
    )


_H200 = replace(
    _assumed("h200", 989, 67, 4.8, 141, 450),
    half_flops=790e12,
    bandwidth=4.3e12,
    source="arithmetic in bfloat16 and bandwidth as measured once on an H200 (not by this project's benchmarks)",
)
GPUS = {
    rates.name: rates
    for rates in (
        _H200,
        _assumed("h100", 989, 67, 3.35, 80, 450),
        _assumed("a100-80", 312, 19.5, 2.04, 80, 300),
        _assumed("a100-40", 312, 19.5, 1.56, 40, 300),
        _assumed("l40s", 362, 91.6, 0.864, 48, 32),
    )
}
