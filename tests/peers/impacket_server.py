"""Runs impacket's DCE/RPC server with one interface whose operation 0 answers its stub reversed.

Prints its port, then serves until it is killed.
"""

from impacket.dcerpc.v5.rpcrt import DCERPCServer

server = DCERPCServer()
server.addCallbacks(("51c82175-844e-4750-b0d8-ec255555bc06", "1.0"), "1688", {0: lambda stub: stub[::-1]})
server.daemon = False
# It listens only once its thread runs; whoever reads the port may connect at once.
server._sock.listen(10)
print(server.getListenPort(), flush=True)
server.start()
