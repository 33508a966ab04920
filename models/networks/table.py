"""Table of supported architectures."""

from slidelift.models.networks import (
    edsr,
    espcn,
    fsrcnn,
    msrresnet,
    rcan,
    rrdbnet,
    srcnn,
    srresnet,
    srvgg_compact,
    vdsr,
)
from slidelift.models.networks.spec import NetworkSpec

NETWORKS: dict[str, NetworkSpec] = {
    spec.name: spec
    for spec in (
        srvgg_compact.SPEC,
        rrdbnet.SPEC,
        srcnn.SPEC,
        fsrcnn.SPEC,
        vdsr.SPEC,
        espcn.SPEC,
        srresnet.SPEC,
        msrresnet.SPEC,
        edsr.SPEC,
        rcan.SPEC,
    )
}
