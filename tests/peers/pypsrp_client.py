"""Queries a WS-Management server by pypsrp's transport: SCHEME PORT AUTH USER PASSWORD PRODUCT CA_FILE."""

import sys

from pypsrp.wsman import WSMan

from envelopes import run

scheme, port, auth, user, password, product, ca = sys.argv[1:]
wsman = WSMan(
    "127.0.0.1",
    port=int(port),
    ssl=scheme == "https",
    auth=auth,
    username=user,
    password=password,
    cert_validation=ca,
    encryption="auto" if scheme == "https" else "always",
    no_proxy=True,
)


def send(message):
    answer = wsman.transport.send(message.encode())
    return answer.decode() if isinstance(answer, bytes) else answer


run(send, product)
