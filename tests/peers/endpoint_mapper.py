"""Calls an endpoint mapper with impacket and prints every answer's bytes, in hex, as one JSON object.

usage: endpoint_mapper.py ADDRESS PORT
"""

import json
import sys

from impacket.dcerpc.v5 import epm, transport
from impacket.uuid import uuidtup_to_bin

# Interfaces that a client may look for; the last does not exist.
WANTED = [
    ("12345778-1234-abcd-ef00-0123456789ab", "0.0"),
    ("12345778-1234-abcd-ef00-0123456789ac", "1.0"),
    ("338cd001-2244-31f1-aaaa-900038001003", "1.0"),
    ("0b3e8f44-5d2a-4c57-9d0e-3c1f6a7b8c9d", "1.0"),
]
NDR = ("8a885d04-1ceb-11c9-9fe8-08002b104860", "2.0")


def connect(address, port):
    dce = transport.DCERPCTransportFactory(f"ncacn_ip_tcp:{address}[{port}]").get_dce_rpc()
    dce.get_rpc_transport().set_connect_timeout(20)
    dce.connect()
    dce.bind(epm.MSRPC_UUID_PORTMAP)
    return dce


def call(dce, opnum, request):
    """The answer's stub, or what impacket says of the fault."""
    try:
        dce.call(opnum, request)
        return dce.recv().hex()
    except Exception as error:
        return str(error)


def lookup(entries):
    request = epm.ept_lookup()
    request["inquiry_type"] = 0
    request["object"] = epm.NULL
    request["Ifid"] = epm.NULL
    request["vers_option"] = 1
    request["max_ents"] = entries
    return request


def ept_map(interface):
    """Asks for `interface` over TCP, at no particular address."""
    floors = [epm.EPMRPCInterface(), epm.EPMRPCDataRepresentation(), epm.EPMProtocolIdentifier()]
    for floor, (uuid, version) in zip(floors, (interface, NDR)):
        binary = uuidtup_to_bin((uuid, version))
        name = "Interface" if floor is floors[0] else "DataRep"
        floor[f"{name}UUID" if name == "Interface" else "DataRepUuid"] = binary[:16]
        floor["MajorVersion"] = int(version.split(".")[0])
        floor["MinorVersion"] = int(version.split(".")[1])
    floors[2]["ProtIdentifier"] = epm.FLOOR_RPCV5_IDENTIFIER
    port, address = epm.EPMPortAddr(), epm.EPMHostAddr()
    port["PortIdentifier"] = 7
    port["IpPort"] = 0
    address["Ip4addr"] = b"\0\0\0\0"
    tower = epm.EPMTower()
    tower["NumberOfFloors"] = 5
    tower["Floors"] = b"".join(floor.getData() for floor in floors) + port.getData() + address.getData()
    request = epm.ept_map()
    request["max_towers"] = 4
    request["map_tower"]["tower_length"] = len(tower)
    request["map_tower"]["tower_octet_string"] = tower.getData()
    return request


def main():
    address, port = sys.argv[1], int(sys.argv[2])
    seen = {}
    # Each on a connection of its own, as KMS clients do, and then all on one.
    for interface in WANTED:
        seen[f"map {interface[0]}"] = call(connect(address, port), 3, ept_map(interface))
    seen["lookup 500"] = call(connect(address, port), 2, lookup(500))
    dce = connect(address, port)
    seen["lookup 3"] = len(call(dce, 2, lookup(3)))
    for interface in WANTED:
        seen[f"again {interface[0]}"] = call(dce, 3, ept_map(interface))
    # Servers let what is behind the parameters be, which makes a request of any length: this one of three fragments to the
    # relay, and longer than any fragment that the relay may send.
    dce = connect(address, port)
    dce.set_max_fragment_size(4000)
    seen["fragments"] = call(dce, 3, ept_map(WANTED[0]).getData() + bytes(9000))
    # A stub that the server cannot read is the server's to refuse.
    seen["bad stub"] = call(connect(address, port), 2, b"\1\2\3")
    print(json.dumps(seen))


main()
