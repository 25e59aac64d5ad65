"""Programs that the network tests run inside guests and the host. No single quotes: some go through a shell."""

ECHO = """
import socketserver
class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(1):
            self.request.send(data)
socketserver.ThreadingTCPServer.daemon_threads = True
socketserver.ThreadingTCPServer(("", 8000), Handler).serve_forever()
"""
# One connection after the other, each used until it stalls; prints when an answer came and when one stayed away.
TALK = """
import socket, time
answers = None
while True:
    try:
        with socket.create_connection(("10.1.1.11", 8000), 0.05) as talk:
            talk.settimeout(1)
            while True:
                talk.send(b"x")
                talk.recv(1)
                if not answers: print("answers", time.time(), flush=True)
                answers = True
                time.sleep(0.002)
    except OSError:
        if answers: print("silent", time.time() - 1, flush=True)
        answers = False
"""

# Prints the source port of every datagram that comes to a DHCP client's port.
LISTEN = """
import socket
listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
listener.bind(("", 68))
while True:
    print(listener.recvfrom(9)[1][1], flush=True)
"""
# The same datagram from a DHCP server's port and from another one.
OFFER = """
import socket
for port in (67, 6767):
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.bind(("", port))
    sender.sendto(b"offer", ("10.1.1.11", 68))
"""
# A web server on every address, whose page is the client's address.
WHO_ASKS = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.client_address[0].encode())
http.server.HTTPServer(("0.0.0.0", 8099), Handler).serve_forever()
"""
# Asks for the address of web-1: RFC 1035, one question of type A.
RESOLVE = """
import socket, struct
question = struct.pack(">6H", 7, 256, 1, 0, 0, 0) + b"\\x05web-1\\x00" + struct.pack(">2H", 1, 1)
asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asker.settimeout(2)
asker.sendto(question, ("10.1.1.252", 53))
print(socket.inet_ntoa(asker.recv(512)[-4:]))
"""
