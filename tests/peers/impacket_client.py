"""Drives impacket's DCE/RPC client against a server on 127.0.0.1 and prints what it saw as one JSON object.

usage: impacket_client.py PORT SCENARIO
"""

import json
import sys

from impacket.dcerpc.v5 import rpcrt, transport
from impacket.dcerpc.v5.dtypes import ULONG
from impacket.dcerpc.v5.ndr import NDRCALL, NDRPOINTER, NDRUniConformantArray
from impacket.uuid import uuidtup_to_bin

KMS = uuidtup_to_bin(("51c82175-844e-4750-b0d8-ec255555bc06", "1.0"))
OTHER = uuidtup_to_bin(("0b3e8f44-5d2a-4c57-9d0e-3c1f6a7b8c9d", "1.0"))
NDR = ("8a885d04-1ceb-11c9-9fe8-08002b104860", "2.0")
NDR64 = ("71710533-beba-4937-8319-b5dbef9ccc36", "1.0")
FEATURES = ("6cb71c2c-9812-4540-0300-000000000000", "1.0")


class BYTES(NDRUniConformantArray):
    item = "c"


class PBYTES(NDRPOINTER):
    referent = (("Data", BYTES),)


class Operation(NDRCALL):
    """The one operation of the interface, marshalled by impacket."""

    opnum = 0
    structure = (("size", ULONG), ("body", BYTES))


class OperationResponse(NDRCALL):
    structure = (("size", ULONG), ("body", PBYTES), ("ErrorCode", ULONG))


def connect(port):
    dce = transport.DCERPCTransportFactory(f"ncacn_ip_tcp:127.0.0.1[{port}]").get_dce_rpc()
    dce.get_rpc_transport().set_connect_timeout(20)
    dce.connect()
    return dce


def operation(dce, body, uuid=None):
    request = Operation()
    request["size"] = len(body)
    request["body"] = [body[i : i + 1] for i in range(len(body))]
    response = dce.request(request, uuid=uuid, checkError=False)
    answer = b"".join(response["body"]) if response["size"] else b""
    return {"size": response["size"], "body": answer.hex(), "hresult": response["ErrorCode"]}


def refusal(action):
    """What impacket says when `action` is refused."""
    try:
        action()
    except rpcrt.DCERPCException as error:
        return str(error)
    return None


def ndr(port):
    dce = connect(port)
    dce.bind(KMS, transfer_syntax=NDR)
    return [operation(dce, b"one"), operation(dce, b"four"), operation(dce, b"")]


def ndr64(port):
    dce = connect(port)
    dce.bind(KMS, transfer_syntax=NDR64)
    return [operation(dce, b"one"), operation(dce, b"four"), operation(dce, b"")]


def alter(port):
    """Two contexts on one connection; both go on working."""
    first = connect(port)
    first.bind(KMS, transfer_syntax=NDR)
    second = first.alter_ctx(KMS)
    refused = refusal(lambda: first.alter_ctx(OTHER))
    # impacket clones the connection's state, so calls go on the clone's context and then on the first one's.
    return {"second": operation(second, b"on the second"), "first": operation(first, b"on the first"), "refused": refused}


def fragmented(port):
    """Requests in many small fragments, responses in as many as a small receive size makes of them."""
    answers = []
    for syntax in (NDR, NDR64):
        dce = connect(port)
        dce.bind(KMS, transfer_syntax=syntax)
        dce.set_max_fragment_size(100)
        answers.append(operation(dce, bytes(range(256)) * 10))
    return answers


def bogus(port):
    """A bind whose first contexts name interfaces that do not exist."""
    dce = connect(port)
    dce.bind(KMS, bogus_binds=3)
    return operation(dce, b"found")


def windows_like(port):
    """NDR, NDR64 and bind-time features in three contexts of one bind."""
    dce = connect(port)
    bind = rpcrt.MSRPCBind()
    for number, syntax in enumerate((NDR, NDR64, FEATURES)):
        item = rpcrt.CtxItem()
        item["ContextID"], item["TransItems"] = number, 1
        item["AbstractSyntax"], item["TransferSyntax"] = KMS, uuidtup_to_bin(syntax)
        bind.addCtxItem(item)
    packet = rpcrt.MSRPCHeader()
    packet["type"], packet["pduData"] = rpcrt.MSRPC_BIND, bind.getData()
    stream = dce.get_rpc_transport()
    stream.send(packet.get_packet())
    ack = rpcrt.MSRPCBindAck(stream.recv())
    results = [(item["Result"], item["Reason"]) for item in ack.getCtxItems()]
    # Call on the context that was accepted.
    dce.set_ctx_id([result for result, _ in results].index(0))
    dce.set_max_tfrag(ack["max_rfrag"])
    dce.transfer_syntax = uuidtup_to_bin(NDR64)
    return {
        "results": results,
        "sizes": [ack["max_tfrag"], ack["max_rfrag"]],
        "address": str(ack["SecondaryAddr"]).rstrip("\0"),
        "answer": operation(dce, b"as windows"),
    }


def refusals(port):
    def authenticated():
        dce = connect(port)
        dce.set_credentials("user", "password", "domain")
        dce.bind(KMS)

    bound = connect(port)
    bound.bind(KMS)

    def unknown_operation():
        bound.call(7, b"")
        bound.recv()

    def unknown_context():
        bound.set_ctx_id(9)
        bound.call(0, b"")
        bound.recv()

    answers = {
        "interface": refusal(lambda: connect(port).bind(OTHER)),
        "authentication": refusal(authenticated),
        "operation": refusal(unknown_operation),
        "context": refusal(unknown_context),
    }
    bound.set_ctx_id(0)
    answers["afterwards"] = operation(bound, b"still here")
    return answers


def with_object(port):
    dce = connect(port)
    dce.bind(KMS)
    return operation(dce, b"object", uuid=bytes(range(16)))


if __name__ == "__main__":
    scenarios = (ndr, ndr64, alter, fragmented, bogus, windows_like, refusals, with_object)
    chosen = {scenario.__name__: scenario for scenario in scenarios}[sys.argv[2]]
    print(json.dumps(chosen(int(sys.argv[1]))))
