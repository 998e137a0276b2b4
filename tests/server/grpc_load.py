"""Many gRPC streams in one thread, by the bytes of HTTP/2 alone: a client library costs more beside a
server that is being measured than the server's own part. One request a connection, read to its end."""

import socket
import struct
import time

DATA, HEADERS, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
INITIAL_WINDOW_SIZE = 4  # a setting
WINDOW = 1 << 24  # bytes; no stream here has as many


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name, value):
    """A header field of HPACK that enters no table."""
    assert len(name) < 127 and len(value) < 127
    return b"\0%c%b%c%b" % (len(name), name, len(value), value)


class Stream:
    """One call; `messages` counts those that came, `ended` says whether its trailers did."""

    def __init__(self, address, path, body):
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = b"".join(literal(*field) for field in (
            (b":method", b"POST"), (b":scheme", b"http"), (b":path", path.encode()),
            (b":authority", b"localhost"), (b"content-type", b"application/grpc"), (b"te", b"trailers")))
        self.socket.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" +
            frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, WINDOW)) +
            frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", WINDOW)) + frame(HEADERS, END_HEADERS, 1, head) +
            frame(DATA, END_STREAM, 1, struct.pack(">BI", 0, len(body)) + body))
        self.socket.setblocking(False)
        self.unread = b""
        self.content = bytearray()
        self.messages, self.ended = 0, False

    def read(self):
        """What has come since."""
        while not self.ended:
            try:
                part = self.socket.recv(1 << 18)
            except BlockingIOError:
                return
            assert part, "the connection ended before the stream"
            self.unread += part
            while len(self.unread) >= 9:
                size, kind, flags, _ = struct.unpack(">IBBI", b"\0" + self.unread[:9])
                if len(self.unread) < 9 + size:
                    break
                self.take(kind, flags, self.unread[9:9 + size])
                self.unread = self.unread[9 + size:]

    def take(self, kind, flags, payload):
        assert kind != GOAWAY, payload
        if kind in (SETTINGS, PING) and not flags & ACK:
            self.socket.sendall(frame(kind, ACK, 0, payload if kind == PING else b""))
        if kind == DATA:
            self.content += payload
            while len(self.content) >= 5:
                size = 5 + struct.unpack(">I", self.content[1:5])[0]
                if len(self.content) < size:
                    break
                del self.content[:size]
                self.messages += 1
        self.ended = self.ended or (kind in (DATA, HEADERS) and bool(flags & END_STREAM))


def read_all(address, path, bodies, pause):
    """Sends each body on a connection of its own and looks every `pause` seconds at what has come; the
    number of messages of each, once all have ended."""
    host, port = address.rsplit(":", 1)
    streams = [Stream((host, int(port)), path, body) for body in bodies]
    try:
        while not all(stream.ended for stream in streams):
            time.sleep(pause)
            for stream in streams:
                stream.read()
    finally:
        for stream in streams:
            stream.socket.close()
    return [stream.messages for stream in streams]
