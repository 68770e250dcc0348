"""The options of the comparison: the standard library is enough to list them."""

import argparse
from pathlib import Path

GROUPS = ["step", "own", "products", "digits", "layers"]
PEERS = ["layerwise", "jax", "torch", "candle", "burn", "pcx"]


def options_of(description):
    comma = lambda text: [part.strip() for part in text.split(",") if part.strip()]
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=7, help="rounds, at least 5 (default 7)")
    parser.add_argument("--seconds", type=float, default=0.3, help="time of a series a round (default 0.3)")
    parser.add_argument("--threads", type=lambda t: [int(c) for c in comma(t)], default=[1, 2], help="default 1,2")
    parser.add_argument("--only", type=comma, default=GROUPS, help=f"of {','.join(GROUPS)}")
    parser.add_argument("--peers", type=comma, default=PEERS, help=f"of {','.join(PEERS)}; layerwise is always there")
    parser.add_argument("--nets", type=comma, help="of S,M,D,W (default: all; S and D with --quick)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number there")
    parser.add_argument("--quick", action="store_true", help="short rounds, two nets, the first way of each peer: for a look")
    parser.add_argument("--binary", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--pcx-python", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.rounds = 0.03, 5
    if options.nets is None:
        options.nets = ["S", "D"] if options.quick else ["S", "M", "D", "W"]
    if options.rounds < 5:
        parser.error("at least 5 rounds")
    for given, known in ((options.only, GROUPS), (options.peers, PEERS), (options.nets, ["S", "M", "D", "W"])):
        for name in given:
            if name not in known:
                parser.error(f"{name} is none of {', '.join(known)}")
    if "layerwise" not in options.peers:
        options.peers.insert(0, "layerwise")
    if not {"step", "digits"} & set(options.only):
        used = ["layerwise", "torch"] if "layers" in options.only else ["layerwise"]
        options.peers = [peer for peer in options.peers if peer in used]
    return options
