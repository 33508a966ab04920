"""Every architecture that weights can be loaded for: one line a network."""

from models.networks import rrdbnet, srvgg_compact
from models.networks.spec import NetworkSpec

NETWORKS: dict[str, NetworkSpec] = {
    spec.name: spec
    for spec in (
        srvgg_compact.SPEC,
        rrdbnet.SPEC,
    )
}
