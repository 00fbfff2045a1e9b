"""Queries a WS-Management server by pywinrm: SCHEME PORT AUTH USER PASSWORD PRODUCT CA_FILE."""

import sys

import winrm.protocol

from envelopes import run

scheme, port, auth, user, password, product, ca = sys.argv[1:]
protocol = winrm.protocol.Protocol(
    endpoint="%s://127.0.0.1:%s/wsman" % (scheme, port),
    transport=auth,
    username=user,
    password=password,
    ca_trust_path=ca,
    message_encryption="auto" if scheme == "https" else "always",
    proxy=None,
)
answers = lambda text: text.decode() if isinstance(text, bytes) else text
run(lambda message: answers(protocol.send_message(message)), product)
