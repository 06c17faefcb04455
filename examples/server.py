#!/usr/bin/python3
"""An echo server that a kaiso router hands its clients to, without any library.

    ./server.py /run/echo.sock

and in the router's services directory a file "echo" that says "/run/echo.sock passfd". Each client comes on its own
connection, the router out of it: the server tells it the address it comes from, and sends back whatever comes.
"""

import errno
import os
import socket
import struct
import sys
import threading
import time


def serve(client):
    with client:
        try:
            peer = client.getpeername()  # as accept() would have given it
            client.sendall(f"{peer[0]} {peer[1]}\n".encode() if peer else b"\n")
            while data := client.recv(65536):
                client.sendall(data)
        except OSError:
            pass  # the client has left


def receive_clients(router):
    """A router keeps one connection for each of its threads, and sends all its clients over them."""
    with router:
        try:
            router.send(b"+")  # "more than one, please"
        except OSError:
            pass  # a router that sends one client a connection has left; its client is there all the same
        while True:
            try:
                # One byte with one descriptor for each client. It could be just socket.recv_fds(router, 1, 1); but
                # when this process can open no more, that takes the byte, and the client is lost. So we peek, which
                # brings a descriptor as well (recv_fds of Python 3.11 ignores its flags), and take the byte then.
                byte, control, _, _ = router.recvmsg(1, socket.CMSG_LEN(4), socket.MSG_PEEK | socket.MSG_CMSG_CLOEXEC)
                if not byte:
                    return
                if not control:
                    time.sleep(0.01)
                    continue
                router.recv(1)
            except OSError:
                return
            fd, = struct.unpack("i", control[0][2])
            threading.Thread(target=serve, args=[socket.socket(fileno=fd)], daemon=True).start()


def listen(path):
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(path)
    except OSError as error:
        # A file that an earlier server left: nobody answers there.
        with socket.socket(socket.AF_UNIX) as probe:
            if error.errno != errno.EADDRINUSE or probe.connect_ex(path) != errno.ECONNREFUSED:
                raise
        os.unlink(path)
        listener.bind(path)
    listener.listen(128)
    return listener


with listen(sys.argv[1]) as listener:
    while True:
        try:
            router, _ = listener.accept()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ECONNABORTED):
                raise
            time.sleep(0.01)
            continue
        threading.Thread(target=receive_clients, args=[router], daemon=True).start()
