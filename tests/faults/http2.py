"""Calls written by hand, for clients that do what no gRPC library does."""

import socket
import struct
from collections.abc import Iterator

RST_STREAM, SETTINGS, PING, MAX_CONCURRENT_STREAMS = 3, 4, 6, 3
ACKNOWLEDGED = END_STREAM = 1
END_HEADERS = 4


def _frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    head = struct.pack("!I", len(body))[1:]
    return head + bytes([kind, flags]) + struct.pack("!I", stream) + body


def _text(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


class Connection:
    """To a gRPC server; it never lets any data through to itself."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=5)
        no_window = struct.pack("!HI", 4, 0)
        self._socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self._socket.sendall(_frame(SETTINGS, 0, 0, no_window) + _frame(SETTINGS, 1, 0))
        self._next_stream = 1
        self._received = b""
        self._num_reset = 0

    def call(self, path: str, message: bytes, seconds: int, metadata: bytes = b"") -> None:
        """Begins a call with a deadline. `metadata`: a value of any bytes."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        names = (("content-type", "application/grpc"), ("te", "trailers"))
        pairs = (*names, ("grpc-timeout", f"{seconds}S"))
        headers = b"\x83\x86\x04" + _text(path) + b"\x01" + _text("127.0.0.1")
        headers += b"".join(b"\x00" + _text(name) + _text(value) for name, value in pairs)
        if metadata:
            headers += b"\x00" + _text("x-name") + bytes([len(metadata)]) + metadata
        body = b"\x00" + struct.pack("!I", len(message)) + message
        self._socket.sendall(
            _frame(1, END_HEADERS, stream, headers) + _frame(0, END_STREAM, stream, body)
        )

    def begin(self, path: bytes) -> None:
        """Begins a call whose request never comes."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        headers = b"\x83\x86\x04" + bytes([len(path)]) + path + b"\x01" + _text("127.0.0.1")
        for name, value in (("content-type", "application/grpc"), ("te", "trailers")):
            headers += b"\x00" + _text(name) + _text(value)
        self._socket.sendall(_frame(1, END_HEADERS, stream, headers))

    def settings(self) -> dict[int, int]:
        """What the server's first frame says."""
        received = b""
        while len(received) < 9 or len(received) < 9 + int.from_bytes(received[:3]):
            data = self._socket.recv(4096)
            assert data, "the server closed the connection"
            received += data
        assert received[3] == SETTINGS
        body = received[9 : 9 + int.from_bytes(received[:3])]
        return dict(struct.iter_unpack("!HI", body))

    def answer_pings(self) -> None:
        """Those that have come."""
        for kind, flags, body in self._frames():
            if kind == PING and not flags & ACKNOWLEDGED:
                self._socket.sendall(_frame(PING, ACKNOWLEDGED, 0, body))

    def num_reset(self) -> int:
        """Calls that the server has ended by force until now."""
        self.answer_pings()
        return self._num_reset

    def _frames(self) -> Iterator[tuple[int, int, bytes]]:
        """Kind, flags and body of those that have come."""
        self._socket.setblocking(False)
        try:
            self._received += self._socket.recv(1 << 20)
        except BlockingIOError:
            pass
        finally:
            self._socket.setblocking(True)
        while len(self._received) >= 9:
            end = 9 + int.from_bytes(self._received[:3])
            if len(self._received) < end:
                return
            frame, self._received = self._received[:end], self._received[end:]
            self._num_reset += frame[3] == RST_STREAM
            yield frame[3], frame[4], frame[9:]

    def close(self) -> None:
        self._socket.close()
