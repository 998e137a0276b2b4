"""Many HTTP clients in one thread: each asks, reads its answer to the end, and asks again. Cheap enough
to stand beside a server that is being measured."""

import json
import selectors
import socket
import time


class Client:
    """One connection, kept alive. What came of each request goes to `done(client, seconds)`."""

    def __init__(self, load, body):
        self.load, self.body = load, body
        self.socket = socket.create_connection(load.address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.waits_until = None  # before it asks again
        self.asked = None
        self.answer = bytearray()
        load.selector.register(self.socket, selectors.EVENT_READ, self)

    def ask(self):
        body = json.dumps(self.body).encode()
        self.answer.clear()
        self.waits_until, self.asked, self.first = None, time.monotonic(), None
        self.socket.sendall(b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                            b"Content-Length: %d\r\n\r\n" % (self.load.path.encode(), len(body)) + body)

    def read(self):
        try:
            part = self.socket.recv(1 << 16)
        except BlockingIOError:
            return
        if self.asked is None or not part:
            raise AssertionError(f"the connection ended, or says more than was asked: {part[:200]!r}")
        self.answer += part
        if self.first is None and (self.status != 200 or b"data: " in self.answer):
            self.first = time.monotonic()
        if self.whole():
            seconds, self.asked = time.monotonic() - self.asked, None
            self.load.done(self, seconds)

    @property
    def status(self):
        return int(self.answer[9:12] or 0)

    def header(self, name):
        head = bytes(self.answer[:self.answer.find(b"\r\n\r\n")])
        for line in head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b": ")
            if key.lower() == name:
                return value.decode()
        return None

    def content(self):
        return bytes(self.answer[self.answer.find(b"\r\n\r\n") + 4:])

    def whole(self):
        end = self.answer.find(b"\r\n\r\n")
        if end < 0:
            return False
        if self.answer.endswith(b"0\r\n\r\n") and self.header(b"transfer-encoding") == "chunked":
            return True
        length = self.header(b"content-length")
        return length is not None and len(self.answer) - end - 4 >= int(length)


class HttpLoad:
    """`count` clients on "host:port". `body(i)` is what client i asks for; `done` answers how many seconds
    it waits before it asks again."""

    def __init__(self, address, path, count, body, done):
        host, port = address.rsplit(":", 1)
        self.address, self.path = (host, int(port)), path
        self.selector = selectors.DefaultSelector()
        self._done, self._ending = done, False
        self.clients = [Client(self, body(i)) for i in range(count)]

    def done(self, client, seconds):
        wait = self._done(client, seconds)
        client.waits_until = time.monotonic() + wait

    def run(self, seconds, pause=0.0):
        """Asks for so long, then waits for the answers. With a `pause` reads only so often."""
        end = time.monotonic() + seconds
        for client in self.clients:
            client.waits_until = time.monotonic()
        while True:
            now = time.monotonic()
            for client in self.clients:
                if client.waits_until is not None and client.waits_until <= now < end:
                    client.ask()
            if now >= end and all(client.asked is None for client in self.clients):
                return
            waits = [client.waits_until for client in self.clients if client.waits_until is not None]
            timeout = max(0.0, min([0.1, *(at - now for at in waits if now < end)]))
            for key, _ in self.selector.select(timeout):
                key.data.read()
            if pause:
                time.sleep(pause)

    def close(self):
        for client in self.clients:
            client.socket.close()
        self.selector.close()
