"""What the kernel remembers, as conntrack's requests see it: of both protocols and families, in a network of the child's own."""

import json
import os
import subprocess
import sys

PROGRAM = """
import json, socket, subprocess, sys
sys.path.insert(0, {repo!r})
from pyinit.linux import namespaces
from pyinit.linux.conntrack import Conntrack
namespaces.unshare(namespaces.CLONE_FLAGS["net"])
namespaces.loopback_up()
RULES = '''add table inet t
add chain inet t out {{ type nat hook output priority -100; }}
add rule inet t out meta l4proto {{ tcp, udp }} th dport 8081 dnat ip to 127.0.0.2:81
add rule inet t out meta l4proto {{ tcp, udp }} th dport 8081 dnat ip6 to [::1]:81
'''
subprocess.run(["nft", "-f", "-"], input=RULES, text=True, check=True)
told, kept = [], []
for family, own, to in ((socket.AF_INET, "127.0.0.1", "127.0.0.2"), (socket.AF_INET6, "::1", "::1")):
    listener = socket.create_server((to, 81), family=family)
    connection = socket.create_connection((own, 8081))
    receiver, sender = (socket.socket(family, socket.SOCK_DGRAM) for _ in range(2))
    receiver.bind((to, 81))
    for port in (8081, 9999):
        sender.sendto(b"x", (own, port))
    kept += [listener, connection, receiver, sender]
def seen(tracked):
    flows = [flow for bits in (32, 128) for flow in tracked.datagrams(bits)]
    flows += [flow for address in ("127.0.0.2", "127.0.0.1", "::1", "::2", "192.0.2.1") for flow in tracked.answered_by(address)]
    return sorted(set(" ".join(map(str, flow[:6])) for flow in flows))
with Conntrack() as tracked:
    told.append(seen(tracked))
    for flow in tracked.answered_by("127.0.0.2") + tracked.answered_by("::1"):
        if flow.is_translated:
            tracked.forget(flow)
            tracked.forget(flow)
    told.append(seen(tracked))
print(json.dumps(told))
"""


def test_flows_are_found_by_protocol_and_by_who_answers_and_forgotten_one_by_one():
    repo = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(repo=repo)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    before, after = json.loads(done.stdout)
    closed = ["udp 127.0.0.1 9999 127.0.0.1 9999 False", "udp ::1 9999 ::1 9999 False"]
    assert after == closed
    translated = [f"{protocol} {to} 8081 {by} 81 True" for protocol in ("tcp", "udp") for to, by in (("127.0.0.1", "127.0.0.2"), ("::1", "::1"))]
    assert before == sorted([*translated, *closed])
